"""The rounds of snapshots: every few minutes the state of each asset that changed, some assets at a time.

Owns when a round begins, what is left of it, when what it made superfluous is deleted, and which assets are idle enough
to be kept on disk alone from then on. Must not know what a state
holds: the core makes it, the journal keeps it.
"""

from __future__ import annotations

from edge_rul.adapters.journal import Journal
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.topic import Asset

_AT_ONCE = 200  # assets between two engine calls
_RETRY_FULL = 1.0  # seconds


class Snapshots:
    """One round at a time. Times are monotonic seconds."""

    def __init__(
        self, pipeline: Pipeline, journal: Journal, every: float, now: float, *, evict_after: float | None = None
    ) -> None:
        """every: seconds between the beginnings of two rounds. evict_after: seconds without a reading after which an
        asset's memory is given up at the end of one."""
        pipeline.lives.bring_back = journal.stored
        self._evict_after = evict_after
        self._pipeline = pipeline
        self._journal = journal
        self._every = every
        self._at = now + every
        self._retry = 0.0
        self._left: list[Asset] = []

    def pause(self, now: float) -> float:
        """Seconds until there is something to do."""
        return 1.0 if self._journal.in_round else max(0.0, self._at - now)

    def step(self, now: float, wall: int) -> bool:
        """A slice of the round that is under way, the beginning of one, or a slice of what one has made superfluous.

        wall: epoch seconds. Returns whether more is to do at once. A full disk does not keep a round from beginning:
        what it makes superfluous is the only room that we can make ourselves.
        """
        if self._left:
            if now >= self._retry:
                some = self._left[:_AT_ONCE]
                states = [(asset, self._pipeline.lives.dump(asset)) for asset in some]
                if self._journal.snapshot(self._pipeline.applied, states):
                    del self._left[:_AT_ONCE]
                    return True
                self._retry = now + _RETRY_FULL
        elif self._journal.in_round:
            if self._journal.end_round(wall=wall) and self._evict_after is not None:
                self._pipeline.lives.evict(round(wall - self._evict_after))
        elif now >= self._at and self._pipeline.idle:
            self._at = now + self._every
            self._journal.begin_round(self._pipeline.applied)
            self._left = list(self._pipeline.lives.changed)
            self._pipeline.lives.changed.clear()
            return True
        return self._journal.trim()
