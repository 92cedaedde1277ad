"""The alarms of the daemon's own: a full disk, skipped cycles, a journal set aside, a lost GPU.

Owns which there are, and how one is published. When one begins and ends is for whoever notices it to say.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from edge_rul.adapters.journal import Journal
from edge_rul.core.outgoing import Message, Outgoing, withdrawn

Name = Literal["disk_full", "gpu_given_up", "journal_corrupt", "reload_refused", "skipping"]
NAMES: tuple[Name, ...] = get_args(Name)


class Outbound(Protocol):
    """What goes to a broker's client; `MqttTransport` documents each."""

    connected: bool

    @property
    def connections(self) -> int: ...
    def send(self, messages: list[Message]) -> None: ...


class Watcher(Protocol):
    """Who is told of them; `History` documents it. Must not keep us waiting."""

    def daemon_alarm(self, name: str, active: bool, value: float) -> None: ...


class DaemonAlarms:
    """They belong to the reserved asset `_daemon`."""

    def __init__(self, outgoing: Outgoing, outbound: Outbound, journal: Journal, watcher: Watcher | None) -> None:
        self._outgoing = outgoing
        self._standing: dict[Name, tuple[int, bool, float]] = {}  # name -> (wall, active, value), as published
        self._goes_out: dict[Name, int] = {}  # name -> the number of the connection on which that was told
        self._outbound = outbound
        self._journal = journal
        self._watcher = watcher

    def publish(self, name: Name, wall: int, *, active: bool, value: float) -> None:
        """wall: epoch milliseconds.

        It comes from no entry, so it bears the watermark: a higher seq could overtake answers that are still held back.
        """
        self._standing[name] = wall, active, value
        self._goes_out[name] = self._outbound.connections + (not self._outbound.connected)
        self._outbound.send([self._message(name)])
        if self._watcher is not None:
            self._watcher.daemon_alarm(name, active, value)

    def again(self) -> None:
        """All that stand and were told on an earlier connection, for a broker that has forgotten them."""
        now = self._outbound.connections
        self._outbound.send([self._message(name) for name, told in self._goes_out.items() if told != now])
        self._goes_out = dict.fromkeys(self._standing, now)

    def move(self, outgoing: Outgoing) -> None:
        """From the topics of one configuration to those of another."""
        old = {name: self._message(name) for name in self._standing}
        self._outgoing = outgoing
        for name, message in old.items():
            if (new := self._message(name)).topic != message.topic:
                self._outbound.send([withdrawn(message.topic, message.seq), new])

    def _message(self, name: Name) -> Message:
        wall, active, value = self._standing[name]
        seq = self._journal.watermark
        return self._outgoing.daemon_alarm(name, active=active, value=value, time=wall, seq=seq)
