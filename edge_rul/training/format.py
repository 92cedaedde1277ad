"""What the configurations of all formats have in common.

Owns the keys that say how a data set's cycles become remaining life, which readings are dropped or mended by rule, and
which lives are the test's. A format adds what its files need, and reads them. Must not know windows or the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.errors import ConfigError
from edge_rul.training.detection import DetectionSettings
from edge_rul.training.parts import Part, SplitSettings
from edge_rul.training.table import Mask, Table

Protocol = Literal["all_windows", "last_windows"]
SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
# What else these units are called, in small letters; none of it may pass for a unit that is one a cycle.
OTHERWISE = {
    "seconds": ("seconds", "second", "secs", "sec", "s"),
    "minutes": ("minutes", "minute", "mins", "min"),
    "hours": ("hours", "hour", "hrs", "hr", "h"),
    "days": ("days", "day", "d"),
}


class RowRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of readings that are none. Each is counted in the report.

    zeros:   a reading whose inputs are all 0: keep it, or drop it as the row of a measurement that was not made
    missing: a value that is not there, of an input that does not say it itself: an error with its place, drop the
             reading, or hold the value before it; what a life begins with cannot be held and is dropped
    """

    zeros: Literal["keep", "drop"] = "keep"
    missing: Literal["error", "drop", "hold"] = "error"

    @property
    def rule(self) -> Literal["error", "reject", "hold"]:
        """As a rule of each input."""
        return "reject" if self.missing == "drop" else self.missing


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="format"):
    """seconds_per_cycle: needed where the RUL's unit is one of time. max_gap: missing cycles in a row that a window may
    span; left out, it may span any hole. The bundle's daemon holds as many by default. split: where the files are not
    split already. protocol: which windows of the test lives are judged; only the last one of each, padded where the
    life is shorter, or all full ones. detection: where failures are to be told ahead at all, more than to the day."""

    seconds_per_cycle: Annotated[float, Meta(gt=0)] | None = None
    rows: RowRules = RowRules()
    max_gap: Annotated[int, Meta(ge=0)] | None = None
    split: SplitSettings | None = None
    protocol: Protocol = "all_windows"
    detection: DetectionSettings | None = None

    @property
    def called(self) -> str:
        """Which part of the data set this is, in words."""
        return "" if self.split is None else self.split.words

    @property
    def names_health(self) -> bool:
        """Whether the data set says itself in which health class a reading is."""
        return False

    def column(self, name: str) -> str:
        """What the files call an input."""
        return name

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """All lives in the files, or those of `part` where the files are split; RUL counted in cycles.

        Raises DataError with file:line, and KeyError for an input that the format does not have.
        """
        raise NotImplementedError


def cycles_to(unit: str, seconds_per_cycle: float | None) -> float:
    """How much of a RUL in `unit` one cycle uses up: 1, unless it is a unit of time.

    Raises ConfigError for a unit of time by another name than ours, or without the seconds of a cycle.
    """
    if unit not in SECONDS:
        for ours, names in OTHERWISE.items():
            if unit.strip().lower() in names:
                problem = f"is {unit!r}, expected {ours} for a RUL in time"
                raise ConfigError("load data set", "rul.unit", problem, hint=f"write {ours}")
        return 1.0
    if seconds_per_cycle is None:
        raise ConfigError("load data set", "dataset.seconds_per_cycle", f"is needed where rul.unit is {unit}")
    return seconds_per_cycle / SECONDS[unit]


def tidy(table: Table, rules: RowRules) -> Table:
    """The table without rows that are none, with what was dropped counted in `rules`. Missing values are `clean`'s."""
    counts = dict(table.rules)
    if rules.zeros == "drop":
        zero: Mask = np.all(table.inputs == 0, axis=1)  # (N,)
        counts["all_zero_dropped"] = int(zero.sum())
        table = table.where(~zero)
    return msgspec.structs.replace(table, rules=counts)
