"""The daemon: start, loop, signals, drain.

With its `wiring` and its `worker` the only room that sees core and adapters together.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from edge_rul import __version__
from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.config import load_settings
from edge_rul.core.outgoing import Outgoing
from edge_rul.engines.choose import gpu_losses
from edge_rul.engines.waiting import EVERY, extending
from edge_rul.errors import EXIT_OK
from edge_rul.progress import Progress
from edge_rul.starts import Starts
from edge_rul.wiring import (
    Subscriptions,
    build_outgoing,
    build_pipeline,
    build_transport,
    check_bundle,
    filters,
    open_engine_and_bundle,
    open_history,
    open_http,
    state_directory,
)
from edge_rul.worker import Worker

if TYPE_CHECKING:
    from edge_rul.adapters.http.server import HttpServer

_PUBLISHED_EVERY = 5.0  # seconds between two messages of statistics
_LOGGED_EVERY = 60.0
_CLOSING = 4.0  # seconds beyond the drain that the manager is asked for


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def run(path: Path) -> int:
    """Run until a signal or a fatal error. Returns the exit code; raises EdgeRulError."""
    settings, source = load_settings(path)
    logs.configure(settings.log)
    log = structlog.get_logger()
    # An engine that has to be built takes minutes. A start that is soon over says nothing of it.
    with extending(systemd.notify, "opening the engine", first=EVERY):
        bundle, engine = open_engine_and_bundle(settings, source, lambda text: log.info("engine", note=text))
    check_bundle(settings, source, bundle)
    state = state_directory(settings, source)
    subscriptions = Subscriptions(state)
    transport = build_transport(settings, source, log, subscriptions.load())
    with engine, Journal(state, settings.journal, inputs=[i.name for i in bundle.manifest.inputs]) as journal:
        log.info(
            "verified",
            bundle=bundle.manifest.name,
            sha256=bundle.sha256[:12],
            engine=f"{engine.name} {engine.version} {engine.precision}",
            golden_windows=len(bundle.golden.rul),
        )
        outgoing, progress = build_outgoing(settings), Progress()
        info = {
            "version": __version__,
            "bundle": bundle.manifest.name,
            "bundle_sha256": bundle.sha256,
            "engine": engine.name,
            "engine_version": engine.version,
            "precision": engine.precision,
            "journal": journal.id,
        }
        starts = Starts(state)
        history = open_history(settings, state, log)
        server = open_http(
            settings,
            source,
            bundle,
            engine,
            history,
            info=info,
            starts=starts.counts,
            ready=progress.ready,
            alive=progress.alive,
            log=log,
        )
        worker = Worker(
            pipeline=build_pipeline(settings, bundle, engine, outgoing, journal.id),
            engine=engine,
            transport=transport,
            journal=journal,
            outgoing=outgoing,
            settings=settings,
            clock=SystemClock(),
            log=log,
            observer=server.metrics if server else None,
            onlooker=history,
        )
        assets = worker.restore()
        log.info("restored", assets=assets, journal=journal.id, replay=worker.lag, watermark=journal.watermark)
        corrupt = journal.set_aside_why == "corrupt"
        # Said at each start, so that the retained alarm stands until a start has the GPU again.
        lost = gpu_losses(settings.engine, source.path.parent)
        worker.alarm("gpu_given_up", active=lost > 0, value=float(lost))
        worker.alarm("journal_corrupt", active=corrupt, value=float(journal.set_aside_assets))
        if journal.set_aside is not None:
            (log.error if corrupt else log.warning)(
                "journal_corrupt" if corrupt else "journal_of_other_inputs",
                moved_to=str(journal.set_aside),
                assets=journal.set_aside_assets,
                action="their windows warm up again",
            )
        transport.on_subscribed = lambda: subscriptions.save(filters(settings.topics))
        log.info("starting", topics=list(settings.topics.readings), alarms=[rule.name for rule in settings.alarms])
        status = f"{bundle.manifest.name} on {engine.name}"
        try:
            _serve(worker, transport, outgoing, progress, server, log, settings.service.drain_seconds, status)
        finally:
            if server is not None:
                server.close()
            if history is not None:
                history.close()
        starts.ended()
    return EXIT_OK


def _serve(
    worker: Worker,
    transport: MqttTransport,
    outgoing: Outgoing,
    progress: Progress,
    server: HttpServer | None,
    log: Any,
    drain_seconds: float,
    status: str,
) -> None:
    """Start, loop until a signal, drain. A second signal ends the process at once. status: what is served, in words."""
    signals = 0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(128 + number)
        transport.wake()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    transport.start()
    transport.attempted.wait(10.0)
    progress.serving = True
    log.info("ready", serving=status)
    systemd.notify("READY=1", f"STATUS=serving {status}")
    publish_at = log_at = time.monotonic()
    busy, stood, watchdog = False, "", systemd.Watchdog()
    while not signals:
        transport.wait(0.0 if busy else worker.pause())  # under load too: it tells of what ended the transport
        busy = worker.step()
        worker.tick()
        now = time.monotonic()
        progress.connected = transport.connected
        for part, at in (("worker", now), ("network loop", transport.turned), ("publisher", transport.drained)):
            progress.moved(part, at)
        if not (stands := progress.alive()):
            watchdog.feed(now)
        elif not stood:
            log.error("stands_still", problem=stands, action="the watchdog is fed no more")
        stood = stands
        if now >= publish_at:
            publish_at = now + _PUBLISHED_EVERY
            statistics = worker.statistics()
            transport.send([outgoing.statistics(statistics)])
            if server is not None:
                server.metrics.update(statistics)
        if now >= log_at:
            log_at = now + _LOGGED_EVERY
            _log_statistics(log, worker)
    progress.serving = False
    _drain(worker, transport, watchdog, drain_seconds, log)
    _log_statistics(log, worker)
    log.info("stopped")


def _drain(worker: Worker, transport: MqttTransport, watchdog: systemd.Watchdog, seconds: float, log: Any) -> None:
    """Take in nothing more, answer what the deadline allows, and leave a session that persists."""
    systemd.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round((seconds + _CLOSING) * 1e6)}")
    log.info("stopping", lag=worker.lag, unpublished=worker.unpublished)
    deadline = time.monotonic() + seconds
    while worker.step(intake=False) and time.monotonic() < deadline:
        watchdog.feed(time.monotonic())
    worker.commit()  # what was taken in is durable and acknowledged before we go
    transport.close(deadline)
    worker.commit()  # with the watermark of what the broker has acknowledged by now


def _log_statistics(log: Any, worker: Worker) -> None:
    log.info("statistics", **{k: v for k, v in msgspec.structs.asdict(worker.statistics()).items() if k != "schema"})
