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
_STUCK = 60.0  # seconds without a turn of the loop after which we are not healthy
_DRAIN = 8.0  # seconds from the first signal to the end


class Health:
    """What /healthz and /readyz say. Read by the server's thread; written by the worker's."""

    def __init__(self) -> None:
        self.serving = False
        self.connected = False
        self.stepped = time.monotonic()

    def alive(self) -> str:
        """Why a restart would help, or "": the worker has not come round for a long time."""
        stuck = time.monotonic() - self.stepped
        return f"the worker has not come round for {stuck:.0f} s" if self.serving and stuck > _STUCK else ""

    def ready(self) -> str:
        """Why nothing is answered now, or ""."""
        if not self.serving:
            return "starting or stopping"
        return self.alive() or ("" if self.connected else "not connected to the broker")


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
        outgoing, health = build_outgoing(settings), Health()
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
            ready=health.ready,
            alive=health.alive,
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
        try:
            _serve(worker, transport, outgoing, health, server, log, f"{bundle.manifest.name} on {engine.name}")
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
    health: Health,
    server: HttpServer | None,
    log: Any,
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
    health.serving = True
    log.info("ready", serving=status)
    systemd.notify("READY=1", f"STATUS=serving {status}")
    publish_at = log_at = time.monotonic()
    busy = False
    while not signals:
        transport.wait(0.0 if busy else worker.pause())  # under load too: it tells of what ended the transport
        busy = worker.step()
        worker.tick()
        now = time.monotonic()
        health.connected, health.stepped = transport.connected, now
        if now >= publish_at:
            publish_at = now + _PUBLISHED_EVERY
            statistics = worker.statistics()
            transport.send([outgoing.statistics(statistics)])
            if server is not None:
                server.metrics.update(statistics)
        if now >= log_at:
            log_at = now + _LOGGED_EVERY
            _log_statistics(log, worker)
    health.serving = False
    systemd.notify("STOPPING=1")
    log.info("stopping", lag=worker.lag, unpublished=worker.unpublished)
    deadline = time.monotonic() + _DRAIN
    while worker.step(intake=False) and time.monotonic() < deadline:
        pass
    worker.commit()  # what was taken in is durable and acknowledged before we go
    transport.close(deadline)
    worker.commit()  # with the watermark of what the broker has acknowledged by now
    _log_statistics(log, worker)
    log.info("stopped")


def _log_statistics(log: Any, worker: Worker) -> None:
    log.info("statistics", **{k: v for k, v in msgspec.structs.asdict(worker.statistics()).items() if k != "schema"})
