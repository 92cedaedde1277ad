"""A reload: another configuration is read, tried, and put in place between two batches, or refused as a whole.

    IDLE      -> READING    a HUP came; what serves goes on meanwhile
    READING   -> TRYING     the file is valid, what may not change has not, and another bundle or engine is open and has
                            reproduced the golden windows: the broker is asked for new topics
              -> IDLE       refused, and told
    TRYING    -> CHANGING   the broker grants them: the change of bundle is an entry of the journal
              -> IDLE       refused, and told; the new subscriptions are given up again
    CHANGING  -> PLACING    all that came before is answered by the old bundle, and the new one answers
    PLACING   -> IDLE       the parts have the new settings

A bundle that fails at its first windows afterwards has given its place back to the one before; that is told here too.

Owns these stages, and how a reload is told. What may change stands in `reread`. Must not know what a part does with its
settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.board import Board
from edge_rul.core.outgoing import iso
from edge_rul.core.status import Reloaded
from edge_rul.engines import model_of, verify
from edge_rul.engines.cuda import FatalCudaError
from edge_rul.engines.waiting import EVERY, extending
from edge_rul.errors import EdgeRulError, EngineError
from edge_rul.reread import Serving, changes, read
from edge_rul.succession import Answerer
from edge_rul.wiring import build_decoder, build_outgoing, filters, serving_fields
from edge_rul.wiring_http import catalogue, labels
from edge_rul.worker import Worker

if TYPE_CHECKING:
    from edge_rul.adapters.http.server import HttpServer


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
        self._before = serving  # with the engine before
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
        if self._stage not in (Stage.CHANGING, Stage.PLACING) and self._worker.failure != self._failure:
            self._fall_back()
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
        if isinstance(self._read, FatalCudaError):
            raise self._read  # what serves may compute on the same GPU, and its context is lost too
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
        if not self._worker.reconfigure(settings, outgoing):
            return Stage.PLACING  # not yet; it is tried again each turn
        logs.configure(settings.log)
        self._board.move(outgoing)
        self._transport.filters.adopt(filters(settings.topics))
        self._transport.on_subscribed()
        changed = list(dict.fromkeys(c.key.partition(".")[0] for c in changes(self.serving.settings, settings)))
        if self._next.bundle.sha256 != self.serving.bundle.sha256 and "bundle" not in changed:
            changed.insert(0, "bundle")  # another one at the same place
        if self._next.engine is not self.serving.engine:
            self._before = self.serving
        self.serving = self._next
        self._show()
        self._log.info("reloaded", changed=changed)
        return self._tell(changed, "")

    def _fall_back(self) -> None:
        """The new bundle's engine failed at its first windows: the one before has answered them, and goes on."""
        self._failure = self._worker.failure
        if not self._failure:
            return  # another one was put in since
        self._worker.record_bundle()
        failed, before = self.serving, self._before
        self.serving = failed._replace(bundle=before.bundle, engine=before.engine, lost=before.lost)
        if self._stage is not Stage.TRYING:  # then the decoder is already the next one's
            self._worker.decode_by(build_decoder(failed.settings, before.bundle, before.settings.topics.readings))
        self._show()
        action = f"{before.bundle.manifest.name} answers again, and the other settings hold"
        self._refused(f"{failed.bundle.manifest.name} failed at its first windows: {self._failure}", action)

    def _answerer(self, serving: Serving) -> Answerer:
        manifest = serving.bundle.manifest
        model = model_of(serving.bundle, serving.engine, self._board.status.journal)
        return Answerer(serving.engine, model, manifest.transform, manifest.ranges)

    def _show(self) -> None:
        """What serves, on the board, the pages and the metrics."""
        now = self.serving
        self._board.put(time.time(), **serving_fields(now.bundle, now.engine, now.lost))
        self._worker.alarm("gpu_given_up", active=now.lost > 0, value=float(now.lost))
        if self._server is not None:
            info = labels(now.bundle, now.engine, self._board.status.journal)
            self._server.show(catalogue(now.settings, now.bundle), info, getattr(now.engine, "gpu_memory", None))

    def _refuse(self, problem: str) -> Stage:
        if self._next.engine is not self.serving.engine:
            self._next.engine.close()
        self._next = self.serving
        return self._refused(problem, "the configuration before goes on")

    def _refused(self, problem: str, action: str) -> Stage:
        self._log.error("reload_refused", problem=problem, action=action)
        return self._tell([], problem)

    def _tell(self, changed: list[str], problem: str) -> Stage:
        now = time.time()
        self._board.put(now, reload=Reloaded(iso(round(now * 1000)) or "", changed, problem))
        if self._server is not None:
            self._server.refused(problem)
        self._worker.alarm("reload_refused", active=bool(problem))
        self._board.ready()
        return Stage.IDLE
