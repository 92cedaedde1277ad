"""YAML to typed, validated settings.

Owns reading YAML with its line numbers, and the daemon's settings. Every error names the file, the line and the dotted
key, what was found and what was expected. Must not open a network connection, a bundle or a log.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml

from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.core.topic import Template
from edge_rul.errors import ConfigError

T = TypeVar("T")
Path_ = tuple[str | int, ...]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MIB = 1024 * 1024


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every section: an unknown key is an error."""


class Tls(_Settings, frozen=True):
    """ca: PEM file of the authority that signed the broker's certificate; cert and key: our own, where it asks."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together")


class Mqtt(_Settings, frozen=True):
    host: str = "localhost"
    port: Port = 1883
    version: Literal[5, "3.1.1"] = 5
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "edge-rul"
    username: str | None = None
    password_file: str | None = None
    tls: Tls | None = None
    keepalive: Annotated[int, msgspec.Meta(ge=5, le=65535)] = 30  # seconds
    session_expiry: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 7 * 86400  # seconds
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1000  # unacknowledged messages towards us
    max_packet: Annotated[int, msgspec.Meta(ge=1024, le=268435455)] = 256 * 1024  # bytes
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 100  # unacknowledged messages from us


class Topics(_Settings, frozen=True):
    readings: Annotated[list[str], msgspec.Meta(min_length=1)]
    prediction: str = "edge-rul/{asset}/prediction"
    alarm: str = "edge-rul/{asset}/alarm/{alarm}"
    alarm_event: str = "edge-rul/{asset}/event"
    availability: str = "edge-rul/availability"
    command: str | None = "edge-rul/command"


class InputSettings(_Settings, frozen=True):
    """missing: what a reading without this input costs: `reject` the reading, or `hold` the previous value."""

    missing: Literal["reject", "hold"] = "reject"


class EngineSettings(_Settings, frozen=True):
    name: Literal["auto", "onnxruntime"] = "auto"
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0  # 0: as many as the process may use


class Limits(_Settings, frozen=True):
    assets: Positive = 10_000
    payload: Positive = 128 * 1024  # bytes of one message
    tail: Positive = 10_000  # entries between ingest and scoring
    inbox_messages: Positive = 10_000
    inbox_bytes: Positive = 256 * MIB
    outbox: Positive = 10_000  # messages that wait for the broker
    skew: Annotated[float, msgspec.Meta(ge=0)] = 300.0  # seconds that a reading may be ahead of our clock


class LogSettings(_Settings, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Settings(_Settings, frozen=True):
    """The daemon's settings. Relative paths are relative to the configuration file's directory."""

    bundle: str
    topics: Topics
    mqtt: Mqtt = Mqtt()
    inputs: dict[str, InputSettings] = {}
    alarms: list[RulAlarm | HealthAlarm] = []
    engine: EngineSettings = EngineSettings()
    limits: Limits = Limits()
    log: LogSettings = LogSettings()


class Source:
    """A configuration file: the line of each key, and errors that name both."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines: dict[Path_, int] = {(): 1}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                self._walk(node, ())
            self.data: Any = yaml.safe_load(text)
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            problem = getattr(e, "problem", None) or str(e)
            raise ConfigError("read configuration", where, f"this is not valid YAML: {problem}") from None

    def _walk(self, node: yaml.Node, path: Path_) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, str(key.value))
                if here in self._lines:
                    first, self._lines[here] = self._lines[here], key.start_mark.line + 1
                    raise self.error(here, f"the key stands twice, first on line {first}", "remove one")
                self._lines[here] = key.start_mark.line + 1
                self._walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                here = (*path, index)
                self._lines[here] = value.start_mark.line + 1
                self._walk(value, here)

    def error(self, key: Path_ | str, problem: str, hint: str = "") -> ConfigError:
        """A ConfigError at `key`, dotted or as a tuple; at the nearest parent's line where the key is not there."""
        path = tuple(key.split(".")) if isinstance(key, str) else key
        known = path
        while known not in self._lines:
            known = known[:-1]
        where = f"{self.path}:{self._lines[known]}"
        return ConfigError("read configuration", f"{where}: {_dotted(path)}" if path else where, problem, hint=hint)

    def value(self, path: Path_) -> Any:
        found = self.data
        for step in path:
            found = found[step]
        return found

    def file(self, key: str, name: str) -> Path:
        """The file or directory that the setting `key` names, relative to the configuration. It must exist."""
        path = self.path.parent / name
        if not path.exists():
            raise self.error(key, f"there is no {path}", "a relative path starts at the configuration file's directory")
        return path


def _dotted(path: Path_) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def read(path: Path, type: type[T]) -> tuple[T, Source]:
    """The file's content as `type`, with its source for later errors. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("read configuration", str(path), "there is no such file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError("read configuration", str(path), f"cannot be read: {e}") from None
    source = Source(path, text)
    try:
        return msgspec.convert(source.data, type), source
    except msgspec.ValidationError as e:
        raise _explain(source, type, str(e)) from None


def load_yaml(path: Path, type: type[T]) -> T:
    """The file's content as `type`. Raises ConfigError with file, line, dotted key, found and expected."""
    return read(path, type)[0]


_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")


def _explain(source: Source, type: Any, text: str) -> ConfigError:
    """msgspec's message with the line and what was found. It writes `[...]` for a key of a mapping of the user's."""
    problem, _, where = text.partition(" - at `$")
    path: Path_ = ()
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", where):
        if index == "...":
            path = (*path, _offender(source, path, type, text))
        else:
            path = (*path, name or int(index))
    if match := _UNKNOWN.match(problem):
        structs = [i for i in _at(type, path) if isinstance(i, msgspec.inspect.StructType)]
        known = sorted({f.encode_name for struct in structs for f in struct.fields})
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else ""
        return source.error((*path, match[1]), f"unknown key; expected one of: {', '.join(known)}", hint)
    found = source.value(path)
    if problem.startswith("Invalid enum value"):
        allowed = [str(value) for info in _at(type, path) for value in getattr(info, "values", ())]
        return source.error(path, f"expected one of: {', '.join(allowed)}, found {found!r}")
    shown = "" if isinstance(found, dict | list) else f", found {found!r}"
    return source.error(path, problem[:1].lower() + problem[1:] + shown)


def _offender(source: Source, path: Path_, type: Any, text: str) -> str | int:
    """Which key of the mapping at `path` makes the error: the one that makes it alone."""
    mapping: dict[str, Any] = source.value(path)
    kept = dict(mapping)
    try:
        for key, value in kept.items():
            mapping.clear()
            mapping[key] = value
            try:
                msgspec.convert(source.data, type)
            except msgspec.ValidationError as e:
                if str(e) == text:
                    return key
    finally:
        mapping.clear()
        mapping.update(kept)
    return "..."


def _at(type: Any, path: Path_) -> list[Any]:
    """msgspec's description of what stands at `path` of `type`, every alternative where it is one of several."""
    found = _alternatives([msgspec.inspect.type_info(type)])
    for step in path:
        following = []
        for info in found:
            if isinstance(info, msgspec.inspect.StructType):
                following += [f.type for f in info.fields if f.encode_name == step]
            elif isinstance(info, msgspec.inspect.DictType):
                following.append(info.value_type)
            elif isinstance(info, msgspec.inspect.ListType):
                following.append(info.item_type)
        found = _alternatives(following)
    return found


def _alternatives(infos: list[Any]) -> list[Any]:
    return [alt for i in infos for alt in (i.types if isinstance(i, msgspec.inspect.UnionType) else (i,))]


def load_settings(path: Path) -> tuple[Settings, Source]:
    """The daemon's settings, with what one key says of another checked too. Raises ConfigError."""
    settings, source = read(path, Settings)
    _check_topics(settings.topics, source)
    _check_limits(settings, source)
    names = [rule.name for rule in settings.alarms]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise source.error(("alarms", index, "name"), f"two alarms are called {name!r}")
    return settings, source


def templates(topics: Topics) -> dict[str, Template]:
    """The output templates and the command topic by key."""
    keys = ("prediction", "alarm", "alarm_event", "availability", "command")
    return {key: Template(text) for key in keys if (text := getattr(topics, key)) is not None}


def _template(source: Source, path: Path_, text: str) -> Template:
    try:
        return Template(text)
    except ValueError as e:
        raise source.error(path, str(e)) from None


def _check_topics(topics: Topics, source: Source) -> None:
    inputs = [_template(source, ("topics", "readings", i), text) for i, text in enumerate(topics.readings)]
    places = {frozenset(t.names) - {"asset"} for t in inputs}
    if len(places) > 1:
        raise source.error("topics.readings", "the templates name different levels; they must agree, `asset` aside")
    needs = {
        "prediction": {"asset"} | places.pop(),
        "availability": set(),
        "command": set(),
    }
    needs["alarm_event"] = needs["prediction"]
    needs["alarm"] = needs["prediction"] | {"alarm"}
    seen: dict[str, Template] = {}
    for key, need in needs.items():
        if (text := getattr(topics, key)) is None:
            continue
        path = ("topics", key)
        template = _template(source, path, text)
        if set(template.names) != need:
            wanted = " and ".join(f"{{{name}}}" for name in sorted(need)) or "no named level"
            raise source.error(path, f"found {text!r}, expected {wanted}, or two assets would share a topic")
        for index, reading in enumerate(inputs):
            if template.overlaps(reading):
                raise source.error(
                    path,
                    f"{text!r} matches {reading.text!r} (topics.readings[{index}]): the daemon would hear itself",
                    "give outputs a first level of their own",
                )
        for other, earlier in seen.items():
            if template.overlaps(earlier):
                raise source.error(path, f"{text!r} and topics.{other} can be the same topic")
        seen[key] = template


def _check_limits(settings: Settings, source: Source) -> None:
    mqtt, limits = settings.mqtt, settings.limits
    if limits.inbox_messages <= mqtt.receive_maximum:
        raise source.error(
            "limits.inbox_messages",
            f"{limits.inbox_messages} is not above mqtt.receive_maximum {mqtt.receive_maximum}: it would overflow",
        )
    if mqtt.version == 5 and mqtt.receive_maximum * mqtt.max_packet > limits.inbox_bytes:
        raise source.error(
            "limits.inbox_bytes",
            f"{limits.inbox_bytes} is less than mqtt.receive_maximum x mqtt.max_packet, "
            f"{mqtt.receive_maximum * mqtt.max_packet} bytes",
            "lower mqtt.receive_maximum or mqtt.max_packet, or raise the limit",
        )
    if limits.payload + 1024 > mqtt.max_packet:
        raise source.error(
            "limits.payload",
            f"{limits.payload} leaves no room below mqtt.max_packet {mqtt.max_packet}: the broker would drop a "
            "larger message before it could be counted",
        )
