"""The daemon: wiring, signals, start, drain.

Together with its `worker`, the only room that sees core and adapters together.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from edge_rul import __version__
from edge_rul import bundle as bundles
from edge_rul import log as logs
from edge_rul.adapters import systemd
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.bundle import Bundle
from edge_rul.config import Settings, Topics, load_settings, templates
from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.outgoing import Outgoing
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.core.topic import Template
from edge_rul.engines import Engine, open_engine
from edge_rul.errors import EXIT_OK
from edge_rul.worker import Worker
from edge_rul.yaml_file import Source

if TYPE_CHECKING:
    from edge_rul.adapters.http import MetricsServer

_PUBLISHED_EVERY = 5.0  # seconds between two messages of statistics
_LOGGED_EVERY = 60.0
_STUCK = 60.0  # seconds without a turn of the loop after which we are not healthy
_DRAIN = 8.0  # seconds from the first signal to the end


def build_outgoing(settings: Settings) -> Outgoing:
    outputs = templates(settings.topics)
    return Outgoing(
        outputs["prediction"],
        outputs["alarm"],
        outputs["alarm_event"],
        statistics=outputs["statistics"],
        daemon_alarm=outputs["daemon_alarm"],
    )


def check_bundle(settings: Settings, source: Source, bundle: Bundle) -> None:
    """Raises ConfigError where the configuration speaks of inputs, classes or limits that the bundle does not have."""
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


def build_pipeline(settings: Settings, bundle: Bundle, engine: Engine, outgoing: Outgoing, journal: str) -> Pipeline:
    """The corridor for settings that were checked against the bundle. journal: its id."""
    manifest = bundle.manifest
    inputs = [i.name for i in manifest.inputs]
    classes = [c.name for c in manifest.classes]
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
            journal,
            manifest.rul.unit,
            tuple(classes),
            tuple(inputs),
        ),
        window=manifest.window,
        normaliser=manifest.normaliser,
        low=[i.low for i in manifest.inputs],
        high=[i.high for i in manifest.inputs],
        decoder=decoder,
        outgoing=outgoing,
        rules=list(settings.alarms),
        max_batch=settings.engine.max_batch,
        max_assets=settings.limits.assets,
        max_late=settings.windows.max_late,
        max_gap=settings.windows.max_gap,
    )


def filters(topics: Topics) -> list[str]:
    """What the daemon subscribes to."""
    return [*(Template(text).filter for text in topics.readings), *([topics.command] if topics.command else [])]


def build_transport(settings: Settings, source: Source, log: Any, stale: Sequence[str] = ()) -> MqttTransport:
    """The client for these settings, its secrets read. stale: filters to unsubscribe from. Raises ConfigError."""
    mqtt, topics = settings.mqtt, settings.topics
    tls = mqtt.tls
    ca = str(source.file("mqtt.tls.ca", tls.ca)) if tls and tls.ca else None
    cert = None
    if tls and tls.cert and tls.key:
        cert = str(source.file("mqtt.tls.cert", tls.cert)), str(source.file("mqtt.tls.key", tls.key))
    try:
        return MqttTransport(
            mqtt,
            settings.limits,
            filters=[*(Template(t).filter for t in topics.readings), *([topics.command] if topics.command else [])],
            availability=topics.availability,
            password=_password(settings, source),
            ca=ca,
            cert=cert,
            log=log,
        )
    except OSError as e:  # ssl.SSLError is one
        problem = f"ca, cert and key are not what TLS wants: {e}"
        raise source.error("mqtt.tls", problem, "PEM files; cert and key must belong together") from None


def _password(settings: Settings, source: Source) -> str | None:
    """From mqtt.password_file, systemd's credential `mqtt_password`, or the environment, in this order.

    Raises ConfigError where the file cannot be read, or everybody can read it.
    """
    key = "mqtt.password_file"
    if settings.mqtt.password_file is not None:
        path = source.file(key, settings.mqtt.password_file)
        _refuse_open_secret(path, key, source)
    elif (directory := os.environ.get("CREDENTIALS_DIRECTORY")) and (Path(directory) / "mqtt_password").exists():
        path = Path(directory) / "mqtt_password"
    else:
        return os.environ.get("EDGE_RUL_MQTT_PASSWORD")
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise source.error(key, f"{path} cannot be read: {e}") from None


def _refuse_open_secret(path: Path, key: str, source: Source) -> None:
    """Raises ConfigError where users other than the file's owner and group may use it. systemd's credentials lie in a
    directory that only the service enters, so that their own mode does not matter."""
    if (directory := os.environ.get("CREDENTIALS_DIRECTORY")) and path.is_relative_to(directory):
        return
    if (mode := path.stat().st_mode & 0o777) & 0o007:
        problem = f"{path} is a secret, and every user of this machine may use it: its mode is {mode:o}"
        raise source.error(key, problem, f"chmod o= {path}; its owner or group must be the user that runs the daemon")


def open_engine_and_bundle(settings: Settings, source: Source) -> tuple[Bundle, Engine]:
    """The bundle, and its engine verified on the golden windows. Raises BundleError, EngineError."""
    bundle = bundles.load(source.file("bundle", settings.bundle))
    engine = open_engine(
        settings.engine.name, bundle, max_batch=settings.engine.max_batch, threads=settings.engine.threads
    )
    return bundle, engine


def state_directory(settings: Settings, source: Source) -> Path:
    """Where the journal lies: as configured, as systemd says, or in the user's state."""
    if settings.journal.directory is not None:
        return source.path.parent / settings.journal.directory
    if directory := os.environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0])
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "edge-rul" / settings.mqtt.client_id


def open_metrics(settings: Settings, source: Source, info: dict[str, str], health: Health) -> MetricsServer | None:
    """The metrics and their server, where `http` is configured. Raises ConfigError, EdgeRulError."""
    http = settings.http
    if http is None:
        return None
    from edge_rul.adapters.http import Metrics, MetricsServer  # noqa: PLC0415  a server that is not asked for costs 14 MB

    token = source.file("http.token_file", http.token_file).read_text().strip() if http.token_file else None
    tls = None
    if http.tls_cert and http.tls_key:
        tls = str(source.file("http.tls_cert", http.tls_cert)), str(source.file("http.tls_key", http.tls_key))
    metrics = Metrics(info)
    return MetricsServer(metrics, http.host, http.port, ready=health.ready, alive=health.alive, token=token, tls=tls)


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


class Subscriptions:
    """Which filters the broker's session holds for us: the session outlives the configuration that asked for them."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "subscriptions.json"

    def load(self) -> list[str]:
        """Those of the last start; none where nothing can be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[str])
        except (OSError, msgspec.DecodeError):
            return []

    def save(self, filters: list[str]) -> None:
        """Once the broker has taken them, whole or not at all."""
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(filters))
        draft.replace(self._path)


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
    bundle, engine = open_engine_and_bundle(settings, source)
    check_bundle(settings, source, bundle)
    state = state_directory(settings, source)
    subscriptions = Subscriptions(state)
    transport = build_transport(settings, source, log, subscriptions.load())
    with engine, Journal(state, settings.journal) as journal:
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
        server = open_metrics(settings, source, info, health)
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
        )
        assets = worker.restore()
        log.info("restored", assets=assets, journal=journal.id, replay=worker.lag, watermark=journal.watermark)
        worker.alarm("journal_corrupt", active=journal.set_aside is not None, value=float(journal.set_aside_assets))
        if journal.set_aside is not None:
            log.error(
                "journal_corrupt",
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
    return EXIT_OK


def _serve(
    worker: Worker,
    transport: MqttTransport,
    outgoing: Outgoing,
    health: Health,
    server: MetricsServer | None,
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
    log.info("stopping", lag=worker.lag, unpublished=transport.backlog)
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
