"""The loop: turns of the worker until a signal, what is told on the way, and the drain.

Owns the signals, how often statistics go out, and the order of an end. Must not know how anything was made.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from edge_rul.adapters import systemd
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.adapters.systemd import Watchdog
from edge_rul.board import Board
from edge_rul.progress import Progress
from edge_rul.reload import Reload
from edge_rul.worker import Worker

if TYPE_CHECKING:
    from edge_rul.adapters.http.metrics import Metrics

_FIRST_CONNECTION = 10.0  # seconds for it before READY
_PUBLISHED_EVERY = 5.0  # seconds between two messages of statistics
_LOGGED_EVERY = 60.0
_CLOSING = 4.0  # seconds beyond the drain that the manager is asked for


class Loop:
    """From the first connection to the last commit, in the process's main thread."""

    def __init__(
        self,
        *,
        worker: Worker,
        transport: MqttTransport,
        board: Board,
        progress: Progress,
        metrics: Metrics | None,
        reload: Reload,
        log: Any,
    ) -> None:
        self._worker = worker
        self._transport = transport
        self._board = board
        self._progress = progress
        self._metrics = metrics
        self._watchdog = Watchdog()
        self._log = log
        self._reload = reload
        self._stops = 0  # signals that ask for the end
        self._stood = ""  # what stood still at the last turn
        self._publish_at = self._log_at = 0.0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second one ends the process at once. SIGHUP: reload."""
        signal.signal(signal.SIGHUP, lambda *_: self._reload.ask())
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._transport.start()
        self._transport.attempted.wait(_FIRST_CONNECTION)
        self._progress.serving = True
        self._log.info("ready", serving=self._board.status.words)
        self._board.ready()
        busy = False
        while not (self.stopped or self._reload.restarts):
            self._transport.wait(0.0 if busy else self._worker.pause())  # under load too: it tells of what ended it
            busy = self._worker.step()
            self._worker.tick()
            self._reload.step()
            self._tell(time.monotonic())
        self._progress.serving = False
        # A handler would be gone where the process begins anew, and a HUP then be the end; what is ignored stays so.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._drain()

    @property
    def stopped(self) -> bool:
        """Whether a signal asked for the end: that a reload wants the process to begin anew counts no more then."""
        return self._stops > 0

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stops += 1
        if self._stops > 1:
            os._exit(128 + number)
        self._transport.wake()

    def _tell(self, now: float) -> None:
        """Each turn, whoever has to know that it was one; now and then, how it goes."""
        transport, progress = self._transport, self._progress
        progress.connected, progress.full = transport.connected, self._worker.full
        for part, at in (("worker", now), ("network loop", transport.turned), ("publisher", transport.drained)):
            progress.moved(part, at)
        if not (stands := progress.alive()):
            self._watchdog.feed(now)
        elif not self._stood:
            self._log.error("stands_still", problem=stands, action="the watchdog is fed no more")
        self._stood = stands
        self._board.tell()
        if now >= self._publish_at:
            self._publish_at = now + _PUBLISHED_EVERY
            statistics = self._worker.statistics()
            transport.send([self._board.outgoing.statistics(statistics)])
            candidate = None if self._worker.candidate is None else self._worker.candidate.state
            self._board.put(time.time(), candidate=candidate)
            if self._metrics is not None:
                self._metrics.update(statistics)
                self._metrics.candidate = candidate
        if now >= self._log_at:
            self._log_at = now + _LOGGED_EVERY
            self._log_statistics()

    def _drain(self) -> None:
        """Take in nothing more, answer what the deadline allows, and leave a session that persists."""
        worker, seconds = self._worker, self._reload.serving.settings.service.drain_seconds
        if not self._reload.restarts:
            systemd.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((seconds + _CLOSING) * 1e6)}")
        self._log.info("stopping", lag=worker.lag, unpublished=worker.unpublished)
        deadline = time.monotonic() + seconds
        while worker.step(intake=False) and time.monotonic() < deadline:
            self._watchdog.feed(time.monotonic())
        worker.commit()  # what was taken in is durable and acknowledged before we go
        self._transport.close(deadline)
        worker.commit()  # with the watermark of what the broker has acknowledged by now
        self._log_statistics()
        self._log.info("stopped")

    def _log_statistics(self) -> None:
        values = msgspec.structs.asdict(self._worker.statistics())
        self._log.info("statistics", **{k: v for k, v in values.items() if k not in ("schema", "ts")})
