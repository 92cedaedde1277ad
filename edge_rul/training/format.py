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

from edge_rul.errors import ConfigError, DataError
from edge_rul.training.parts import Part, SplitSettings
from edge_rul.training.table import Mask, Table

Protocol = Literal["all_windows", "last_windows"]
SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}


class RowRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of readings that are none. Each is counted in the report.

    zeros:   a reading whose inputs are all 0: keep it, or drop it as the row of a measurement that was not made
    missing: a value that is not there: an error with its place, drop the reading, or hold the value before it, as the
             daemon's `inputs.NAME.missing: hold` does; what a life begins with cannot be held and is dropped
    """

    zeros: Literal["keep", "drop"] = "keep"
    missing: Literal["error", "drop", "hold"] = "error"


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="format"):
    """seconds_per_cycle: needed where the RUL's unit is one of time. max_gap: missing cycles in a row that a window may
    span; left out, a window may span any hole, as the daemon's does. split: where the files are not split already.
    protocol: which windows of the test lives are judged; only the last one of each, padded where the life is shorter,
    or all full ones."""

    seconds_per_cycle: Annotated[float, Meta(gt=0)] | None = None
    rows: RowRules = RowRules()
    max_gap: Annotated[int, Meta(ge=0)] | None = None
    split: SplitSettings | None = None
    protocol: Protocol = "all_windows"

    @property
    def called(self) -> str:
        """Which part of the data set this is, in words."""
        return "" if self.split is None else self.split.words

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """All lives in the files, or those of `part` where the files are split; RUL counted in cycles.

        Raises DataError with file:line, and KeyError for an input that the format does not have.
        """
        raise NotImplementedError


def cycles_to(unit: str, seconds_per_cycle: float | None) -> float:
    """How much of a RUL in `unit` one cycle uses up: 1, unless it is a unit of time."""
    if unit not in SECONDS:
        return 1.0
    if seconds_per_cycle is None:
        raise ConfigError("load data set", "dataset.seconds_per_cycle", f"is needed where rul.unit is {unit}")
    return seconds_per_cycle / SECONDS[unit]


def tidy(table: Table, rules: RowRules) -> Table:
    """The table after the rules, with what they did counted in `rules`. Raises DataError for a missing value."""
    counts = dict(table.rules)
    if rules.zeros == "drop":
        zero: Mask = np.all(table.inputs == 0, axis=1)  # (N,)
        counts["all_zero_dropped"] = int(zero.sum())
        table = table.where(~zero)
    missing = np.isnan(table.inputs)  # (N, F)
    if rules.missing == "drop":
        gone: Mask = np.any(missing, axis=1)  # (N,)
        counts["missing_dropped"] = int(gone.sum())
        table = table.where(~gone)
    elif rules.missing == "hold":
        held, known = _held(table, missing)
        counts["missing_held"] = int((missing & known[:, None]).sum())
        counts["missing_dropped"] = int((~known).sum())
        table = msgspec.structs.replace(table, inputs=held).where(known)
    elif missing.any():
        row, column = np.argwhere(missing)[0].tolist()
        where = f"cycle {table.cycle[row]} of {table.asset[row]}"
        hint = "say by dataset.rows.missing what becomes of such readings: drop, or hold"
        raise DataError("load data set", where, f"input {column + 1} is missing", hint=hint)
    if not len(table):
        raise DataError("load data set", "dataset.rows", "the rules leave no reading")
    return msgspec.structs.replace(table, rules=counts)


def _held(table: Table, missing: Mask) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], Mask]:
    """(N, F) with missing values replaced by the life's last before, and (N,) whether there was one for each."""
    row = np.arange(len(table))[:, None]  # (N, 1)
    latest = np.maximum.accumulate(np.where(missing, -1, row), axis=0)  # (N, F) where the value in force came
    starts = table.starts
    begin = np.repeat(starts, np.diff(np.append(starts, len(table))))[:, None]  # (N, 1) first row of the life
    known: Mask = np.all(latest >= begin, axis=1)  # (N,)
    return np.take_along_axis(table.inputs, np.maximum(latest, 0), axis=0), known
