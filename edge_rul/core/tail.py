"""The in-memory tail: the entries that wait for scoring, or the first of them where the journal holds more.

Owns their order and its own bound. When it is full the newest entries are left to the journal, from where the caller
refills it once it is empty. Knows nothing of what an entry holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from edge_rul.core.entry import Entry


class Numbered(msgspec.Struct, frozen=True):
    """An entry with its place in the journal. fleeting: it came at QoS 0, so it is answered only once it is durable."""

    seq: int
    entry: Entry
    fleeting: bool = False


class Tail:
    """A queue of numbered entries, at most `limit`. last: the seq of the newest entry ever offered."""

    def __init__(self, limit: int, last: int = 0) -> None:
        self._limit = limit
        self._entries: deque[Numbered] = deque()
        self._taken = last  # the newest that was kept here
        self.last = last

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> int:
        """The seq up to which entries were kept here; what follows has to be refilled."""
        return self._taken

    @property
    def behind(self) -> bool:
        """Whether it is empty although the journal holds more."""
        return not self._entries and self._taken < self.last

    def rewind(self, seq: int) -> None:
        """Begin behind `seq` again; what follows has to be refilled."""
        self._entries.clear()
        self._taken = seq

    def append(self, entries: Iterable[Numbered]) -> None:
        """Offer the newest entries. Those that do not fit, or follow one that did not, are left to the journal."""
        for numbered in entries:
            if self._taken == self.last and len(self._entries) < self._limit:
                self._entries.append(numbered)
                self._taken = numbered.seq
            self.last = numbered.seq

    def refill(self, entries: Iterable[Numbered]) -> None:
        """Keep entries that follow `position`, read from the journal."""
        for numbered in entries:
            self._entries.append(numbered)
            self._taken = numbered.seq

    def pop(self, durable: int) -> Numbered | None:
        """The oldest entry, or None. durable: seq up to which entries are committed; a fleeting one waits for it."""
        if not self._entries or (self._entries[0].fleeting and self._entries[0].seq > durable):
            return None
        return self._entries.popleft()
