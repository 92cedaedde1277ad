"""A reload: another configuration is read, tried, and put in place between two batches, or refused as a whole.

    IDLE      -> READING    a HUP came; what serves goes on meanwhile
    READING   -> TRYING     the file is valid, what may not change has not, and another bundle or engine is open and has
                            reproduced the golden windows: the broker is asked for new topics
              -> IDLE       refused, and told
    TRYING    -> CHANGING   the broker grants them: the change of bundle is an entry of the journal
              -> IDLE       refused, and told; the new subscriptions are given up again
    CHANGING  -> PLACING    all that came before is answered by the old bundle, and the new one answers
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

from edge_rul import bundle as bundles
from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.board import Board
from edge_rul.bundle import Bundle
from edge_rul.config import Settings, load_settings
from edge_rul.core.outgoing import iso
from edge_rul.core.status import Reloaded
from edge_rul.core.topic import Template
from edge_rul.engines import Engine, model_of, verify
from edge_rul.engines.choose import gpu_losses, open_configured
from edge_rul.engines.waiting import EVERY, extending
from edge_rul.errors import EdgeRulError, EngineError
from edge_rul.succession import Answerer, unlike
from edge_rul.wiring import (
    build_decoder,
    build_outgoing,
    catalogue,
    check_bundle,
    filters,
    labels,
    serving_fields,
)
from edge_rul.worker import Worker
from edge_rul.yaml_file import Source

if TYPE_CHECKING:
    from edge_rul.adapters.http.server import HttpServer

# Sections that were handed to a thread, a socket or a file of their own. A restart loses nothing.
_FIXED = ("candidate", "mqtt", "journal", "http", "assets", "windows", "limits")
_RESTART = "systemctl restart edge-rul: nothing is lost, the broker keeps what comes meanwhile"


class Serving(NamedTuple):
    """What serves now, by which file."""

    settings: Settings
    source: Source
    bundle: Bundle
    engine: Engine
    anew: str = ""  # why the windows have to begin anew for this; "" where they stay


class Stage(Enum):
    IDLE = "idle"
    READING = "reading"
    TRYING = "trying"
    CHANGING = "changing"
    PLACING = "placing"


class Reload:
    """One at a time; a HUP during one asks for another. serving: what is in place. restarts: the process has to begin
    anew with the file, which is valid, as its windows cannot go on."""

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
        self._before = serving
        self.restarts = False
        self._failure = ""  # of a bundle that was put in, as it was told
        self._steps: dict[Stage, Callable[[], Stage]] = {
            Stage.IDLE: self._begin,
            Stage.READING: self._try,
            Stage.TRYING: self._judge,
            Stage.CHANGING: self._change,
            Stage.PLACING: self._place,
        }

    def ask(self) -> None:
        """A HUP came. Safe in a signal handler."""
        self._asked = True
        self._transport.wake()

    def step(self) -> None:
        """Go on where something has come of the last step; never waits."""
        before = None
        while before is not self._stage:
            before, self._stage = self._stage, self._steps[self._stage]()

    # -- the stages: each returns the next one, or itself where it has to wait ----------------------------------------

    def _begin(self) -> Stage:
        if self._worker.failure != self._failure:
            return self._fall_back()
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
            with extending(systemd.notify, "reloading", first=EVERY):  # an engine may have to be built
                self._read = read(self.serving, self._log)
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
        if self._next.anew:
            self._log.warning("restarting", reason=self._next.anew)
            self._next.engine.close()
            self.restarts = True
            return Stage.READING  # the end of this process
        if self._next.engine is not self.serving.engine:
            try:
                verify(self._next.engine, self._next.bundle)  # once more, in the thread that will use it
            except EngineError as e:
                return self._refuse(str(e))
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
        if self._next.engine is not self.serving.engine:
            self._worker.change_bundle(self._answerer(self._next))
        return Stage.CHANGING

    def _change(self) -> Stage:
        there = self._next.engine in (self.serving.engine, self._worker.answerer.engine)
        return Stage.PLACING if there or self._worker.failure else Stage.CHANGING

    def _place(self) -> Stage:
        settings, outgoing = self._next.settings, build_outgoing(self._next.settings)
        if not self._worker.reconfigure(settings, outgoing, self._next.bundle.manifest.ranges):
            return Stage.PLACING  # the disk is full; it is tried again each turn
        logs.configure(settings.log)
        self._board.move(outgoing)
        self._transport.filters.adopt(filters(settings.topics))
        self._transport.on_subscribed()
        changed = differing(self.serving.settings, settings)
        if self._next.bundle.sha256 != self.serving.bundle.sha256 and "bundle" not in changed:
            changed.insert(0, "bundle")  # another one at the same place
        self._before, self.serving = self.serving, self._next
        self._show()
        self._log.info("reloaded", changed=changed)
        return self._tell(changed, "")

    def _fall_back(self) -> Stage:
        """The new bundle's engine failed at its first windows: the one before answers them, and goes on."""
        self._failure = self._worker.failure
        if not self._failure:
            return Stage.IDLE
        before = self._before
        self._worker.change_bundle(self._answerer(before))
        self.serving = self.serving._replace(bundle=before.bundle, engine=before.engine)
        self._show()
        return self._refuse(self._failure)

    def _answerer(self, serving: Serving) -> Answerer:
        model = model_of(serving.bundle, serving.engine, self._board.status.journal)
        return Answerer(serving.engine, model, serving.bundle.manifest.transform)

    def _show(self) -> None:
        """What serves, on the board, the pages and the metrics."""
        now = self.serving
        lost = gpu_losses(now.settings.engine, now.source.path.parent)
        self._board.put(time.time(), **serving_fields(now.bundle, now.engine, lost))
        if self._server is not None:
            info = labels(now.bundle, now.engine, self._board.status.journal)
            self._server.show(catalogue(now.settings, now.bundle), info, getattr(now.engine, "gpu_memory", None))

    def _refuse(self, problem: str) -> Stage:
        if self._next.engine is not self.serving.engine:
            self._next.engine.close()
        self._next = self.serving
        self._log.error("reload_refused", problem=problem, action="the configuration before goes on")
        return self._tell([], problem)

    def _tell(self, changed: list[str], problem: str) -> Stage:
        now = time.time()
        self._board.put(now, reload=Reloaded(iso(round(now * 1000)) or "", changed, problem))
        self._worker.alarm("reload_refused", active=bool(problem))
        self._board.ready()
        return Stage.IDLE


def read(serving: Serving, log: Any) -> Serving:
    """The configuration as its file says now, with another bundle or engine open where it wants one.

    Raises ConfigError, BundleError or EngineError where it cannot take the place of `serving`.
    """
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
    bundle = bundles.load(source.file("bundle", settings.bundle))
    check_bundle(settings, source, bundle)
    anew = unlike(serving.bundle.manifest, bundle.manifest)
    if anew and not settings.service.restart_windows:
        hint = "service.restart_windows: true lets all windows begin anew"
        raise source.error("bundle", f"the windows of {serving.bundle.manifest.name} cannot go on in it: {anew}", hint)
    if bundle.sha256 == serving.bundle.sha256 and settings.engine == old.engine:
        return Serving(settings, source, serving.bundle, serving.engine)
    engine = open_configured(settings.engine, bundle, source.path.parent, lambda text: log.info("engine", note=text))
    return Serving(settings, source, bundle, engine, anew)


def levels(template: str) -> list[str]:
    """The named levels that make an asset's identity, but its name, which a payload may bring too."""
    return sorted(name for name in Template(template).names if name != "asset")


def differing(old: Settings, new: Settings) -> list[str]:
    """The sections in which they differ."""
    return [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
