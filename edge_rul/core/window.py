"""The rings of all assets: the last T readings of each, as a struct of arrays.

Owns the memory and its order. Rows are numbers; which asset a row belongs to, and whether a reading may enter, is
decided in `life`. Knows no asset, no time and no engine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_rul.core.normalise import Array

_FIRST_ROWS = 64


class Rings:
    """Rings of T readings of F inputs. Memory grows by doubling: T x (4 F + 10) bytes a row, 1.9 kB at 30 x 14."""

    def __init__(self, window: int, inputs: int) -> None:
        self._values = np.zeros((_FIRST_ROWS, window, inputs), np.float32)  # (N, T, F)
        self._cycles = np.full((_FIRST_ROWS, window), -1, np.int64)  # (N, T), -1 where empty
        self._held = np.zeros((_FIRST_ROWS, window), np.uint16)  # (N, T) values held in each reading
        self._count = np.zeros(_FIRST_ROWS, np.int64)  # (N,) readings since the row was cleared
        self._window = window

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self._count)
        if rows <= have:
            return
        extra = max(rows, 2 * have) - have
        self._values = np.concatenate([self._values, np.zeros((extra, *self._values.shape[1:]), np.float32)])
        self._cycles = np.concatenate([self._cycles, np.full((extra, self._window), -1, np.int64)])
        self._held = np.concatenate([self._held, np.zeros((extra, self._window), np.uint16)])
        self._count = np.concatenate([self._count, np.zeros(extra, np.int64)])

    def clear(self, row: int) -> None:
        self._count[row] = 0
        self._cycles[row] = -1

    def add(self, row: int, cycle: int, values: Array, held: int) -> None:
        """Append a reading, over the oldest one where the ring is full. values: (F,), all finite."""
        slot = self._count[row] % self._window
        self._values[row, slot] = values
        self._cycles[row, slot] = cycle
        self._held[row, slot] = held
        self._count[row] += 1

    def full(self, row: int) -> bool:
        return bool(self._count[row] >= self._window)

    def newest(self, row: int) -> Array:
        """(F,) a view of the newest reading's values; the row must not be empty."""
        view: Array = self._values[row, (self._count[row] - 1) % self._window]
        return view

    def find(self, row: int, cycle: int) -> Array | None:
        """(F,) a view of the values at `cycle`, or None where the ring does not hold it."""
        slots = np.flatnonzero(self._cycles[row] == cycle)
        return self._values[row, slots[0]] if len(slots) else None

    def oldest_cycle(self, row: int) -> int:
        """The oldest cycle held; the row must not be empty."""
        slot = self._count[row] % self._window if self.full(row) else 0
        return int(self._cycles[row, slot])

    def held(self, row: int) -> int:
        """How many values in the row's window were held."""
        return int(self._held[row, : min(self._count[row], self._window)].sum())

    def copy(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """Write the row's window into `out` (T, F), oldest first; the ring must be full."""
        first = int(self._count[row] % self._window)
        out[: self._window - first] = self._values[row, first:]
        out[self._window - first :] = self._values[row, :first]
