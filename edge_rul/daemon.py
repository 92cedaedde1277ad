"""The daemon: everything is opened in order, told of each other, served with, and closed.

With its `wiring`, its `loop` and its `worker` the only room that sees core and adapters together.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import structlog

from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.journal import Journal
from edge_rul.board import Board
from edge_rul.config import load_settings
from edge_rul.engines.waiting import EVERY, extending
from edge_rul.errors import EXIT_OK
from edge_rul.loop import Loop
from edge_rul.progress import Progress
from edge_rul.reload import Reload
from edge_rul.reread import Serving
from edge_rul.starts import Starts
from edge_rul.wiring import (
    Subscriptions,
    build_candidate,
    build_outgoing,
    build_pipeline,
    build_transport,
    check_bundle,
    first_status,
    open_candidate,
    open_engine_and_bundle,
    state_directory,
)
from edge_rul.wiring_http import labels, open_history, open_http
from edge_rul.worker import Worker


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def run(path: Path) -> int:
    """Run until a signal or a fatal error. Returns the exit code; raises EdgeRulError."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it asks for is under way: the configuration is being read
    settings, source = load_settings(path)
    logs.configure(settings.log)
    log = structlog.get_logger()

    def noted(text: str) -> None:
        log.info("engine", note=text)

    # An engine that has to be built takes minutes. A start that is soon over says nothing of it.
    with extending(systemd.notify, "opening the engine", first=EVERY):
        bundle, (engine, lost) = open_engine_and_bundle(settings, source, noted)
        check_bundle(settings, source, bundle)
        candidate = open_candidate(settings, source, bundle, noted)  # before the journal, which other inputs set aside
    state = state_directory(settings, source)
    subscriptions = Subscriptions(state)
    transport = build_transport(settings, source, log, subscriptions.load())
    inputs = [i.name for i in bundle.manifest.inputs]
    # What has threads ends by itself where the start fails, too: it would keep the process from ending.
    with engine, Journal(state, settings.journal, inputs=inputs) as journal, ExitStack() as opened:
        log.info(
            "verified",
            bundle=bundle.manifest.name,
            sha256=bundle.sha256[:12],
            engine=f"{engine.name} {engine.version} {engine.precision}",
            golden_windows=len(bundle.golden.rul),
        )
        outgoing, progress = build_outgoing(settings), Progress()
        starts = Starts(state)
        history = open_history(settings, state, log)
        if history is not None:
            opened.callback(history.close)
        server = open_http(
            settings,
            source,
            bundle,
            engine,
            history,
            info=labels(bundle, engine, journal.id),
            starts=starts.counts,
            ready=progress.ready,
            alive=progress.alive,
            log=log,
        )
        if server is not None:
            opened.callback(server.close)
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
        opened.callback(worker.close)
        if candidate is not None:
            worker.compare(build_candidate(settings, *candidate, journal.id, log))
        assets = worker.restore(unclean=starts.unclean)
        log.info("restored", assets=assets, journal=journal.id, replay=worker.lag, watermark=journal.watermark)
        worker.record_bundle()
        corrupt = journal.set_aside_why == "corrupt"
        worker.begin_alarms({"gpu_given_up": (lost > 0, lost), "journal_corrupt": (corrupt, journal.set_aside_assets)})
        if journal.set_aside is not None:
            (log.error if corrupt else log.warning)(
                "journal_corrupt" if corrupt else "journal_of_other_inputs",
                moved_to=str(journal.set_aside),
                assets=journal.set_aside_assets,
                action="their windows warm up again",
            )
        transport.on_subscribed = lambda: subscriptions.save(transport.filters.held)
        log.info("starting", topics=list(settings.topics.readings), alarms=[rule.name for rule in settings.alarms])
        status = first_status(bundle, engine, journal.id, lost, time.time())
        board = Board(outgoing, transport, journal, status)
        reload = Reload(
            Serving(settings, source, bundle, engine, lost),
            worker=worker,
            transport=transport,
            board=board,
            server=server,
            log=log,
        )
        loop = Loop(
            worker=worker,
            transport=transport,
            board=board,
            progress=progress,
            metrics=server.metrics if server else None,
            reload=reload,
            log=log,
        )
        loop.run()
        starts.ended()
    if reload.restarts and not loop.stopped:
        # The same process id, so that a service manager sees a reload; the broker keeps what comes meanwhile.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return EXIT_OK
