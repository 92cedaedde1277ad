"""Windows of a table, and their labels.

Owns which windows a table has, how a short life is padded, and what RUL and class a window stands for. Must not know
data formats, the network or torch. Windows are rows' numbers; readings are gathered when they are needed, since the
windows of stride 1 hold every reading T times.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_rul.bundle import HealthClass
from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array
from edge_rul.errors import DataError
from edge_rul.training.table import Index, Mask, Table
from edge_rul.training.table import joined as joined_table

UNKNOWN = -1  # the class of a life that was not seen to its end, where its bound does not tell


class Windows(msgspec.Struct, frozen=True):
    """N windows of T readings of a table.

    first: (N,) row of the first reading of each window's life. last: (N,) row of each window's last reading.
    """

    table: Table
    length: int
    first: Index
    last: Index

    def __len__(self) -> int:
        return len(self.last)

    def rows(self, select: Index | slice = slice(None)) -> Index:
        """(n, T) rows of the selected windows, oldest first.

        What would lie before a life's first reading is that first reading again: a short life is padded at the front
        by repeating its first cycle, as if the asset had stood still before.
        """
        steps = np.arange(1 - self.length, 1)  # (T,) ..., -2, -1, 0
        rows: Index = np.maximum(self.last[select, None] + steps, self.first[select, None])  # (n, T)
        return rows

    def raw(self, select: Index | slice = slice(None)) -> Array:
        """(n, T, F) raw values of the selected windows."""
        return self.table.inputs[self.rows(select)]

    def readings(self, select: Index | slice = slice(None), *, before: bool) -> Readings:
        """(n, T) readings of the selected windows. before: with the one before each."""
        return self.table.readings(before=before).at(self.rows(select))

    def keys(self) -> list[tuple[str, int, int]]:
        """(asset, life, cycle) of each window's last reading, which is a prediction's key."""
        t = self.table
        return list(
            zip(t.asset[self.last].tolist(), t.life[self.last].tolist(), t.cycle[self.last].tolist(), strict=True)
        )

    @property
    def padding(self) -> Index:
        """(N,) how many readings of each window are repeats of its life's first."""
        padding: Index = np.maximum(0, self.length - 1 - (self.last - self.first))  # (N,)
        return padding


def full_windows(table: Table, length: int, stride: int = 1) -> Windows:
    """Every window that lies wholly within a life, spans no longer hole than the table's `max_gap`, and holds no value
    for more readings in a row than its `max_hold`, in the table's order.

    With a stride above 1 they are counted back from each life's last reading, so that the end of life, which matters
    most, is never skipped.
    """
    first, last = [], []
    unbroken = _unbroken(table)  # (N,)
    for start, stop in _lives(table):
        ends = np.arange(stop - 1, start + length - 2, -stride, dtype=np.int64)[::-1]  # (n,)
        ends = ends[ends - length + 1 >= unbroken[ends]]
        first.append(np.full(len(ends), start, np.int64))
        last.append(ends)
    nothing = np.zeros(0, np.int64)
    windows = Windows(table, length, np.concatenate([nothing, *first]), np.concatenate([nothing, *last]))
    keep = ~_held_too_long(windows)
    return Windows(table, length, windows.first[keep], windows.last[keep])


def joined(parts: Sequence[Windows]) -> Windows:
    """Windows of several tables as of one; no asset is in two of them."""
    begin = np.cumsum([0, *(len(p.table) for p in parts)]).tolist()  # rows before each table
    first, last = (
        np.concatenate([row + getattr(p, name) for p, row in zip(parts, begin, strict=False)])
        for name in ("first", "last")
    )
    return Windows(joined_table([p.table for p in parts]), parts[0].length, first, last)


def left_out(table: Table, length: int) -> dict[str, int]:
    """Full windows that `full_windows` does not give, by the rule; lives that were not seen to fail, and lives without
    a full window."""
    anyhow = msgspec.structs.replace(table, max_hold=[])
    across = msgspec.structs.replace(anyhow, max_gap=None)
    given, unbroken, every = (len(full_windows(t, length)) for t in (table, anyhow, across))
    return {
        "windows_over_holes_left_out": every - unbroken,
        "windows_held_too_long_left_out": unbroken - given,
        "lives_censored": int(table.is_lower_bound[table.starts].sum()),
        "lives_shorter_than_the_window": int((table.lengths < length).sum()),
    }


def last_windows(table: Table, length: int) -> Windows:
    """The last window of each life, padded where the life is shorter than `length` (the standard test protocol)."""
    lives = _lives(table)
    first = np.array([start for start, _ in lives], np.int64)
    last = np.array([stop - 1 for _, stop in lives], np.int64)
    return Windows(table, length, first, last)


def _unbroken(table: Table) -> Index:
    """(N,) the first row from which on each row is reached without a hole of more than `max_gap` cycles."""
    broken = np.ones(len(table), np.bool_)  # (N,) whether a row does not go on from the one before
    if table.max_gap is None or not len(table):
        return np.zeros(len(table), np.int64)
    broken[1:] = np.diff(table.cycle) > table.max_gap + 1
    unbroken: Index = np.maximum.accumulate(np.where(broken, np.arange(len(table)), 0))  # (N,)
    return unbroken


def _held_too_long(windows: Windows) -> Mask:
    """(N,) whether an input was held for more than the table's `max_hold` of the window's readings in a row."""
    held, rows = windows.table.held, np.arange(len(windows.table))
    found = np.zeros(len(windows), np.bool_)
    for f, limit in enumerate(windows.table.max_hold):
        if held is None or limit is None:
            continue
        run = rows - np.maximum.accumulate(np.where(held[:, f], -1, rows))  # (N,) readings in a row, up to this one
        over = np.concatenate([[0], np.cumsum(run > limit)])  # (N + 1,)
        # Of a run that begins before the window, only the part within counts.
        begin = np.minimum(windows.last + 1 - windows.length + limit, windows.last + 1)  # (n,)
        found |= over[windows.last + 1] > over[begin]
    return found


def _lives(table: Table) -> list[tuple[int, int]]:
    starts = table.starts.tolist()
    return list(zip(starts, [*starts[1:], len(table)], strict=True))


class Labels(msgspec.Struct, frozen=True):
    """What N windows are to answer.

    rul:            (N,) float32, life left after the window's last cycle, capped, in the configuration's unit
    is_lower_bound: (N,) True where the life was not seen to fail, so that it lasts at least `rul` longer
    health:         (N,) class index, or UNKNOWN
    """

    rul: Array
    is_lower_bound: Mask
    health: Index


def labels(windows: Windows, max_rul: float, classes: Sequence[HealthClass]) -> Labels:
    """RUL capped at `max_rul`, and the class: that which the data set names of the window's last reading, or else by
    the thresholds of `classes` the first whose `above` the RUL passes.

    A lower bound tells the class only where it passes the first threshold: more life cannot change that class. Raises
    DataError for a class that is not one of `classes`.
    """
    left = windows.table.rul[windows.last]  # (N,)
    bound = windows.table.is_lower_bound[windows.last]  # (N,)
    if windows.table.health is not None:
        health = _named(windows, windows.table.health[windows.last].tolist(), [c.name for c in classes])
    else:
        health = class_of(left, classes)
        health[bound & (health > 0)] = UNKNOWN
    return Labels(np.minimum(left, np.float32(max_rul)), bound & (left < max_rul), health)


def _named(windows: Windows, told: list[str], classes: list[str]) -> Index:
    """(N,) the index of each window's class; UNKNOWN where it has none."""
    index = {name: i for i, name in enumerate(classes)} | {"": UNKNOWN}
    if wrong := set(told) - set(index):
        asset, _, cycle = windows.keys()[told.index(first := min(wrong))]
        where, problem = f"cycle {cycle} of {asset}", f"its health is {first!r}, expected one of {', '.join(classes)}"
        raise DataError("label", where, problem, hint="an empty cell where the class is not known")
    return np.array([index[name] for name in told], np.int64)


def class_of(rul: Array, classes: Sequence[HealthClass]) -> Index:
    """(N,) RUL -> (N,) class index."""
    thresholds = np.array([c.above for c in classes if c.above is not None], np.float32)
    passed_not: Index = (rul[:, None] <= thresholds).sum(axis=1).astype(np.int64)  # (N,)
    return passed_not
