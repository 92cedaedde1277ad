"""How many messages a topic may send: a bucket for each, which fills again as time goes by.

Owns the buckets and when one is forgotten. Must not know what a message holds; time is what the caller's clock says.
"""

from __future__ import annotations

_TOPICS = 65_536  # buckets that are kept; a full one is as good as none
_TELL_EVERY = 10_000  # milliseconds between two refusals of one topic that are worth telling


class Rates:
    """refused: messages, since the start."""

    def __init__(self, per_second: float, burst: int) -> None:
        """per_second: messages that a topic may send for ever. burst: that it may send at once after a rest."""
        self._per_millisecond = per_second / 1000
        self._burst = float(burst)
        self._buckets: dict[str, tuple[float, int]] = {}  # topic -> (messages left, as of then)
        self._told: dict[str, int] = {}  # topic -> when a refusal was told last

    def take(self, topic: str, now: int) -> bool:
        """Whether the topic may send one more. now: epoch milliseconds."""
        left, then = self._buckets.get(topic, (self._burst, now))
        # A clock that was set back gives nothing, and takes nothing.
        left = min(self._burst, left + max(0, now - then) * self._per_millisecond)
        granted = left >= 1.0 - 1e-9  # so that rounding refuses nobody who keeps to the rate
        if topic not in self._buckets and len(self._buckets) >= _TOPICS:
            self._forget(now)
        self._buckets[topic] = (left - 1.0 if granted else left), now
        return granted

    def worth_telling(self, topic: str, now: int) -> bool:
        """Whether this refusal is the topic's first for a while: to tell each would be a flood of its own."""
        told = self._told.get(topic)
        if told is not None and 0 <= now - told < _TELL_EVERY:
            return False
        if len(self._told) >= _TOPICS:
            self._told.clear()
        self._told[topic] = now
        return True

    def _forget(self, now: int) -> None:
        """The buckets that are full again; all, where a flood of names has emptied every one."""
        full = [
            t for t, (left, then) in self._buckets.items() if left + (now - then) * self._per_millisecond >= self._burst
        ]
        for topic in full or list(self._buckets):
            del self._buckets[topic]
