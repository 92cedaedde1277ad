"""The outbox: messages at QoS 1 that wait for the broker, of which a bounded window is in flight.

Owns their order and the window. paho would send all that it was handed at once after a break, whatever the window; so
it is handed no more than fit. Only the worker calls it, but for `acknowledged`. Knows no client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge_rul.core.outgoing import Message


class Outbox:
    """window: how many may be unacknowledged."""

    def __init__(self, publish: Callable[[Message], int], window: int) -> None:
        """publish: hands a message over, and returns its packet id."""
        self._publish = publish
        self._waiting: deque[Message] = deque()
        self._in_flight: dict[int, Message] = {}
        self._acknowledged: deque[tuple[int, str | None]] = deque()  # (packet id, failure), from the network thread
        self.window = window

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Whether no acknowledgement is waited for, or one has come."""
        return bool(self._acknowledged) or not self._in_flight

    @property
    def oldest_seq(self) -> int | None:
        """The seq of the oldest message, or None."""
        in_flight = next(iter(self._in_flight.values()), None)
        waiting = self._waiting[0] if self._waiting else None
        return min((message.seq for message in (in_flight, waiting) if message is not None), default=None)

    @property
    def waiting_seq(self) -> int | None:
        """The seq of the oldest message that was not handed over yet, or None."""
        return self._waiting[0].seq if self._waiting else None

    @property
    def topics(self) -> set[str]:
        """Of all that waits, in flight or not."""
        return {message.topic for message in (*self._in_flight.values(), *self._waiting)}

    def put(self, message: Message) -> None:
        self._waiting.append(message)

    def acknowledged(self, packet_id: int, failure: str | None) -> None:
        """The broker has answered; failure: why it refused. On the network thread."""
        self._acknowledged.append((packet_id, failure))

    def settle(self) -> list[tuple[Message, str]]:
        """Account for what the broker acknowledged. Returns what it refused, and why."""
        refused = []
        while self._acknowledged:
            packet_id, failure = self._acknowledged.popleft()
            message = self._in_flight.pop(packet_id, None)
            if message is not None and failure is not None:
                refused.append((message, failure))
        return refused

    def fill(self) -> None:
        """Publish what fits into the window."""
        while self._waiting and len(self._in_flight) < self.window:
            message = self._waiting.popleft()
            # Without a connection paho keeps a QoS 1 message all the same, so it counts as in flight.
            self._in_flight[self._publish(message)] = message
