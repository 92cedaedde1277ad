"""The daemon: wiring, the loop, signals, drain.

The only room that sees core and adapters together. The worker alternates two steps: ingest (inbox to tail) and score
(tail to windows, one engine call, answers out), so that ingest never waits for more than one engine call. A message is
acknowledged once all its entries are applied and their answers are handed to the publisher; while the publisher's
window is full scoring pauses, the tail fills, and the inbox is left alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import structlog

from edge_rul import bundle as bundles
from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.mqtt import MqttTransport, Received
from edge_rul.bundle import Bundle
from edge_rul.config import Settings, Source, load_settings, templates
from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.outgoing import Message, Outgoing
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.core.tail import Tail
from edge_rul.core.topic import Template
from edge_rul.engines import Engine, open_engine
from edge_rul.errors import EXIT_OK

_INGEST_AT_ONCE = 1000  # messages between two engine calls
_STATISTICS_EVERY = 60.0  # seconds
_DRAIN = 8.0  # seconds from the first signal to the end


class Transport(Protocol):
    """What the worker needs of a broker's client; `MqttTransport` documents each."""

    connected: bool
    dropped_qos0: int
    refused: int

    def wait(self, timeout: float) -> None: ...
    def receive(self) -> Received | None: ...
    def acknowledge(self, message: Received) -> None: ...
    @property
    def backlog(self) -> int: ...
    def send(self, messages: list[Message]) -> None: ...
    def pump(self) -> None: ...


class Worker:
    """The loop's two steps over one pipeline, engine and transport."""

    def __init__(self, pipeline: Pipeline, engine: Engine, transport: Transport, settings: Settings, log: Any) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._transport = transport
        self._tail = Tail(settings.limits.tail)
        self._outbox = settings.limits.outbox
        self._owed: deque[tuple[int, Received]] = deque()  # (seq of its last entry, message), as they came
        self._log = log
        self._faults = logs.Summary(log)
        self._applied = 0

    @property
    def lag(self) -> int:
        """Entries that came in and are not applied yet."""
        return len(self._tail)

    def step(self, *, intake: bool = True) -> bool:
        """Ingest, score and publish once. Returns whether anything moved."""
        moved = (intake and self._ingest()) | self._score()
        self._transport.pump()
        return moved

    def tick(self, now: float) -> None:
        """now: monotonic seconds."""
        self._faults.tick(now)

    def _ingest(self) -> bool:
        count = 0
        while count < _INGEST_AT_ONCE and not self._tail.full and (message := self._transport.receive()) is not None:
            count += 1
            decoded = self._pipeline.decode(message.topic, message.payload, round(time.time() * 1000))
            for bad in decoded.rejected:
                self._faults.fault(
                    "message_rejected", bad.reason.value, time.monotonic(), topic=bad.object, problem=bad.problem
                )
            self._owed.append((self._tail.append(decoded.entries), message))
        self._acknowledge()
        return count > 0

    def _score(self) -> bool:
        if self._transport.backlog >= self._outbox:
            return False
        batch = self._pipeline.fill(self._tail)
        if batch is None:
            return False
        rul, logits = self._engine.infer(batch.x)
        self._transport.send(self._pipeline.complete(batch, rul, logits))
        self._applied = batch.upto
        self._acknowledge()
        return True

    def _acknowledge(self) -> None:
        """In order of arrival. A message of which every element was bad is done as soon as those before it are."""
        while self._owed and self._owed[0][0] <= self._applied:
            self._transport.acknowledge(self._owed.popleft()[1])


def build_pipeline(settings: Settings, source: Source, bundle: Bundle, engine: Engine) -> Pipeline:
    """The corridor for these settings and this bundle. Raises ConfigError where the two do not fit."""
    manifest = bundle.manifest
    inputs = [i.name for i in manifest.inputs]
    classes = [c.name for c in manifest.classes]
    for name in settings.inputs:
        if name not in inputs:
            raise source.error(("inputs", name), f"the bundle has no such input; it has {', '.join(inputs)}")
    for index, rule in enumerate(settings.alarms):
        if isinstance(rule, HealthAlarm) and (unknown := set(rule.classes) - set(classes)):
            problem = f"the bundle has no class {', '.join(sorted(unknown))}; it has {', '.join(classes)}"
            raise source.error(("alarms", index, "classes"), problem)
        if isinstance(rule, RulAlarm) and rule.below + rule.deadband > manifest.rul.max:
            problem = (
                f"below + deadband is {rule.below + rule.deadband:g}, above the bundle's largest RUL "
                f"{manifest.rul.max:g} {manifest.rul.unit}: the alarm would never clear"
            )
            raise source.error(("alarms", index, "below"), problem)
    outputs = templates(settings.topics)
    decoder = Decoder(
        inputs,
        [Template(text) for text in settings.topics.readings],
        command=outputs.get("command"),
        hold=[name for name, setting in settings.inputs.items() if setting.missing == "hold"],
        payload_limit=settings.limits.payload,
        skew=settings.limits.skew,
    )
    return Pipeline(
        model=Model(
            BundleId(manifest.name, bundle.sha256),
            EngineId(engine.name, engine.precision),
            manifest.rul.unit,
            tuple(classes),
            tuple(inputs),
        ),
        window=manifest.window,
        normaliser=manifest.normaliser,
        low=[i.low for i in manifest.inputs],
        high=[i.high for i in manifest.inputs],
        decoder=decoder,
        outgoing=Outgoing(outputs["prediction"], outputs["alarm"], outputs["alarm_event"]),
        rules=list(settings.alarms),
        max_batch=settings.engine.max_batch,
        max_assets=settings.limits.assets,
    )


def build_transport(settings: Settings, source: Source, log: Any) -> MqttTransport:
    """The client for these settings, its secrets read. Raises ConfigError."""
    mqtt, topics = settings.mqtt, settings.topics
    tls = mqtt.tls
    return MqttTransport(
        mqtt,
        settings.limits,
        filters=[*(Template(text).filter for text in topics.readings), *([topics.command] if topics.command else [])],
        availability=topics.availability,
        password=_password(settings, source),
        ca=str(source.file("mqtt.tls.ca", tls.ca)) if tls and tls.ca else None,
        cert=(str(source.file("mqtt.tls.cert", tls.cert)), str(source.file("mqtt.tls.key", tls.key)))
        if tls and tls.cert and tls.key
        else None,
        log=log,
    )


def _password(settings: Settings, source: Source) -> str | None:
    """From mqtt.password_file, systemd's credential `mqtt_password`, or the environment, in this order."""
    key = "mqtt.password_file"
    if settings.mqtt.password_file is not None:
        path = source.file(key, settings.mqtt.password_file)
    elif (directory := os.environ.get("CREDENTIALS_DIRECTORY")) and (Path(directory) / "mqtt_password").exists():
        path = Path(directory) / "mqtt_password"
    else:
        return os.environ.get("EDGE_RUL_MQTT_PASSWORD")
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise source.error(key, f"{path} cannot be read: {e}") from None


def open_all(settings: Settings, source: Source) -> tuple[Bundle, Engine, Pipeline]:
    """Bundle, verified engine and pipeline. Raises BundleError, EngineError, ConfigError."""
    bundle = bundles.load(source.file("bundle", settings.bundle))
    engine = open_engine(
        settings.engine.name, bundle, max_batch=settings.engine.max_batch, threads=settings.engine.threads
    )
    return bundle, engine, build_pipeline(settings, source, bundle, engine)


def run(path: Path) -> int:
    """Run until a signal or a fatal error. Returns the exit code; raises EdgeRulError."""
    settings, source = load_settings(path)
    logs.configure(settings.log)
    log = structlog.get_logger()
    bundle, engine, pipeline = open_all(settings, source)
    with engine:
        transport = build_transport(settings, source, log)
        log.info(
            "verified",
            bundle=bundle.manifest.name,
            sha256=bundle.sha256[:12],
            engine=f"{engine.name} {engine.version} {engine.precision}",
            golden_windows=len(bundle.golden.rul),
        )
        worker = Worker(pipeline, engine, transport, settings, log)
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
        log.info("ready", topics=list(settings.topics.readings), alarms=[rule.name for rule in settings.alarms])
        systemd.notify("READY=1", f"STATUS=serving {bundle.manifest.name} on {engine.name}")
        due = time.monotonic() + _STATISTICS_EVERY
        while not signals:
            transport.wait(1.0)
            while not signals and worker.step():
                pass
            now = time.monotonic()
            worker.tick(now)
            if now >= due:
                due += _STATISTICS_EVERY
                _statistics(log, pipeline, worker, transport)
        systemd.notify("STOPPING=1")
        log.info("stopping", lag=worker.lag, unpublished=transport.backlog)
        deadline = time.monotonic() + _DRAIN
        while worker.step(intake=False) and time.monotonic() < deadline:
            pass
        transport.close(deadline)
        _statistics(log, pipeline, worker, transport)
        log.info("stopped")
    return EXIT_OK


def _statistics(log: Any, pipeline: Pipeline, worker: Worker, transport: MqttTransport) -> None:
    log.info(
        "statistics",
        assets=pipeline.assets,
        lag=worker.lag,
        unpublished=transport.backlog,
        **pipeline.counts,
        dropped={reason.value: count for reason, count in pipeline.dropped.items()},
        dropped_qos0=transport.dropped_qos0,
        publish_refused=transport.refused,
    )
