"""The in-memory tail: entries that came in and wait for scoring, numbered by `seq`.

Owns the numbers and the order. Bounded: when it is full, ingest leaves messages where they are, so the queue grows in
the broker and not here. Knows nothing of what an entry holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edge_rul.core.payload import Entry


class Tail:
    """A queue of (seq, entry). `limit` is checked between messages: one message's entries stay together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[tuple[int, Entry]] = deque()
        self.last = 0  # the seq of the newest entry ever appended; 0 before the first

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return len(self._entries) >= self._limit

    def append(self, entries: Sequence[Entry]) -> int:
        """Number and keep the entries. Returns the seq of the newest, which is also that of a message without any."""
        for entry in entries:
            self.last += 1
            self._entries.append((self.last, entry))
        return self.last

    def pop(self) -> tuple[int, Entry] | None:
        """The oldest entry and its seq, or None."""
        return self._entries.popleft() if self._entries else None
