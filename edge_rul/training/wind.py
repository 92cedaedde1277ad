"""Wind-turbine SCADA of EDP's open data, with the logbook of failures, to a table.

Owns the record a turbine every 10 minutes, and what a life is here: from one logged failure of any component to the
next. Source: EDP, Wind Turbine SCADA signals 2017 and Historical failure logbook. Must not know windows or the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_rul.training.columns import Columns, Floats, read
from edge_rul.training.format import Format
from edge_rul.training.parts import Part
from edge_rul.training.table import Index, Mask, Table, table_of_lives

RECORD = 600.0  # seconds
DAY = 86400.0
REPEATED = "repeated_row"


class WindSettings(Format, frozen=True, kw_only=True, tag="edp_scada"):
    """records, failures: the files' names. Inputs are the records' columns.

    recovery_days: records so soon after a failure are dropped: the turbine is being repaired, and its readings are
    those of workers. Records that repeat the one before in every channel fill a hole of the source and are dropped, so
    that `max_gap: 0` excludes windows that span one.
    """

    records: str = "edp_2017h2_continuous.csv.gz"
    failures: str = "failures.csv"
    recovery_days: Annotated[float, Meta(ge=0)] = 3.0

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """See Format.read."""
        files: dict[str, str] = {}
        columns = read(data / self.records, ["time_utc", "turbine", REPEATED, *inputs], files)
        turbine = np.array(columns.texts("turbine"), np.str_)
        time = columns.seconds("time_utc")  # (N,)
        _refuse_disorder(columns, turbine, time)
        life, since, failed = _lives(turbine, time, read(data / self.failures, ["turbine", "time_utc"], files))
        repeated = columns.numbers(REPEATED) == 1  # (N,)
        recovering = since < self.recovery_days * DAY  # (N,)
        keep = ~repeated & ~recovering
        values = np.stack([columns.numbers(name) for name in inputs], axis=1).astype(np.float32)  # (N, F)
        return table_of_lives(
            asset=turbine[keep],
            life=_from_0(turbine[keep], life[keep]),
            cycle=_records(turbine[keep], life[keep], time[keep]),
            inputs=values[keep],
            failed=failed[keep],
            files=files,
            groups={},
            rules={
                "repeated_records_dropped": int(repeated.sum()),
                "after_failure_dropped": int((recovering & ~repeated).sum()),
            },
        )


def _refuse_disorder(columns: Columns, turbine: np.ndarray[tuple[int], np.dtype[np.str_]], time: Floats) -> None:
    back = (turbine[1:] == turbine[:-1]) & (np.diff(time) < RECORD)  # (N - 1,)
    if back.any():
        raise columns.fault(int(back.argmax()) + 1, f"record is less than {RECORD:g} s after the one before")
    begin = np.concatenate([[0], np.flatnonzero(turbine[1:] != turbine[:-1]) + 1])  # (K,) rows
    if twice := [row for i, row in enumerate(begin.tolist()) if turbine[row] in turbine[begin[:i]]]:
        raise columns.fault(twice[0], f"turbine {turbine[twice[0]]} comes again after another one")


def _lives(
    turbine: np.ndarray[tuple[int], np.dtype[np.str_]], time: Floats, logbook: Columns
) -> tuple[Index, Floats, Mask]:
    """(N,) failures logged before the record, (N,) seconds since the last of them, (N,) whether another one follows."""
    when = logbook.seconds("time_utc")
    which = np.array(logbook.texts("turbine"), np.str_)
    life, since, failed = np.zeros(len(time), np.int64), np.full(len(time), np.inf), np.zeros(len(time), np.bool_)
    for name in np.unique(turbine):
        own = turbine == name
        end = time[own].max() + RECORD
        logged = np.sort(when[(which == name) & (when < end)])  # (K,) those before the records too: repairs run on
        past = np.searchsorted(logged, time[own], side="right")  # (n,)
        before = np.concatenate([[-np.inf], logged])[past]  # (n,)
        life[own], since[own], failed[own] = past, time[own] - before, past < len(logged)
    return life, since, failed


def _from_0(turbine: np.ndarray[tuple[int], np.dtype[np.str_]], life: Index) -> Index:
    """(N,) the lives that are left, counted from 0 for each turbine."""
    new = np.concatenate([[False], (turbine[1:] == turbine[:-1]) & (life[1:] != life[:-1])])
    first = np.concatenate([[True], turbine[1:] != turbine[:-1]])
    count = np.cumsum(new)  # (N,)
    base = np.maximum.accumulate(np.where(first, count, 0))
    return (count - base).astype(np.int64)


def _records(turbine: np.ndarray[tuple[int], np.dtype[np.str_]], life: Index, time: Floats) -> Index:
    """(N,) cycles: records since the first that is left of each life."""
    first = np.concatenate([[True], (turbine[1:] != turbine[:-1]) | (life[1:] != life[:-1])])  # (N,)
    begin = time[np.maximum.accumulate(np.where(first, np.arange(len(time)), 0))]  # (N,)
    return np.rint((time - begin) / RECORD).astype(np.int64)
