"""Readings whose sensors send apart: parts put together by cycle or time, with a deadline.

Owns the readings that are open, how many of them an asset may have, and which have waited for too long for the rest of
their parts. A clock decides that, so the decision is an entry: a restart and a look back find it again in its place.
Knows no clock, no ring and no life.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from edge_rul.core.normalise import Mask
from edge_rul.core.payload import Part, Reading
from edge_rul.core.topic import Asset
from edge_rul.errors import Reason

OPEN = 32  # readings of one asset; one more, and the one that was begun first is taken as it is


class Overdue(msgspec.Struct, frozen=True):
    """An entry: what has not come by now of the asset's reading `cycle` is missing."""

    asset: Asset
    cycle: int


class Assembled(msgspec.Struct, frozen=True):
    """A reading of which nothing more is waited for. refused: why it is not used all the same, or None."""

    reading: Reading
    refused: Reason | None


class _Open(msgspec.Struct, array_like=True):
    """A reading of which parts are missing. values: (F,) float32, None where none has come. time: the newest part's."""

    first: Part
    time: int | None
    values: list[float | None]


class Assembly:
    """The open readings of all assets. inputs: F."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._open: dict[Asset, dict[int, _Open]] = {}

    def open(self, asset: Asset) -> list[int]:
        """Their cycles, in the order in which they were begun."""
        return list(self._open.get(asset, ()))

    def put(self, part: Part, hold: Mask) -> list[Assembled] | Reason:
        """The readings that end with it, mostly none or its own; or why it is not used.

        hold: (F,) inputs that may be missing.
        """
        of_asset = self._open.setdefault(part.asset, {})
        reading = of_asset.get(part.cycle)
        if reading is None:
            reading = of_asset[part.cycle] = _Open(part, part.time, [None] * self._inputs)
        elif (there := reading.values[part.input]) is not None:
            return Reason.DUPLICATE if same(there, part.value) else Reason.CONFLICT
        reading.values[part.input] = part.value
        if part.time is not None:
            reading.time = part.time if reading.time is None else max(reading.time, part.time)
        if None not in reading.values:
            return self.close(part.asset, [part.cycle], hold)
        if len(of_asset) > OPEN:
            return self.close(part.asset, [next(iter(of_asset))], hold)
        return []

    def close(self, asset: Asset, cycles: Iterable[int], hold: Mask) -> list[Assembled]:
        """Those of these readings that are open, as they are."""
        ended = []
        of_asset = self._open.get(asset, {})
        for cycle in cycles:
            if (found := of_asset.pop(cycle, None)) is None:
                continue
            values = np.array([math.nan if v is None else v for v in found.values], np.float32)  # (F,)
            first = found.first
            reading = Reading(asset, cycle, found.time, values, first.source, first.received, first.key)
            ended.append(Assembled(reading, Reason.MISSING_INPUT if (np.isnan(values) & ~hold).any() else None))
        if not of_asset:
            self._open.pop(asset, None)
        return ended

    def forget(self, asset: Asset) -> None:
        self._open.pop(asset, None)

    def dump(self, asset: Asset) -> bytes:
        """The asset's open readings as they are stored; empty where it has none."""
        of_asset = self._open.get(asset)
        return msgspec.msgpack.encode(list(of_asset.values())) if of_asset else b""

    def load(self, asset: Asset, blob: bytes) -> None:
        """Take what `dump` gave. Raises ValueError where it is of other inputs."""
        found = msgspec.msgpack.decode(blob, type=list[_Open]) if blob else []
        if any(len(reading.values) != self._inputs for reading in found):
            raise ValueError(f"the open readings of {asset} are not of {self._inputs} inputs")
        self._open[asset] = {reading.first.cycle: reading for reading in found}
        if not found:
            del self._open[asset]


class Deadlines:
    """Since when readings have been open. Times are monotonic seconds."""

    def __init__(self, within: float) -> None:
        """within: seconds from the first part on."""
        self._within = within
        self._since: dict[Asset, dict[int, float]] = {}

    def follow(self, asset: Asset, cycles: Iterable[int], now: float) -> None:
        """These are the asset's open readings now."""
        before = self._since.pop(asset, {})
        if after := {cycle: before.get(cycle, now) for cycle in cycles}:
            self._since[asset] = after

    def over(self, now: float, listening: float) -> list[Overdue]:
        """Those that have been open for too long, each once. listening: since when parts could be heard."""
        found = [
            Overdue(asset, cycle)
            for asset, cycles in self._since.items()
            for cycle, since in cycles.items()
            if now - max(since, listening) > self._within
        ]
        for overdue in found:
            del self._since[overdue.asset][overdue.cycle]
        return found


def same(a: float, b: float) -> bool:
    """Whether two values of a part are: NaN, which says that it is missing, is like itself."""
    return a == b or (math.isnan(a) and math.isnan(b))
