"""The wiring: settings and a bundle to outgoing, pipeline and transport, with the secrets read.

Owns what one part has to be told of another, and the errors where a configuration and a bundle do not fit. Starts
nothing: the `daemon` does.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_rul import __version__, kept
from edge_rul import bundle as bundles
from edge_rul.adapters.kernel_clock import synchronised
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.adapters.mqtt_tls import context
from edge_rul.bundle import Bundle
from edge_rul.candidate import Candidate
from edge_rul.config import EngineSettings, Settings, Topics, templates
from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.outgoing import Outgoing, iso
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId
from edge_rul.core.rate import Rates
from edge_rul.core.status import Candidate as CandidateState
from edge_rul.core.status import ServingEngine, Status, gpu_given_up, words
from edge_rul.core.topic import Template
from edge_rul.engines import Engine, model_of
from edge_rul.engines.choose import Opened, device_of, open_configured
from edge_rul.rings import make_rings
from edge_rul.secrets import mqtt_password, refuse_open_secret
from edge_rul.succession import Answerer, unlike
from edge_rul.yaml_file import Source


def open_engine_and_bundle(settings: Settings, source: Source, say: Callable[[str], None]) -> tuple[Bundle, Opened]:
    """The bundle, and the engine that the settings ask for, verified on the golden windows.

    say: told of what takes long, and of what was not as expected. Raises BundleError, EngineError.
    """
    bundle = bundles.load(source.file("bundle", settings.bundle))
    return bundle, open_configured(settings.engine, bundle, source.path.parent, say)


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


def build_outgoing(settings: Settings) -> Outgoing:
    outputs = templates(settings.topics)
    return Outgoing(
        outputs["prediction"],
        outputs["alarm"],
        outputs["alarm_event"],
        statistics=outputs["statistics"],
        status=outputs["status"],
        daemon_alarm=outputs["daemon_alarm"],
        state=outputs["state"],
        dead_letter=outputs.get("dead_letter"),
    )


def build_decoder(settings: Settings, bundle: Bundle, also: Sequence[str] = ()) -> Decoder:
    outputs = templates(settings.topics)
    return Decoder(
        [i.name for i in bundle.manifest.inputs],
        [Template(text) for text in dict.fromkeys([*settings.topics.readings, *also])],
        command=outputs.pop("command", None),
        outputs=list(outputs.values()),
        hold=held_inputs(settings, bundle),
        payload_limit=settings.limits.payload,
        refused_limit=settings.limits.dead_letter,
        skew=settings.limits.skew,
        clock_is_right=lambda: synchronised() is not False,
        undeduplicated=settings.windows.allow_undeduplicated,
        rates=Rates(settings.limits.rate, settings.limits.burst) if settings.limits.rate is not None else None,
    )


def held_inputs(settings: Settings, bundle: Bundle) -> list[str]:
    """Inputs that may be missing."""
    said = {name: own.missing for name, own in settings.inputs.items()}
    return [i.name for i in bundle.manifest.inputs if (said.get(i.name) or i.missing) == "hold"]


def build_pipeline(settings: Settings, bundle: Bundle, engine: Engine, outgoing: Outgoing, journal: str) -> Pipeline:
    """The corridor for settings that were checked against the bundle. journal: its id."""
    manifest = bundle.manifest
    return Pipeline(
        model=model_of(bundle, engine, journal),
        rings=make_rings(settings.windows, manifest),
        transform=manifest.transform,
        decoder=build_decoder(settings, bundle),
        outgoing=outgoing,
        rules=list(settings.alarms),
        max_batch=settings.engine.max_batch,
        max_assets=settings.limits.assets,
        ranges=manifest.ranges,
        parts_within=settings.windows.parts_within,
        stale_after=None if settings.assets.stale_after == "never" else settings.assets.stale_after,
    )


def candidate_bundle(settings: Settings, source: Source, bundle: Bundle) -> Bundle | None:
    """The second bundle, where one is configured. bundle: that serves. Raises BundleError, and ConfigError where the
    second cannot score the windows of this one."""
    if settings.candidate is None:
        return None
    other = bundles.load(source.file("candidate.bundle", settings.candidate.bundle))
    if anew := unlike(bundle.manifest, other.manifest):
        raise source.error("candidate.bundle", f"it cannot score the windows of {bundle.manifest.name}: {anew}")
    return other


def open_candidate(
    settings: Settings, source: Source, bundle: Bundle, say: Callable[[str], None]
) -> tuple[Bundle, Engine] | None:
    """`candidate_bundle` and its engine, verified on the golden windows. Raises as that, and EngineError."""
    if (wanted := settings.candidate) is None or (other := candidate_bundle(settings, source, bundle)) is None:
        return None
    on = EngineSettings(name=wanted.engine, threads=settings.engine.threads, cache=settings.engine.cache)
    return other, open_configured(on, other, source.path.parent, say).engine


def build_candidate(settings: Settings, bundle: Bundle, engine: Engine, journal: str, log: Any) -> Candidate:
    """What `open_candidate` gave, to be put beside what serves. journal: its id."""
    model = model_of(bundle, engine, journal)
    state = CandidateState(model.bundle, serving_engine(engine), 0, 0, None, None, None)
    topic = templates(settings.topics).get("candidate")
    return Candidate(Answerer(engine, model, bundle.manifest.transform, bundle.manifest.ranges), state, topic, log)


def serving_fields(bundle: Bundle, engine: Engine, lost: int) -> dict[str, Any]:
    """The status's fields that say what serves. lost: how often the GPU was, where the CPU serves for it."""
    identity, computes = BundleId(bundle.manifest.name, bundle.sha256), serving_engine(engine)
    problems = [gpu_given_up(lost)] if lost else []
    return {
        "words": words(identity, computes, problems),
        "bundle": identity,
        "engine": computes,
        "problems": problems,
    }


def serving_engine(engine: Engine) -> ServingEngine:
    return ServingEngine(engine.name, engine.version, engine.precision, device_of(engine))


def first_status(bundle: Bundle, engine: Engine, journal: str, lost: int, wall: float) -> Status:
    """What serves from the start on. wall: epoch seconds."""
    now = iso(round(wall * 1000)) or ""
    fields = serving_fields(bundle, engine, lost)
    return Status(schema="edge-rul/status/1", ts=now, version=__version__, started=now, journal=journal, **fields)


def filters(topics: Topics) -> list[str]:
    """What the daemon subscribes to."""
    return [*(Template(text).filter for text in topics.readings), *([topics.command] if topics.command else [])]


def build_transport(settings: Settings, source: Source, log: Any, stale: Sequence[str] = ()) -> MqttTransport:
    """The client for these settings, its secrets read. stale: filters to unsubscribe from. Raises ConfigError."""
    if log is not None and settings.mqtt.tls and not settings.mqtt.tls.check_hostname:
        log.warning("tls_name_unchecked", broker=settings.mqtt.host, hint="any certificate of the authority is taken")
    return MqttTransport(
        settings.mqtt,
        settings.limits,
        filters=filters(settings.topics),
        stale=stale,
        availability=settings.topics.availability,
        password=mqtt_password(settings, source),
        context=tls_context(settings, source),
        log=log,
    )


def tls_context(settings: Settings, source: Source) -> ssl.SSLContext | None:
    """What TLS towards the broker has to hold; None without TLS. Raises ConfigError."""
    if (asked := settings.mqtt.tls) is None:
        return None
    ca = str(source.file("mqtt.tls.ca", asked.ca)) if asked.ca else None
    cert = None
    if asked.cert and asked.key:
        cert = str(source.file("mqtt.tls.cert", asked.cert)), str(key := source.file("mqtt.tls.key", asked.key))
        refuse_open_secret(key, "mqtt.tls.key", source)
    try:
        return context(asked, ca, cert)
    except OSError as e:
        problem = f"ca, cert and key are not what TLS wants: {e}"
        hint = "PEM files; cert and key must belong together, and the key must have no passphrase"
        raise source.error("mqtt.tls", problem, hint) from None


def state_directory(settings: Settings, source: Source) -> Path:
    """Where the journal lies: as configured, as systemd says, or in the user's state."""
    if settings.journal.directory is not None:
        return source.path.parent / settings.journal.directory
    if directory := os.environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0])
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "edge-rul" / settings.mqtt.client_id


class Subscriptions:
    """Which filters the broker's session holds for us: the session outlives the configuration that asked for them."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "subscriptions.json"

    def load(self) -> list[str]:
        """Those of the last start; none where nothing can be read."""
        return kept.load(self._path, list[str]) or []

    def save(self, filters: list[str]) -> None:
        """Once the broker has taken them, whole or not at all. A full disk is the journal's to tell, and no reason to
        end: it is tried again on the next connection."""
        if filters == self.load():
            return
        with contextlib.suppress(OSError):
            kept.save(self._path, filters)
