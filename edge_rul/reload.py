"""A reload: another configuration is read, tried, and put in place between two batches, or refused as a whole.

    IDLE      -> READING    a HUP came; what serves goes on meanwhile
    READING   -> TRYING     the file is valid, and what may not change has not: the broker is asked for new topics
              -> IDLE       refused, and told
    TRYING    -> PLACING    the broker grants them
              -> IDLE       refused, and told; the new subscriptions are given up again
    PLACING   -> IDLE       the parts have the new settings

Owns these stages, what may change while the daemon serves, and how a reload is told. Must not know what a part does
with its settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.board import Board
from edge_rul.bundle import Bundle
from edge_rul.config import Settings, load_settings
from edge_rul.core.outgoing import iso
from edge_rul.core.status import Reloaded
from edge_rul.core.topic import Template
from edge_rul.errors import EdgeRulError
from edge_rul.wiring import build_decoder, build_outgoing, catalogue, check_bundle, filters
from edge_rul.worker import Worker
from edge_rul.yaml_file import Source

if TYPE_CHECKING:
    from edge_rul.adapters.http.server import HttpServer

# Sections that were handed to a thread, a socket or a file of their own. A restart loses nothing.
_FIXED = ("bundle", "engine", "mqtt", "journal", "http", "assets", "windows", "limits")
_RESTART = "systemctl restart edge-rul: nothing is lost, the broker keeps what comes meanwhile"


class Serving(NamedTuple):
    """What serves now, by which file."""

    settings: Settings
    source: Source
    bundle: Bundle


class Stage(Enum):
    IDLE = "idle"
    READING = "reading"
    TRYING = "trying"
    PLACING = "placing"


class Reload:
    """One at a time; a HUP during one asks for another. serving: what is in place."""

    def __init__(
        self,
        serving: Serving,
        *,
        worker: Worker,
        transport: MqttTransport,
        board: Board,
        server: HttpServer | None,
        log: Any,
    ) -> None:
        self.serving = serving
        self._worker = worker
        self._transport = transport
        self._board = board
        self._server = server
        self._log = log
        self._asked = False
        self._stage = Stage.IDLE
        self._read: Serving | EdgeRulError | None = None  # from the reading thread
        self._next = serving
        self._steps: dict[Stage, Callable[[], Stage]] = {
            Stage.IDLE: self._begin,
            Stage.READING: self._try,
            Stage.TRYING: self._judge,
            Stage.PLACING: self._place,
        }

    def ask(self) -> None:
        """A HUP came. Safe in a signal handler."""
        self._asked = True
        self._transport.wake()

    @property
    def under_way(self) -> bool:
        return self._stage is not Stage.IDLE

    def step(self) -> None:
        """Go on where something has come of the last step; never waits."""
        before = None
        while before is not self._stage:
            before, self._stage = self._stage, self._steps[self._stage]()

    # -- the stages: each returns the next one, or itself where it has to wait ----------------------------------------

    def _begin(self) -> Stage:
        if not self._asked:
            return Stage.IDLE
        self._asked, self._read = False, None
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._log.info("reloading", file=str(self.serving.source.path))
        # A slow disk must not stop the worker.
        threading.Thread(target=self._reading, name="reload", daemon=True).start()
        return Stage.READING

    def _reading(self) -> None:
        try:
            self._read = read(self.serving)
        except EdgeRulError as e:
            self._read = e
        except Exception as e:
            self._log.exception("reload_failed")
            self._read = EdgeRulError("reload", str(self.serving.source.path), repr(e))
        self._transport.wake()

    def _try(self) -> Stage:
        if self._read is None:
            return Stage.READING
        if isinstance(self._read, EdgeRulError):
            return self._refuse(str(self._read))
        self._next = self._read
        # From here on a message on a new topic may come, and one on an old topic may still be on its way.
        worker, old = self._worker, self.serving.settings
        worker.decode_by(build_decoder(self._next.settings, self._next.bundle, old.topics.readings))
        self._transport.filters.attempt(filters(self._next.settings.topics))
        return Stage.TRYING

    def _judge(self) -> Stage:
        if (verdict := self._transport.filters.verdict) is None:
            return Stage.TRYING
        if verdict:
            old = self.serving
            self._worker.decode_by(build_decoder(old.settings, old.bundle, self._next.settings.topics.readings))
            self._transport.filters.adopt(filters(old.settings.topics))
            return self._refuse(f"subscribe: {verdict}")
        return Stage.PLACING

    def _place(self) -> Stage:
        settings, outgoing = self._next.settings, build_outgoing(self._next.settings)
        if not self._worker.reconfigure(settings, outgoing):
            return Stage.PLACING  # the disk is full; it is tried again each turn
        logs.configure(settings.log)
        self._board.move(outgoing)
        self._transport.filters.adopt(filters(settings.topics))
        self._transport.on_subscribed()
        if self._server is not None:
            self._server.show(catalogue(settings, self._next.bundle))
        changed = differing(self.serving.settings, settings)
        self.serving = self._next
        self._log.info("reloaded", changed=changed)
        return self._tell(changed, "")

    def _refuse(self, problem: str) -> Stage:
        self._log.error("reload_refused", problem=problem, action="the configuration before goes on")
        return self._tell([], problem)

    def _tell(self, changed: list[str], problem: str) -> Stage:
        now = time.time()
        self._board.put(now, reload=Reloaded(iso(round(now * 1000)) or "", changed, problem))
        self._worker.alarm("reload_refused", active=bool(problem))
        self._board.ready()
        return Stage.IDLE


def read(serving: Serving) -> Serving:
    """The configuration as its file says now. Raises ConfigError where it cannot take the place of `serving`."""
    settings, source = load_settings(serving.source.path)
    old = serving.settings
    for key in _FIXED:
        if getattr(settings, key) != getattr(old, key):
            raise source.error(key, "has changed, and cannot while the daemon serves", _RESTART)
    topics = settings.topics
    if topics.availability != old.topics.availability:
        raise source.error("topics.availability", "has changed, and the broker learns it at a start only", _RESTART)
    if levels(topics.readings[0]) != levels(old.topics.readings[0]):
        problem = "name other levels than before, so that every asset would be another one"
        raise source.error("topics.readings", problem, _RESTART)
    check_bundle(settings, source, serving.bundle)
    return Serving(settings, source, serving.bundle)


def levels(template: str) -> list[str]:
    """The named levels that make an asset's identity, but its name, which a payload may bring too."""
    return sorted(name for name in Template(template).names if name != "asset")


def differing(old: Settings, new: Settings) -> list[str]:
    """The sections in which they differ."""
    return [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
