"""What a reading means for its asset: the next cycle, one that was there already, a late one, or a new life.

Owns the assets, their lives and the judgement of a reading; feeds the rings. A life is an asset's run from new or
overhauled to the next overhaul, counted from 0. Knows no clock: time is the readings' own.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.core.window import Rings
from edge_rul.errors import Reason


class Applied(msgspec.Struct, frozen=True):
    """A reading that entered its asset's window. new_life: the number of the life that it ended, or None.

    gap: cycles that are missing before it. due: whether the window is full, so that it wants a prediction.
    """

    row: int
    life: int
    ended: int | None
    gap: int
    due: bool


class _Life(msgspec.Struct):
    """Where an asset stands. The row of its ring never changes. empty: no reading since the life began.

    since, old_cycle: what is older than `since` and not beyond `old_cycle` belongs to a life before.
    """

    row: int
    number: int = 0
    first_cycle: int = -1
    last_cycle: int = -1
    last_time: int | None = None
    empty: bool = True
    since: int | None = None
    old_cycle: int = -1


class Lives:
    """All assets that were heard of, at most `limit`."""

    def __init__(self, rings: Rings, limit: int) -> None:
        self._rings = rings
        self._limit = limit
        self._lives: dict[Asset, _Life] = {}

    def __len__(self) -> int:
        return len(self._lives)

    def apply(self, reading: Reading) -> Applied | Reason:
        """Put the reading into its window, or say why not."""
        life = self._lives.get(reading.asset)
        if life is None:
            if len(self._lives) >= self._limit:
                return Reason.TOO_MANY_ASSETS
            if np.isnan(reading.values).any():
                return Reason.NOTHING_TO_HOLD
            life = self._lives[reading.asset] = _Life(len(self._lives))
            self._rings.reserve(len(self._lives))
            return self._enter(life, reading, None)
        verdict = self._judge(life, reading)
        if isinstance(verdict, Reason):
            return verdict
        fresh = verdict or life.empty
        if fresh and np.isnan(reading.values).any():
            return Reason.NOTHING_TO_HOLD
        ended = life.number if verdict else None
        if verdict:
            self._end(life, reading.time)
        return self._enter(life, reading, ended)

    def reset(self, asset: Asset) -> tuple[int, int] | None:
        """End the asset's life by command: the next life's number, the old one's last cycle; None where none ended."""
        life = self._lives.get(asset)
        if life is None or life.empty:
            return None
        self._end(life, None if life.last_time is None else life.last_time + 1)
        return life.number, life.last_cycle

    def _judge(self, life: _Life, reading: Reading) -> bool | Reason:
        """True: it begins a new life. False: it is the next reading of this one. Otherwise why it is not used."""
        older = life.since is not None and reading.time is not None and reading.time < life.since
        if older and reading.cycle <= life.old_cycle:
            return Reason.OLD_LIFE
        if life.empty or reading.cycle > life.last_cycle:
            return False
        there = self._rings.find(life.row, reading.cycle)
        hole = there is None and reading.cycle > self._rings.oldest_cycle(life.row)
        # A cycle that fills a hole is late whatever its time says; only after that does a newer time mean an overhaul.
        newer = reading.time is not None and life.last_time is not None and reading.time > life.last_time
        if newer and not hole and reading.cycle < life.last_cycle:
            return True
        if there is not None:
            sent = ~np.isnan(reading.values)
            return Reason.DUPLICATE if np.array_equal(there[sent], reading.values[sent]) else Reason.CONFLICT
        return Reason.OLD_LIFE if reading.cycle < life.first_cycle else Reason.LATE

    def _end(self, life: _Life, since: int | None) -> None:
        self._rings.clear(life.row)
        life.since, life.old_cycle = since, max(life.old_cycle, life.last_cycle)
        life.number += 1
        life.empty = True
        life.last_time = None

    def _enter(self, life: _Life, reading: Reading, ended: int | None) -> Applied:
        values, held = reading.values, 0
        if (missing := np.isnan(values)).any():
            values = np.where(missing, self._rings.newest(life.row), values)
            held = int(missing.sum())
        gap = 0
        if life.empty:
            life.first_cycle = reading.cycle
            life.empty = False
        else:
            gap = reading.cycle - life.last_cycle - 1
        self._rings.add(life.row, reading.cycle, values, held)
        life.last_cycle = reading.cycle
        if reading.time is not None and (life.last_time is None or reading.time > life.last_time):
            life.last_time = reading.time
        return Applied(life.row, life.number, ended, gap, self._rings.full(life.row))
