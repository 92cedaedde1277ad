"""The alarms of the daemon's own: a full disk, skipped cycles, a journal set aside, a lost GPU.

Owns how one is published. When one begins and ends is for whoever notices it to say.
"""

from __future__ import annotations

from typing import Protocol

from edge_rul.adapters.journal import Journal
from edge_rul.core.outgoing import Message, Outgoing


class Outbound(Protocol):
    """What goes to a broker's client; `MqttTransport` documents it."""

    def send(self, messages: list[Message]) -> None: ...


class Watcher(Protocol):
    """Who is told of them; `History` documents it. Must not keep us waiting."""

    def daemon_alarm(self, name: str, active: bool, value: float) -> None: ...


class DaemonAlarms:
    """They belong to the reserved asset `_daemon`."""

    def __init__(self, outgoing: Outgoing, outbound: Outbound, journal: Journal, watcher: Watcher | None) -> None:
        self._outgoing = outgoing
        self._outbound = outbound
        self._journal = journal
        self._watcher = watcher

    def publish(self, name: str, wall: int, *, active: bool, value: float) -> None:
        """wall: epoch milliseconds.

        It comes from no entry, so it bears the watermark: a higher seq could overtake answers that are still held back.
        """
        seq = self._journal.watermark
        self._outbound.send([self._outgoing.daemon_alarm(name, active=active, value=value, time=wall, seq=seq)])
        if self._watcher is not None:
            self._watcher.daemon_alarm(name, active, value)
