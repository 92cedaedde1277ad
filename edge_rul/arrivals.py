"""When entries came: how long the oldest has waited for the engine, and for its answer to reach the broker.

Owns the stamps of arrival, a few a second however many entries come. Knows an entry only by its seq, and no clock.
"""

from __future__ import annotations

from collections import deque

_GRAIN = 0.1  # seconds between two stamps that are kept


class Arrivals:
    """Stamps in order of seq. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, float]] = deque()  # (seq, time) of what is not applied
        self._unanswered: deque[tuple[int, float]] = deque()  # the same, whose answers are not acknowledged

    def came(self, seq: int, now: float) -> None:
        """Entries up to `seq` came now."""
        _stamp(self._waiting, seq, now)
        _stamp(self._unanswered, seq, now)

    def applied(self, upto: int) -> None:
        _forget(self._waiting, upto)

    def answered(self, upto: int) -> None:
        """The broker has acknowledged all answers up to this seq, and that is on disk."""
        _forget(self._unanswered, upto)

    def waited(self, now: float) -> float:
        """Seconds that the oldest entry has waited which is not applied."""
        return _age(self._waiting, now)

    def unanswered(self, now: float) -> float:
        """Seconds since the oldest entry came which is not answered."""
        return _age(self._unanswered, now)


def _stamp(stamps: deque[tuple[int, float]], seq: int, now: float) -> None:
    """Keep when `seq` came; what comes within a grain shares its first stamp, or a long lag would fill the memory."""
    if stamps and now - stamps[-1][1] < _GRAIN:
        now = stamps.pop()[1]
    stamps.append((seq, now))


def _forget(stamps: deque[tuple[int, float]], upto: int) -> None:
    while stamps and stamps[0][0] <= upto:
        stamps.popleft()


def _age(stamps: deque[tuple[int, float]], now: float) -> float:
    return now - stamps[0][1] if stamps else 0.0
