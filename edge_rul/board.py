"""The board: what serves, told to the broker, retained, and to the service manager, each time that it changes.

Owns what was told last. Must not know how it came to be so: whoever changes it, says it here.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from edge_rul.adapters import systemd
from edge_rul.adapters.journal import Journal
from edge_rul.core.outgoing import Message, Outgoing, iso, withdrawn
from edge_rul.core.status import Status


class Outbound(Protocol):
    """What goes to a broker's client; `MqttTransport` documents each."""

    connected: bool

    @property
    def connections(self) -> int: ...
    def send(self, messages: list[Message]) -> None: ...


class Board:
    """status: as it stands; `put` changes it, `tell` publishes. outgoing: where to."""

    def __init__(self, outgoing: Outgoing, outbound: Outbound, journal: Journal, status: Status) -> None:
        self.outgoing = outgoing
        self._outbound = outbound
        self._journal = journal
        self.status = status
        self._told: tuple[Status, int] | None = None
        self._said = ""

    def put(self, wall: float, **fields: Any) -> None:
        """Fields of the status that may have changed. wall: epoch seconds."""
        changed = msgspec.structs.replace(self.status, **fields)
        if changed != self.status:
            self.status = msgspec.structs.replace(changed, ts=iso(round(wall * 1000)) or "")

    def move(self, outgoing: Outgoing) -> None:
        """From the topics of one configuration to those of another."""
        old, self.outgoing = self.outgoing.status(self.status, self._journal.watermark), outgoing
        if outgoing.status(self.status, old.seq).topic != old.topic:
            self._told = None
            self._outbound.send([withdrawn(old.topic, old.seq)])

    def tell(self) -> None:
        """Publish the status where it is not what was published last, or not on this connection: a broker may forget.

        It comes from no entry, so it bears the watermark. Without a connection it waits here, and not in the outbox.
        """
        connected = self._outbound.connected
        if connected and self._told != (now := (self.status, self._outbound.connections)):
            self._told = now
            self._outbound.send([self.outgoing.status(self.status, self._journal.watermark)])
        self._say()

    def ready(self) -> None:
        """Say that it serves, after a start or a reload."""
        self._said = ""
        self._say("READY=1")

    def _say(self, *more: str) -> None:
        line = f"serving {self.status.words}{'' if self._outbound.connected else '; not connected to the broker'}"
        if line != self._said:
            self._said = line
            systemd.notify(*more, f"STATUS={line}")
