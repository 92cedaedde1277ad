"""RUL over the cycles of one asset, in a bounded number of points.

Owns the points and their thinning: the whole of the newest life stays, ever coarser the longer it is, and of the lives
before what still fits. Knows no alarm and no file.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

POINTS = 200  # that are kept at most: about what a chart on a screen can show
_PACKED = struct.Struct("<iqfff")
_NAN = float("nan")


class Point(NamedTuple):
    """RUL after a cycle of a life. low, high: its interval, NaN where it has no such end."""

    life: int
    cycle: int
    rul: float
    low: float
    high: float


class Trace(msgspec.Struct):
    """Points in order of (life, cycle). stride: cycles from one point of the newest life to the next. first: the newest
    life's first cycle. packed: the points, 24 bytes each, as ten thousand assets have two million of them."""

    stride: int = 1
    first: int = 0
    packed: bytearray = msgspec.field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.packed) // _PACKED.size

    def points(self) -> list[Point]:
        return [Point(*values) for values in _PACKED.iter_unpack(self.packed)]

    def tail(self, count: int) -> list[Point]:
        """The last `count` points at most."""
        return [Point(*values) for values in _PACKED.iter_unpack(self.packed[-count * _PACKED.size :])]

    def put(self, life: int, cycle: int, rul: float, low: float | None = None, high: float | None = None) -> None:
        """A prediction. One that is older than the last only corrects the point of its own cycle, if that was kept."""
        packed = _PACKED.pack(life, cycle, rul, _NAN if low is None else low, _NAN if high is None else high)
        if not self.packed:
            self.first = cycle
            self.packed += packed
            return
        last = self._at(len(self) - 1)
        if (life, cycle) <= last[:2]:
            self._correct(life, cycle, packed)
        elif life != last.life:
            self.stride, self.first = 1, cycle
            self.packed += packed
        elif (last.cycle - self.first) % self.stride:
            self.packed[-_PACKED.size :] = packed  # the last one stood for the present only
        else:
            self.packed += packed
        if len(self) > POINTS:
            self._thin()

    def change(self, cycles: int) -> float | None:
        """By how much RUL changed over the last `cycles` of the newest life; None where it is younger."""
        index = len(self) - 1
        if index < 0:
            return None
        last = self._at(index)
        while index >= 0 and (point := self._at(index)).life == last.life:
            if (span := last.cycle - point.cycle) >= cycles:
                return (last.rul - point.rul) * cycles / span
            index -= 1
        return None

    def check(self) -> None:
        """Raises ValueError where what was loaded are not whole points."""
        if len(self.packed) % _PACKED.size or self.stride < 1:
            raise ValueError(
                f"{len(self.packed)} bytes with stride {self.stride} are no points of {_PACKED.size} bytes"
            )

    def _at(self, index: int) -> Point:
        return Point(*_PACKED.unpack_from(self.packed, index * _PACKED.size))

    def _correct(self, life: int, cycle: int, packed: bytes) -> None:
        for index in range(len(self) - 1, -1, -1):
            key = self._at(index)[:2]
            if key == (life, cycle):
                self.packed[index * _PACKED.size : (index + 1) * _PACKED.size] = packed
            if key <= (life, cycle):
                return

    def _thin(self) -> None:
        """Give up the oldest quarter where it is of earlier lives, else every second point."""
        points = self.points()
        last = points[-1]
        earlier = sum(point.life != last.life for point in points)
        if earlier:
            points = points[min(earlier, POINTS // 4) :]
        while len(points) > POINTS:
            self.stride *= 2
            points = [p for p in points[:-1] if (p.cycle - self.first) % self.stride == 0] + [last]
        self.packed = bytearray().join(_PACKED.pack(*point) for point in points)
