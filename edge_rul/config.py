"""The daemon's settings: their types and defaults, and what one key says of another.

Every error names the file, the line and the dotted key, what was found and what was expected. Must not open a network
connection, a bundle or a log. How YAML becomes these types stands in `yaml_file`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.topic import Template
from edge_rul.errors import ConfigError
from edge_rul.yaml_file import KeyPath, Source, read

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=10**9)]  # a bound, as infinity is a number to YAML
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MIB = 1024 * 1024
_TOPIC_ROOM = 1024  # bytes of a packet that are not payload


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every section: an unknown key is an error."""


class Tls(_Settings, frozen=True):
    """ca: PEM file of the authority that signed the broker's certificate; cert and key: our own, where it asks."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    min_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    check_hostname: bool = True

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together: both, or neither")


class Mqtt(_Settings, frozen=True):
    host: Annotated[str, msgspec.Meta(min_length=1)] = "localhost"
    port: Port = 1883
    version: Literal[5, "3.1.1"] = 5
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "edge-rul"
    username: str | None = None
    password_file: str | None = None
    tls: Tls | None = None
    keepalive: Annotated[int, msgspec.Meta(ge=5, le=65535)] = 30  # seconds
    session_expiry: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 7 * 86400  # seconds
    will_delay: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 10  # seconds without us before `offline`, at MQTT 5
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1000  # unacknowledged messages towards us
    max_packet: Annotated[int, msgspec.Meta(ge=1024, le=268435455)] = 256 * 1024  # bytes
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 100  # unacknowledged messages from us
    # Unacknowledged messages at which the broker stops sending: the journal is committed when so many are owed. By
    # default 100 at MQTT 5 (ReceiveMaximum, where it is less), and 20, Mosquitto's default, at 3.1.1.
    broker_in_flight: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None

    @property
    def owed_at_most(self) -> int:
        """How many acknowledgements may be owed before they are worth a commit of their own."""
        if self.broker_in_flight is not None:
            return self.broker_in_flight
        return min(100, self.receive_maximum) if self.version == 5 else 20

    def __post_init__(self) -> None:
        if self.password_file is not None and self.username is None:
            raise ValueError("`password_file` is set, but no `username`: a password is sent with a user only")


class Topics(_Settings, frozen=True):
    readings: Annotated[list[str], msgspec.Meta(min_length=1)]
    prediction: str = "edge-rul/{asset}/prediction"
    state: str | None = None  # the prediction's, and `/state`
    alarm: str = "edge-rul/{asset}/alarm/{alarm}"
    alarm_event: str = "edge-rul/{asset}/event"
    availability: str = "edge-rul/availability"
    command: str | None = "edge-rul/command"
    statistics: str = "edge-rul/statistics"
    status: str = "edge-rul/status"
    candidate: str | None = None
    daemon_alarm: str = "edge-rul/_daemon/alarm/{alarm}"
    dead_letter: str | None = "edge-rul/dead-letter"

    def text(self, key: str) -> str | None:
        """An output's template as written, or its default."""
        text: str | None = getattr(self, key)
        return f"{self.prediction}/state" if key == "state" and text is None else text


class InputSettings(_Settings, frozen=True):
    """missing: what a reading without this input costs: `reject` the reading, or `hold` the previous value; by default
    what the bundle says."""

    missing: Literal["reject", "hold"] | None = None


EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
_PRECISIONS = {
    "auto": ("float32",),
    "onnxruntime": ("float32",),
    "openvino": ("float32", "bfloat16", "int8"),
    "tensorrt": ("float32", "float16", "bfloat16"),
    "tensorrt_rtx": ("float32", "float16", "bfloat16"),
}


class EngineSettings(_Settings, frozen=True):
    """docs/engines.md says what each engine needs, and what a reduced precision costs."""

    name: EngineName = "auto"  # auto: the fastest installed float32 engine, as measured at the first start
    precision: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"  # ONNX Runtime's
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0  # 0: as many as the process may use
    build: Literal["on_miss", "never"] = "on_miss"  # a TensorRT engine that is not in the cache
    require_gpu: bool = False  # refuse to start on the CPU
    cache: str | None = None  # systemd's CACHE_DIRECTORY by default, or edge-rul in the user's cache

    def __post_init__(self) -> None:
        if self.precision not in (able := _PRECISIONS[self.name]):
            raise ValueError(f"`precision` is {self.precision}, `name: {self.name}` has {', '.join(able)}")
        if self.provider != "cpu" and self.name != "onnxruntime":
            raise ValueError(f"`provider: {self.provider}` is one of `name: onnxruntime`, found `name: {self.name}`")
        if self.require_gpu and (self.name == "openvino" or (self.name == "onnxruntime" and self.provider == "cpu")):
            raise ValueError(f"`require_gpu` is set, and `name: {self.name}` runs on the CPU")


class Limits(_Settings, frozen=True):
    assets: Positive = 10_000
    payload: Positive = 128 * 1024  # bytes of one message
    dead_letter: Positive = 1024  # bytes of a refused message that are kept and told
    tail: Positive = 10_000  # entries between ingest and scoring
    inbox_messages: Positive = 10_000
    inbox_bytes: Positive = 256 * MIB
    outbox: Positive = 10_000  # messages that wait for the broker
    skew: Annotated[float, msgspec.Meta(ge=0, le=10**9)] = 300.0  # seconds that a reading may be ahead of our clock
    rate: Annotated[float, msgspec.Meta(gt=0, le=10**6)] | None = None  # messages a second of one topic of readings
    burst: Positive = 1000  # messages of one topic at once, where there is a rate


class AssetSettings(_Settings, frozen=True):
    """stale_after: seconds without a reading after which an asset's state says `stale`. evict_after: after which its
    windows are kept on disk alone, until it sends again."""

    stale_after: Seconds | Literal["never"] = "never"
    evict_after: Seconds | Literal["never"] = "never"


class WindowSettings(_Settings, frozen=True):
    """max_late: readings of an asset that may be newer than one that still comes; the window's length by default, and 0
    counts late readings as lost. max_gap: missing cycles in a row that the reading before stands in for; by default as
    in the bundle's training, else a few. beyond_gap: whether a window begins anew behind a longer gap, or spans it as
    if it were not there. seconds_per_cycle: how long a cycle is, for readings without a number. allow_undeduplicated:
    take those at QoS 1 that have neither number nor time, although one that comes again then counts twice.
    parts_within: seconds from a reading's first part to the last one, where each sensor sends its own."""

    max_late: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    max_gap: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    beyond_gap: Literal["restart", "span"] = "restart"
    seconds_per_cycle: Annotated[float, msgspec.Meta(ge=0.001, le=10**9)] | None = None
    allow_undeduplicated: bool = False
    parts_within: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0


class ScoringSettings(_Settings, frozen=True):
    """on_lag: whether every cycle is answered however late, or, once entries have waited for the engine for
    `latest_after` seconds, only each asset's newest cycle."""

    on_lag: Literal["every_cycle", "latest"] = "every_cycle"
    latest_after: Seconds | Literal["never"] = "never"

    def __post_init__(self) -> None:
        if (self.on_lag == "latest") != (self.latest_after != "never"):
            raise ValueError("`on_lag: latest` and `latest_after` in seconds go together")


class JournalSettings(_Settings, frozen=True):
    """Where entries are kept, and when they are on disk. `full` syncs each commit; `normal` may lose the last ones in a
    power cut, but nothing when only the process dies."""

    directory: str | None = None  # systemd's STATE_DIRECTORY by default, or edge-rul/<client_id> in the user's state
    durability: Literal["full", "normal"] = "full"
    commit_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 250
    commit_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    snapshot_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 300.0
    keep_hours: Annotated[float, msgspec.Meta(ge=0, le=10**6)] = 24.0
    keep_bytes: Positive = 1024 * MIB
    min_free: Annotated[int, msgspec.Meta(ge=0)] = 64 * MIB


class LogSettings(_Settings, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class HttpSettings(_Settings, frozen=True):
    """The status page, GET /metrics, /healthz and /readyz. Beyond loopback it wants a token or TLS."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    port: Port = 9108
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    asset_series: bool = False  # metrics of each asset, too

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("`tls_cert` and `tls_key` go together: both, or neither")
        if self.host not in ("127.0.0.1", "::1", "localhost") and self.token_file is None and self.tls_cert is None:
            raise ValueError(f"`host` is {self.host}: beyond loopback `token_file` or `tls_cert` is needed")


class ServiceSettings(_Settings, frozen=True):
    """drain_seconds: from the signal to stop, for what is unanswered. restart_windows: a reload may bring a bundle with
    other inputs, another window or other classes; all windows then begin anew."""

    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 8.0
    restart_windows: bool = False


class CandidateSettings(_Settings, frozen=True):
    """A second bundle that scores the same windows, to be compared: of the same inputs, window and classes."""

    bundle: str
    engine: EngineName = "onnxruntime"  # in float32


class Settings(_Settings, frozen=True):
    """The daemon's settings. Relative paths are relative to the configuration file's directory."""

    bundle: str
    topics: Topics
    mqtt: Mqtt = Mqtt()
    inputs: dict[str, InputSettings] = {}
    alarms: list[RulAlarm | HealthAlarm] = []
    engine: EngineSettings = EngineSettings()
    assets: AssetSettings = AssetSettings()
    windows: WindowSettings = WindowSettings()
    scoring: ScoringSettings = ScoringSettings()
    journal: JournalSettings = JournalSettings()
    http: HttpSettings | None = None
    service: ServiceSettings = ServiceSettings()
    candidate: CandidateSettings | None = None
    limits: Limits = Limits()
    log: LogSettings = LogSettings()


class _Written(Settings, frozen=True):
    """The settings as a file may write them: `engine: openvino` is short for `engine: {name: openvino}`."""

    engine: EngineSettings | EngineName = EngineSettings()  # type: ignore[assignment]


def load_settings(path: Path) -> tuple[Settings, Source]:
    """The daemon's settings, with what one key says of another checked too. Raises ConfigError."""
    written, source = read(path, _Written)
    fields = msgspec.structs.asdict(written)
    if isinstance(fields["engine"], str):
        fields["engine"] = msgspec.convert({"name": fields["engine"]}, EngineSettings)
    settings = Settings(**fields)
    _check_topics(settings.topics, source)
    _check_limits(settings, source)
    names = [rule.name for rule in settings.alarms]
    for index, name in enumerate(names):
        if name in names[:index]:
            problem = f"two alarms are called {name!r}, and their states would share a topic"
            raise source.error(("alarms", index, "name"), problem, "give each a name of its own")
    return settings, source


def templates(topics: Topics) -> dict[str, Template]:
    """The output templates and the command topic by key."""
    keys = (key for key in Topics.__struct_fields__ if key != "readings")
    return {key: Template(text) for key in keys if (text := topics.text(key)) is not None}


def _template(source: Source, path: KeyPath, text: str) -> Template:
    try:
        return Template(text)
    except ValueError as e:
        raise source.error(path, str(e)) from None


def _check_topics(topics: Topics, source: Source) -> None:
    inputs = _check_readings(topics, source)
    of_asset = {"asset", *inputs[0].levels}
    needs: dict[str, set[str]] = {
        "prediction": of_asset,
        "state": of_asset,
        "alarm": of_asset | {"alarm"},
        "alarm_event": of_asset,
        "availability": set(),
        "command": set(),
        "statistics": set(),
        "status": set(),
        "candidate": of_asset,
        "daemon_alarm": {"alarm"},
        "dead_letter": set(),
    }
    seen: dict[str, Template] = {}
    for key, need in needs.items():
        if (text := topics.text(key)) is None:
            continue
        path = ("topics", key)
        template = _template(source, path, text)
        shown = repr(text) if source.has(path) else f"the default {text!r}"
        if lacking := need - set(template.names):
            problem = f"{shown} lacks {_levels(lacking)}, so that two assets or alarms would share a topic"
            raise source.error(path, problem, f"name the levels {_levels(need)}, each once")
        if extra := set(template.names) - need:
            problem = f"{shown} names {_levels(extra)}, which is no level of topics.readings"
            raise source.error(path, problem, f"name {_levels(need)}" if need else "write plain text")
        for index, reading in enumerate(inputs):
            if template.overlaps(reading):
                raise source.error(
                    path,
                    f"{shown} can be a topic of {reading.text!r} (topics.readings[{index}]): the daemon would hear "
                    "itself",
                    "give what the daemon publishes, and its command topic, a first level of their own",
                )
        for other, earlier in seen.items():
            if key == "daemon_alarm" and "_daemon" in text.split("/"):
                continue  # no asset bears this name
            if template.overlaps(earlier):
                problem = f"{shown} and topics.{other} {earlier.text!r} can be the same topic"
                raise source.error(path, problem, "make them differ in a level that is plain text")
        seen[key] = template


def _check_readings(topics: Topics, source: Source) -> list[Template]:
    inputs: list[Template] = []
    for index, text in enumerate(topics.readings):
        path = ("topics", "readings", index)
        template = _template(source, path, text)
        if "alarm" in template.names:
            raise source.error(
                path, f"{text!r} names a level {{alarm}}, which stands for an alarm's name in topics.alarm"
            )
        for other, earlier in enumerate(inputs):
            if set(template.levels) != set(earlier.levels):
                problem = (
                    f"{text!r} names {_levels(template.names)} and topics.readings[{other}] {_levels(earlier.names)}; "
                    "all must name the same levels, {asset} and {sensor} aside, as these make an asset's identity"
                )
                raise source.error(path, problem)
            if template.overlaps(earlier):
                problem = f"{text!r} and topics.readings[{other}] {earlier.text!r} can be the same topic"
                raise source.error(path, problem, "a message on it would come twice; remove one")
        inputs.append(template)
    return inputs


def _levels(names: Iterable[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names)) or "no level"


def _check_limits(settings: Settings, source: Source) -> None:
    mqtt, limits = settings.mqtt, settings.limits

    def conflict(keys: list[str], problem: str, hint: str) -> ConfigError:
        """At the first of the keys that is set in the file: a default is not what the person has to look at."""
        return source.error(next((key for key in keys if source.has(key)), keys[0]), problem, hint)

    if limits.inbox_messages <= mqtt.receive_maximum:
        raise conflict(
            ["limits.inbox_messages", "mqtt.receive_maximum"],
            f"limits.inbox_messages is {limits.inbox_messages}, expected more than mqtt.receive_maximum, "
            f"{mqtt.receive_maximum}: the inbox would overflow",
            "raise limits.inbox_messages or lower mqtt.receive_maximum",
        )
    if mqtt.version == 5 and (bytes_ := mqtt.receive_maximum * mqtt.max_packet) > limits.inbox_bytes:
        raise conflict(
            ["limits.inbox_bytes", "mqtt.receive_maximum", "mqtt.max_packet"],
            f"limits.inbox_bytes is {limits.inbox_bytes}, expected at least mqtt.receive_maximum x mqtt.max_packet, "
            f"{mqtt.receive_maximum} x {mqtt.max_packet} = {bytes_}: the inbox would overflow",
            "lower mqtt.receive_maximum or mqtt.max_packet, or raise limits.inbox_bytes",
        )
    if limits.payload + _TOPIC_ROOM > mqtt.max_packet:
        raise conflict(
            ["limits.payload", "mqtt.max_packet"],
            f"limits.payload is {limits.payload}, expected at most mqtt.max_packet - {_TOPIC_ROOM}, "
            f"{mqtt.max_packet - _TOPIC_ROOM}: the broker would drop a larger message before it could be counted",
            "lower limits.payload or raise mqtt.max_packet",
        )
