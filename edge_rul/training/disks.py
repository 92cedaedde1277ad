"""Backblaze drive statistics to a table.

Owns the daily SMART rows in Backblaze's own layout, of any year: date, serial_number, model, failure, smart_N_raw, with
whatever columns beside; one file a day, or several days in one. A reading is a drive's day. Source: Backblaze, Hard
Drive Data and Stats. Must not know windows or the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_rul.errors import DataError
from edge_rul.training.columns import read
from edge_rul.training.format import Format
from edge_rul.training.parts import Part
from edge_rul.training.table import Table, table_of_lives

DAY = 86400.0
KEYS = ("date", "serial_number", "model", "failure")


class DisksSettings(Format, frozen=True, kw_only=True, tag="backblaze"):
    """files: names or patterns in the directory, as `*.csv` for Backblaze's folder of days. model: only these drives.

    A drive's group is its role: `failed` where its last row says so, `healthy` where it is still there on the last day
    of all, else `censored`. Only a failed drive's life is known to its end; the others' are lower bounds. Inputs are
    the SMART columns.
    """

    files: Annotated[list[str], Meta(min_length=1)]
    model: str | None = None

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """See Format.read."""
        hashes: dict[str, str] = {}
        paths = sorted({path for pattern in self.files for path in data.glob(pattern)})
        if not paths:
            hint = "--data names the directory with the daily files"
            raise DataError("load data set", str(data), f"has no {' or '.join(self.files)}", hint=hint)
        serials: list[str] = []
        days, failure, values = [], [], []
        for path in paths:
            columns = read(path, [*KEYS, *inputs], hashes)
            keep = [self.model in (None, model) for model in columns.texts("model")]
            serials += [s for s, kept in zip(columns.texts("serial_number"), keep, strict=True) if kept]
            days.append(columns.seconds("date")[keep] / DAY)
            failure.append(columns.numbers("failure")[keep] == 1)
            values.append(np.stack([columns.numbers(name) for name in inputs], axis=1)[keep])  # (n, F)
        if not serials:
            raise DataError("load data set", str(data), f"has no drive of model {self.model}")
        return _table(np.array(serials, np.str_), np.concatenate(days), failure, values, hashes)


def _table(
    serial: np.ndarray[tuple[int], np.dtype[np.str_]],
    day: np.ndarray[tuple[int], np.dtype[np.float64]],
    failure: list[np.ndarray[tuple[int], np.dtype[np.bool_]]],
    values: list[np.ndarray[tuple[int, int], np.dtype[np.float64]]],
    hashes: dict[str, str],
) -> Table:
    names, drive = np.unique(serial, return_inverse=True)  # (D,), (N,)
    order = np.lexsort((day, drive))  # (N,)
    drive, date = drive[order], day[order].astype(np.int64)
    again = (np.diff(drive) == 0) & (np.diff(date) == 0)  # (N - 1,)
    if again.any():
        problem = f"drive {names[drive[again.argmax()]]} has two rows of one day"
        raise DataError("load data set", ", ".join(sorted(hashes)), problem)
    first = np.searchsorted(drive, np.arange(len(names)))  # (D,)
    last = np.append(first[1:], len(drive)) - 1  # (D,)
    failed = np.concatenate(failure)[order][last]  # (D,)
    healthy = ~failed & (date[last] == date.max())
    groups = ["failed" if f else "healthy" if h else "censored" for f, h in zip(failed, healthy, strict=True)]
    return table_of_lives(
        asset=names[drive],
        life=np.zeros(len(drive), np.int64),
        cycle=date - date[first][drive],
        inputs=np.concatenate(values)[order].astype(np.float32),
        failed=failed[drive],
        files=hashes,
        groups=dict(zip(names.tolist(), groups, strict=True)),
    )
