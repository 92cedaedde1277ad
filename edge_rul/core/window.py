"""The rings of all assets: the last readings of each in order of cycle, as a struct of arrays.

Owns the memory, its order, and what a window is: the last T rows that end at a reading, where a short gap is filled by
holding the reading before it, and so is a missing value; and how many cycles lie between two readings. A window is a
function of the readings in the ring and not of their order of arrival. Rows are numbers; which asset a row belongs to,
and whether a reading may enter, is decided in `life`. Knows no asset, no clock and no engine.

A ring's readings all bear numbers, or are all keyed by their event times: then `cycle` is the time, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array, Index

_FIRST_ROWS = 64
NEVER = -1  # the revision of a reading whose window was never answered
_LAST_REVISION = int(np.iinfo(np.int16).max)
_NO_TIME = -(2**63)


class Window(msgspec.Struct, frozen=True):
    """T rows that end at one reading. readings: (T,), with the one before each where a feature is a change.

    held: values of its readings that were missing. missing: cycles that never came between its first and last, or since
    the reading before its first where that one counts. unit: by how much `cycle` grows in a cycle: 1 where it is a
    number, else the milliseconds of a cycle.
    """

    readings: Readings
    held: int
    missing: int
    unit: int = 1

    def same(self, other: Window | None) -> bool:
        if other is None or (self.held, self.missing) != (other.held, other.missing):
            return False
        own, others = (msgspec.structs.astuple(window.readings) for window in (self, other))
        return all(np.array_equal(a, b) for a, b in zip(own, others, strict=True) if a is not None)


class Rings:
    """Rings of T + max_late + max_gap + 1 readings of F inputs. Memory grows by doubling, 4 F + 18 bytes a reading."""

    def __init__(
        self,
        window: int,
        inputs: int,
        *,
        max_late: int = 0,
        max_gap: int = 0,
        max_hold: Sequence[int | None] = (),
        changes: bool = False,
        seconds_per_cycle: float | None = None,
        restart: bool = False,
    ) -> None:
        """max_late: readings that may be newer than a late one. max_gap: cycles that may be held. max_hold: for each
        input, readings in a row for which a full window may hold it. changes: give the reading before each one too.
        restart: a window begins behind a longer gap, instead of spanning it as if it were not there.
        seconds_per_cycle: of readings that are keyed by time; None: each is the next cycle, whenever it comes."""
        self.window = window
        self.inputs = inputs
        self.max_late = max_late
        self.max_gap = max_gap
        self._max_hold = np.array([window if limit is None else limit for limit in max_hold or [None] * inputs])  # (F,)
        self._changes = changes
        self._restart = restart
        self._cycle_ms = math.inf if seconds_per_cycle is None else seconds_per_cycle * 1000
        self._size = window + max_late + max_gap + 1  # so that a reading lies before each window of a full ring
        self._values = np.zeros((_FIRST_ROWS, self._size, inputs), np.float32)  # (N, R, F), NaN where missing
        self._cycles = np.zeros((_FIRST_ROWS, self._size), np.int64)  # (N, R), ascending
        self._times = np.zeros((_FIRST_ROWS, self._size), np.int64)  # (N, R) event times in epoch milliseconds
        self._revisions = np.full((_FIRST_ROWS, self._size), NEVER, np.int16)  # (N, R)
        self._count = np.zeros(_FIRST_ROWS, np.int64)  # (N,)
        self._by_time = np.zeros(_FIRST_ROWS, np.bool_)  # (N,)

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self._count)
        if rows <= have:
            return
        extra = max(rows, 2 * have) - have
        self._values = np.concatenate([self._values, np.zeros((extra, *self._values.shape[1:]), np.float32)])
        self._cycles = np.concatenate([self._cycles, np.zeros((extra, self._size), np.int64)])
        self._times = np.concatenate([self._times, np.zeros((extra, self._size), np.int64)])
        self._revisions = np.concatenate([self._revisions, np.full((extra, self._size), NEVER, np.int16)])
        self._count = np.concatenate([self._count, np.zeros(extra, np.int64)])
        self._by_time = np.concatenate([self._by_time, np.zeros(extra, np.bool_)])

    def clear(self, row: int, *, by_time: bool = False) -> None:
        """Begin the row anew. by_time: what it will hold is keyed by time."""
        self._count[row], self._by_time[row] = 0, by_time

    def count(self, row: int) -> int:
        return int(self._count[row])

    def cycles(self, row: int) -> Index:
        """(n,) a view of the cycles held, ascending."""
        return self._cycles[row, : self._count[row]]

    def find(self, row: int, cycle: int) -> tuple[int, bool]:
        """Where `cycle` stands or would stand, and whether it is there."""
        cycles = self.cycles(row)
        position = int(np.searchsorted(cycles, cycle))
        return position, position < len(cycles) and int(cycles[position]) == cycle

    def reading(self, row: int, position: int) -> Array:
        """(F,) a view of a reading as it came, NaN where a value was missing."""
        view: Array = self._values[row, position]
        return view

    def time(self, row: int, position: int) -> int | None:
        """The reading's event time, or None where it had none."""
        time = int(self._times[row, position])
        return None if time == _NO_TIME else time

    def insert(self, row: int, position: int, cycle: int, time: int | None, values: Array) -> int:
        """Put a reading at `position`; a full ring loses its oldest. Returns where the reading then stands.

        values: (F,), NaN where missing; the oldest reading of a ring has to be complete.
        """
        count = int(self._count[row])
        ring = self._values[row]
        columns = (ring, self._cycles[row], self._times[row], self._revisions[row])
        if count == self._size:
            _lend(ring[:2])
            for array in columns:
                array[: position - 1] = array[1:position]
            position -= 1
        else:
            for array in columns:
                array[position + 1 : count + 1] = array[position:count]
            self._count[row] = count + 1
        new = (values, cycle, _NO_TIME if time is None else time, NEVER)
        for array, value in zip(columns, new, strict=True):
            array[position] = value
        return position

    def revise(self, row: int, position: int) -> int:
        """The next revision of the reading's answer, from 0. The last that there is stays: behind it lies NEVER."""
        revision = self._revisions[row, position] = min(int(self._revisions[row, position]) + 1, _LAST_REVISION)
        return revision

    def answered(self, row: int) -> tuple[int, int] | None:
        """Where the newest reading stands whose window was answered, and the revision of that; None without any."""
        answered = np.flatnonzero(self._revisions[row, : self._count[row]] != NEVER)
        return (position := int(answered[-1]), int(self._revisions[row, position])) if len(answered) else None

    def filled(self, row: int, position: int) -> int:
        """How many of the T rows there are that end at `position`, whatever they hold."""
        return len(self._rows(row, position))

    def restarts(self, gap: int) -> bool:
        """Whether a window begins anew behind so many missing cycles."""
        return self._restart and gap > self.max_gap

    def window_at(self, row: int, position: int) -> Window | None:
        """The window that ends at `position`; None while there are fewer than T rows, or where they hold an input for
        longer than they may."""
        rows = self._rows(row, position)  # (T,)
        if len(rows) < self.window:
            return None
        values = self._values[row, : position + 1]  # (n, F)
        missing = np.isnan(values)
        first = int(rows[0])
        held = 0
        if missing.any():
            here = np.arange(position + 1)[:, None]  # (n, 1)
            latest = np.maximum.accumulate(np.where(missing, 0, here), axis=0)  # (n, F) where the value in force came
            held = int(missing[first:].sum())
            # Of a run that begins before the window, only the part within counts.
            if (here - np.maximum(latest, first - 1) > self._max_hold)[first:].any():
                return None
            values = np.take_along_axis(values, latest, axis=0)
        before = max(first - 1, 0) if self._changes else first
        absent = self._between(row, before, position)
        unit = self._unit(row, first, position)
        if not self._changes:
            return Window(Readings(values[rows]), held, absent, unit)
        readings = Readings(values[rows], values[np.maximum(rows - 1, 0)], self._elapsed(row, rows))
        return Window(readings, held, absent, unit)

    def gap(self, row: int, position: int) -> int:
        """Cycles that are missing between the reading and the one before it."""
        return self._between(row, position - 1, position) if position else 0

    def _apart(self, row: int, last: int) -> Index:
        """(last + 1,) cycles from the reading before to each, 0 at the first."""
        apart = np.zeros(last + 1, np.int64)
        apart[1:] = np.diff(self._cycles[row, : last + 1])
        if self._by_time[row]:
            # To the nearest cycle, and at least one: two readings are never the same cycle.
            apart = np.minimum(apart, np.maximum(np.rint(apart / self._cycle_ms), 1)).astype(np.int64)
        return apart

    def _between(self, row: int, first: int, last: int) -> int:
        """Cycles that are missing between two readings of the ring, from neighbour to neighbour."""
        if self._by_time[row]:
            span = int(self._apart(row, last)[first + 1 :].sum())
        else:
            span = int(self._cycles[row, last] - self._cycles[row, first])
        return span - (last - first)

    def _unbroken(self, row: int, first: int, last: int) -> bool:
        """Whether no cycle is missing between two readings, as far as their own keys tell."""
        if self._by_time[row]:
            return math.isinf(self._cycle_ms)
        return int(self._cycles[row, last] - self._cycles[row, first]) == last - first

    def _unit(self, row: int, first: int, last: int) -> int:
        """See `Window`. Where nobody said how long a cycle is, as far as these readings are apart, on average."""
        if not self._by_time[row]:
            return 1
        if math.isfinite(self._cycle_ms):
            return round(self._cycle_ms)
        return max(1, int(self._cycles[row, last] - self._cycles[row, first]) // max(1, last - first))

    def _elapsed(self, row: int, rows: Index) -> Index:
        """(T, 2) cycles and milliseconds since the reading before each, 0 where there is none or it is not known."""
        before = np.maximum(rows - 1, 0)  # (T,)
        times = self._times[row]
        apart = self._apart(row, int(rows[-1]))[rows]  # (T,)
        timed = (times[rows] != _NO_TIME) & (times[before] != _NO_TIME)  # (T,)
        milliseconds = np.where(timed, times[rows] - times[before], 0)  # (T,)
        elapsed: Index = np.maximum(np.stack([apart, milliseconds], axis=-1), 0)  # (T, 2)
        return elapsed

    def _rows(self, row: int, position: int) -> Index:
        """(at most T,) which reading each row of the window shows; one of a short gap shows the reading before it."""
        first = max(0, position + 1 - self.window)
        if (self.max_gap == 0 and not self._restart) or self._unbroken(row, first, position):
            return np.arange(first, position + 1)
        gaps = self._apart(row, position)[1:] - 1  # (position,)
        times = np.ones(position + 1, np.int64)
        times[:-1] += np.where(gaps <= self.max_gap, gaps, 0)
        rows = np.repeat(np.arange(position + 1), times)
        if self._restart and len(long := np.flatnonzero(gaps > self.max_gap)):
            rows = rows[rows > long[-1]]
        return rows[-self.window :]

    def dump(self, row: int) -> tuple[bytes, bytes, bytes, bytes]:
        """The row's cycles, times, revisions and values, little-endian."""
        n = int(self._count[row])
        return (
            self._cycles[row, :n].astype("<i8").tobytes(),
            self._times[row, :n].astype("<i8").tobytes(),
            self._revisions[row, :n].astype("<i2").tobytes(),
            self._values[row, :n].astype("<f4").tobytes(),
        )

    def load(
        self, row: int, cycles: bytes, times: bytes, revisions: bytes, values: bytes, *, by_time: bool = False
    ) -> None:
        """Take what `dump` gave, perhaps of a larger ring, of which the newest readings are kept. ValueError if odd.

        by_time: see `clear`.
        """
        found = (np.frombuffer(cycles, "<i8"), np.frombuffer(times, "<i8"), np.frombuffer(revisions, "<i2"))
        rows = np.frombuffer(values, "<f4").reshape(-1, self._values.shape[2]).astype(np.float32)  # (n, F)
        if {len(column) for column in found} != {len(rows)}:
            raise ValueError(f"{[len(column) for column in found]} cycles, times and revisions of {len(rows)} readings")
        keep = min(len(rows), self._size)
        self._count[row], self._by_time[row] = keep, by_time
        if keep:
            self._cycles[row, :keep], self._times[row, :keep], self._revisions[row, :keep] = (c[-keep:] for c in found)
            _lend(rows[: len(rows) - keep + 1])
            self._values[row, :keep] = rows[-keep:]


def _lend(rows: Array) -> None:
    """What all but the last lend to it by holding: that must not go with them. rows: (n, F), NaN where missing."""
    for before, after in pairwise(rows):
        np.copyto(after, before, where=np.isnan(after))
