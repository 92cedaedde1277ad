"""The inbox between the network thread and the worker: messages as they came, bounded in number and bytes.

Owns what becomes of a message that does not fit: at QoS 0 it is dropped and counted; at QoS 1 it and all that follow it
are left unacknowledged, until a new connection makes the broker send them again. Knows no client and no payload.
"""

from __future__ import annotations

import threading
from collections import deque

import msgspec

from edge_rul.core.command import ReplyTo


class Received(msgspec.Struct, frozen=True):
    """A message as it came. connection: counts CONNACKs; an acknowledgement is valid only on its own connection.

    retained: its sender said so; at MQTT 3.1.1, the broker had kept it. reply_to: where its sender waits for an answer,
    at MQTT 5. again: the broker had sent it before, and has no acknowledgement of it (DUP).
    """

    topic: str
    payload: bytes
    qos: int
    mid: int
    connection: int
    retained: bool = False
    reply_to: ReplyTo | None = None
    again: bool = False


class Inbox:
    """Filled by one thread, emptied by another. dropped: at QoS 0. overflowed: messages were left to a new
    connection."""

    def __init__(self, messages: int, size: int) -> None:
        """At most `messages` of `size` bytes in all, or one that is larger alone: it would come again for ever."""
        self._messages_at_most = messages
        self._bytes_at_most = size
        self._lock = threading.Lock()
        self._messages: deque[Received] = deque()
        self._bytes = 0
        self.dropped = 0
        self.overflowed = False

    def put(self, message: Received) -> None:
        size = len(message.payload)
        with self._lock:
            full = len(self._messages) >= self._messages_at_most or (
                len(self._messages) > 0 and self._bytes + size > self._bytes_at_most
            )
            if message.qos == 0:
                if full:
                    self.dropped += 1
                    return
            elif full or self.overflowed:
                self.overflowed = True  # taking later ones in would break their order
                return
            self._messages.append(message)
            self._bytes += size

    def take(self) -> Received | None:
        """The oldest message, or None."""
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= len(message.payload)
            return message

    def reconnected(self) -> None:
        """What was left comes again now."""
        with self._lock:
            self.overflowed = False
