"""Configurations that are wrong, and what a person reads then: file, line, dotted key, found and expected."""

from __future__ import annotations

import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, absent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_rul.bundle import Bundle
from edge_rul.cli import main
from edge_rul.config import Settings, load_settings, templates
from edge_rul.core.alarm import HealthAlarm, RulAlarm
from edge_rul.errors import EXIT_CONFIG, ConfigError
from edge_rul.secrets import http_token
from edge_rul.wiring import build_transport, mqtt_password
from edge_rul.wiring_http import http_files, open_http

BASE = """\
bundle: model
topics:
  readings:
    - plant/{asset}/cycle
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "edge-rul.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(path: Path, load: Any = load_settings) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == EXIT_CONFIG
    assert str(caught.value).count("\n") <= 1, "one line, and one for the hint"
    return caught.value


def test_the_base_of_these_tests_is_right(write: Any) -> None:
    loaded, _ = load_settings(write(BASE))
    assert loaded.topics.readings == ["plant/{asset}/cycle"]


# -- every mistake is led to its line --------------------------------------------------------------------------------

# name: (text, line, dotted key, what the message says, what the hint says)
MISTAKES: dict[str, tuple[str, int, str, list[str], str]] = {
    "unknown key": (
        BASE + "mqtt:\n  prot: 1884\n",
        6,
        "mqtt.prot",
        ["unknown key; expected one of: host, port, version"],
        "did you mean `port`?",
    ),
    "unknown section": (BASE + "mtqq: {}\n", 5, "mtqq", ["unknown key; expected one of: bundle, topics, mqtt"], ""),
    "unknown key of an alarm": (
        BASE + "alarms:\n  - name: low\n    watch: rul\n    bellow: 30\n",
        8,
        "alarms[0].bellow",
        ["unknown key; expected one of: watch, name, below, deadband, on_delay, off_delay, priority"],
        "did you mean `below`?",
    ),
    "unknown key of an input": (
        BASE + "inputs:\n  T24: {missing: hold}\n  T30:\n    mising: hold\n",
        8,
        "inputs.T30.mising",
        ["unknown key; expected one of: missing"],
        "did you mean `missing`?",
    ),
    "key missing at the top": ("topics: {readings: [a]}\n", 1, "bundle", ["is missing; expected text"], ""),
    "key missing in a section": (
        "bundle: model\ntopics:\n  command: c\n",
        2,
        "topics.readings",
        ["is missing; expected a list of at least 1"],
        "",
    ),
    "key missing in an alarm": (
        BASE + "alarms:\n  - name: low\n    watch: rul\n",
        6,
        "alarms[0].below",
        ["is missing; expected a number above 0"],
        "",
    ),
    "alarm that watches nothing": (
        BASE + "alarms:\n  - name: low\n    below: 30\n",
        6,
        "alarms[0].watch",
        ["is missing; expected one of: rul, health"],
        "",
    ),
    "alarm that watches something else": (
        BASE + "alarms:\n  - name: low\n    watch: temperature\n",
        7,
        "alarms[0].watch",
        ["expected one of: rul, health, found 'temperature'"],
        "",
    ),
    "empty section": (
        "bundle: model\ntopics:\n",
        2,
        "topics",
        ["expected a section of keys: readings,", "found nothing"],
        "write its keys below it",
    ),
    "port too high": (
        BASE + "mqtt:\n  port: 70000\n",
        6,
        "mqtt.port",
        ["expected a whole number from 1 to 65535, found 70000"],
        "",
    ),
    "port 0": (BASE + "mqtt: {port: 0}\n", 5, "mqtt.port", ["from 1 to 65535, found 0"], ""),
    "port as text": (BASE + "mqtt: {port: '1883'}\n", 5, "mqtt.port", ["found the text '1883'"], ""),
    "port with a fraction": (BASE + "mqtt: {port: 1883.5}\n", 5, "mqtt.port", ["found 1883.5"], ""),
    "port without a value": (BASE + "mqtt:\n  port:\n", 6, "mqtt.port", ["found nothing"], ""),
    "a port that YAML reads in base 60": (BASE + "mqtt: {port: 1883:00}\n", 5, "mqtt.port", ["1883:00, which"], ""),
    "list for a number": (BASE + "mqtt: {port: [1]}\n", 5, "mqtt.port", ["found a list"], ""),
    "number for text": (
        "bundle: 5\ntopics: {readings: [a]}\n",
        1,
        "bundle",
        ["expected text, found 5"],
        "put it in quotes",
    ),
    "date for text": (
        "bundle: 2026-01-01\ntopics: {readings: [a]}\n",
        1,
        "bundle",
        ["found 2026-01-01, which YAML reads as a date"],
        "put it in quotes",
    ),
    "a date that there is not": (
        BASE + "mqtt: {client_id: 2026-13-01}\n",
        5,
        "mqtt.client_id",
        ["expected a date, as YAML takes it for one, found 2026-13-01"],
        "put it in quotes if it is meant as text",
    ),
    "a time that there is not": (
        BASE + "alarms:\n  - {name: low, watch: rul, below: 2026-01-01T25:00:00Z}\n",
        6,
        "alarms[0].below",
        ["expected a date, as YAML takes it for one, found 2026-01-01T25:00:00Z"],
        "",
    ),
    "a number without digits": (BASE + "mqtt: {port: 0x_}\n", 5, "mqtt.port", ["a whole number, as", "found 0x_"], ""),
    "bits without digits": (BASE + "mqtt: {port: 0b_}\n", 5, "mqtt.port", ["a whole number, as", "found 0b_"], ""),
    "a number without end": (
        BASE + f"mqtt: {{port: {'9' * 5000}}}\n",
        5,
        "mqtt.port",
        [f"expected a whole number, as YAML takes it for one, found {'9' * 60}..."],
        "",
    ),
    "a number that cannot be written": (
        BASE + f"mqtt: {{port: 0x{'f' * 5000}}}\n",
        5,
        "mqtt.port",
        ["expected a whole number, as", "found 0xfff"],
        "",
    ),
    "a number beyond all": (
        BASE + f"alarms:\n  - {{name: low, watch: rul, below: 1{'0' * 400}}}\n",
        6,
        "alarms[0].below",
        [f"expected a number above 0, found 1{'0' * 59}..."],
        "",
    ),
    "no whole number": (BASE + "mqtt: {port: !!int foo}\n", 5, "mqtt.port", ["a whole number", "found foo"], ""),
    "no number": (BASE + "limits: {skew: !!float foo}\n", 5, "limits.skew", ["a number, as", "found foo"], ""),
    "neither true nor false": (
        BASE + "http: {asset_series: !!bool foo}\n",
        5,
        "http.asset_series",
        ["expected true or false", "found foo"],
        "",
    ),
    "no date": (BASE + "log: !!timestamp foo\n", 5, "log", ["expected a date", "found foo"], ""),
    "a set": (
        BASE + "alarms: !!set {low: null}\n",
        5,
        "alarms",
        ["expected keys, a list or a plain value, found !!set"],
        "",
    ),
    "bytes": (BASE + "mqtt: {client_id: !!binary aGk=}\n", 5, "mqtt.client_id", ["found !!binary"], ""),
    "pairs": (BASE + "inputs: !!omap [T24: {missing: hold}]\n", 5, "inputs", ["found !!omap"], ""),
    "text for a list": (
        "bundle: b\ntopics:\n  readings: plant/{asset}/cycle\n",
        3,
        "topics.readings",
        ["expected a list of at least 1, found the text 'plant/{asset}/cycle'"],
        "",
    ),
    "empty list": (
        "bundle: b\ntopics:\n  readings: []\n",
        3,
        "topics.readings",
        ["expected a list of at least 1, found an empty list"],
        "",
    ),
    "section for a list": (BASE + "alarms: {name: low}\n", 5, "alarms", ["expected a list, found a section"], ""),
    "text for a section": (
        BASE + "inputs:\n  T24: hold\n",
        6,
        "inputs.T24",
        ["expected a section of keys: missing, found the text 'hold'"],
        "",
    ),
    "a choice that there is not": (
        BASE + "log: {level: INFO}\n",
        5,
        "log.level",
        ["expected one of: debug, error, info, warning, found 'INFO'"],
        "",
    ),
    "a word that YAML reads as false": (
        BASE + "log: {level: no}\n",
        5,
        "log.level",
        ["found no, which YAML reads as false"],
        "",
    ),
    "a choice of an input": (
        BASE + "inputs:\n  T24: {missing: hold}\n  T30: {missing: drop}\n",
        7,
        "inputs.T30.missing",
        ["expected one of: hold, reject, found 'drop'"],
        "",
    ),
    "version": (BASE + "mqtt: {version: 4}\n", 5, "mqtt.version", ["expected one of: 5, 3.1.1, found 4"], ""),
    "version as a number": (BASE + "mqtt: {version: 3.1}\n", 5, "mqtt.version", ["found 3.1"], ""),
    "alarm's name": (
        BASE + "alarms:\n  - {name: RUL low, watch: rul, below: 30}\n",
        6,
        "alarms[0].name",
        ["a-z, 0-9 and _", "found 'RUL low'"],
        "",
    ),
    "alarm's limit": (
        BASE + "alarms:\n  - {name: low, watch: rul, below: 0}\n",
        6,
        "alarms[0].below",
        ["expected a number above 0, found 0"],
        "",
    ),
    "alarm's limit that is not a number": (
        BASE + "alarms:\n  - {name: low, watch: rul, below: .nan}\n",
        6,
        "alarms[0].below",
        ["expected a number above 0, found .nan"],
        "",
    ),
    "probability above 1": (
        BASE + "alarms:\n  - {name: bad, watch: health, classes: [critical], probability: 50}\n",
        6,
        "alarms[0].probability",
        ["above 0, of at most 1, found 50"],
        "",
    ),
    "deadband that never clears": (
        BASE + "alarms:\n  - {name: bad, watch: health, classes: [critical], probability: 0.3, deadband: 0.3}\n",
        6,
        "alarms[0]",
        ["deadband 0.3 is not below probability 0.3"],
        "",
    ),
    "a class that would count twice": (
        BASE + "alarms:\n  - {name: bad, watch: health, classes: [critical, degrading, critical]}\n",
        6,
        "alarms[0]",
        ["classes names critical twice: its probability would count twice"],
        "",
    ),
    "two alarms of one name": (
        BASE + "alarms:\n  - {name: low, watch: rul, below: 30}\n  - {name: low, watch: rul, below: 10}\n",
        7,
        "alarms[1].name",
        ["two alarms are called 'low'"],
        "",
    ),
    "skew without end": (BASE + "limits: {skew: .inf}\n", 5, "limits.skew", ["found .inf"], ""),
    "silence without end": (
        BASE + "assets: {stale_after: .inf}\n",
        5,
        "assets.stale_after",
        ["expected one of: never or a number above 0, of at most 1000000000, found .inf"],
        "",
    ),
    "an asset that is never evicted, as a number": (
        BASE + "assets: {evict_after: 1.0e+300}\n",
        5,
        "assets.evict_after",
        ["expected one of: never or a number above 0, of at most 1000000000, found 1.0e+300"],
        "",
    ),
    "lag without end": (
        BASE + "scoring: {on_lag: latest, latest_after: .inf}\n",
        5,
        "scoring.latest_after",
        ["expected one of: never or a number above 0, of at most 1000000000, found .inf"],
        "",
    ),
    "a snapshot that never comes": (
        BASE + "journal: {snapshot_seconds: .inf}\n",
        5,
        "journal.snapshot_seconds",
        ["expected a number above 0, of at most 86400, found .inf"],
        "",
    ),
    "entries that are kept for ever": (
        BASE + "journal: {keep_hours: .inf}\n",
        5,
        "journal.keep_hours",
        ["expected a number from 0 to 1000000, found .inf"],
        "",
    ),
    "empty host": (BASE + "mqtt: {host: ''}\n", 5, "mqtt.host", ["expected text that is not empty, found ''"], ""),
    "endless client id": (
        BASE + f"mqtt: {{client_id: {'x' * 500}}}\n",
        5,
        "mqtt.client_id",
        ["expected text of 1 to 128 characters, found 'xxx", "...'"],
        "",
    ),
    "certificate without its key": (
        BASE + "mqtt:\n  tls: {cert: a.pem}\n",
        6,
        "mqtt.tls",
        ["`cert` and `key` go together"],
        "",
    ),
    "a password in the file": (
        BASE + "mqtt: {username: u, password: hunter2}\n",
        5,
        "mqtt.password",
        ["unknown key"],
        "did you mean `password_file`?",
    ),
    "a page for everybody": (BASE + "http: {host: 0.0.0.0}\n", 5, "http", ["beyond loopback `token_file` or"], ""),
    "a key without its certificate": (BASE + "http: {tls_key: k}\n", 5, "http", ["`tls_cert` and `tls_key` go"], ""),
    "password without a user": (BASE + "mqtt: {password_file: p}\n", 5, "mqtt", ["no `username`"], ""),
    "one half of a pair": (
        BASE + "scoring: {on_lag: latest}\n",
        5,
        "scoring",
        ["`on_lag: latest` and `latest_after` in seconds go together"],
        "",
    ),
    "a word or a number": (
        BASE + "scoring: {on_lag: latest, latest_after: soon}\n",
        5,
        "scoring.latest_after",
        ["expected one of: never or a number above 0, of at most 1000000000, found 'soon'"],
        "",
    ),
    "duplicate key": (BASE + "bundle: other\n", 5, "bundle", ["the key stands twice, first on line 1"], "remove one"),
    "duplicate key in a section": (
        BASE + "mqtt:\n  port: 1883\n  host: h\n  port: 1884\n",
        8,
        "mqtt.port",
        ["the key stands twice, first on line 6"],
        "",
    ),
    "number as a key": (
        BASE + "inputs:\n  24: {missing: hold}\n",
        6,
        "inputs.24",
        ["expected a name as key, found 24"],
        "put the key in quotes",
    ),
    "a name that YAML reads as false": (
        BASE + "inputs:\n  NO: {missing: hold}\n",
        6,
        "inputs.NO",
        ["found NO, which YAML does not read as text"],
        "put the key in quotes",
    ),
    # topics
    "wildcard": (
        "bundle: b\ntopics:\n  readings:\n    - plant/+/cycle\n",
        4,
        "topics.readings[0]",
        ["level '+' of 'plant/+/cycle': expected plain text or one {name}"],
        "",
    ),
    "more levels than a broker takes": (
        BASE + f"  prediction: {'out/' * 64}{{asset}}\n",
        5,
        "topics.prediction",
        ["{asset}' has 65 levels, at most 64 are allowed"],
        "",
    ),
    "a level more by default": (
        BASE + f"  prediction: {'out/' * 63}{{asset}}\n",
        2,
        "topics.state",
        ["{asset}/state' has 65 levels"],
        "",
    ),
    "what Unicode says is no character": (
        BASE + '  alarm_event: "out/{asset}/\\ufdd0"\n',
        5,
        "topics.alarm_event",
        ["noncharacters"],
        "",
    ),
    "name within a level": (
        "bundle: b\ntopics:\n  readings: ['plant/no-{asset}']\n",
        3,
        "topics.readings[0]",
        ["level 'no-{asset}'"],
        "",
    ),
    "output that is heard": (
        BASE + "  prediction: plant/{asset}/cycle\n",
        5,
        "topics.prediction",
        ["'plant/{asset}/cycle' can be a topic of 'plant/{asset}/cycle' (topics.readings[0])", "would hear itself"],
        "a first level of their own",
    ),
    "availability that is heard": (
        BASE + "  availability: plant/daemon/cycle\n",
        5,
        "topics.availability",
        ["can be a topic of 'plant/{asset}/cycle'"],
        "",
    ),
    "command that is a reading": (
        BASE + "  command: plant/command/cycle\n",
        5,
        "topics.command",
        ["can be a topic of 'plant/{asset}/cycle'"],
        "",
    ),
    "default output that is heard": (
        "bundle: b\ntopics:\n  readings: ['edge-rul/{asset}/{kind}']\n  prediction: p/{asset}/{kind}\n"
        "  alarm: a/{asset}/{kind}/{alarm}\n  alarm_event: edge-rul/{asset}/{kind}\n",
        6,
        "topics.alarm_event",
        ["would hear itself"],
        "",
    ),
    "output without a level": (
        "bundle: b\ntopics:\n  readings: ['plant/{line}/{asset}']\n  prediction: out/{asset}\n",
        4,
        "topics.prediction",
        ["'out/{asset}' lacks {line}", "would share a topic"],
        "name the levels {asset} and {line}",
    ),
    "default output without a level": (
        "bundle: b\ntopics:\n  readings: ['plant/{line}/{asset}']\n",
        2,
        "topics.prediction",
        ["the default 'edge-rul/{asset}/prediction' lacks {line}"],
        "",
    ),
    "output of a sensor": (
        "bundle: b\ntopics:\n  readings: ['plant/{asset}/{sensor}']\n  prediction: out/{asset}/{sensor}\n",
        4,
        "topics.prediction",
        ["names {sensor}, which is no level of topics.readings"],
        "name {asset}",
    ),
    "alarm without its name": (BASE + "  alarm: out/{asset}/alarm\n", 5, "topics.alarm", ["lacks {alarm}"], ""),
    "output with a level too many": (
        BASE + "  prediction: out/{line}/{asset}\n",
        5,
        "topics.prediction",
        ["names {line}, which is no level of topics.readings"],
        "",
    ),
    "availability with a level": (BASE + "  availability: out/{asset}\n", 5, "topics.availability", ["{asset}"], ""),
    "two outputs on one topic": (
        BASE + "  prediction: out/{asset}/x\n  alarm_event: out/{asset}/x\n",
        6,
        "topics.alarm_event",
        ["topics.prediction 'out/{asset}/x' can be the same topic"],
        "",
    ),
    "two inputs on one topic": (
        "bundle: b\ntopics:\n  readings:\n    - plant/{asset}\n    - plant/one\n",
        5,
        "topics.readings[1]",
        ["topics.readings[0] 'plant/{asset}' can be the same topic"],
        "would come twice",
    ),
    "inputs that disagree": (
        "bundle: b\ntopics:\n  readings:\n    - a/{asset}\n    - b/{line}/{asset}\n",
        5,
        "topics.readings[1]",
        ["names {asset} and {line} and topics.readings[0] {asset}"],
        "",
    ),
    "level that would be taken for an alarm": (
        "bundle: b\ntopics:\n  readings: ['a/{alarm}/{asset}']\n  prediction: p/{alarm}/{asset}\n"
        "  alarm: x/{alarm}/{asset}\n  alarm_event: e/{alarm}/{asset}\n",
        3,
        "topics.readings[0]",
        ["{alarm}, which stands for an alarm's name"],
        "",
    ),
    # limits that contradict each other: at the one that the file sets
    "inbox smaller than what may come": (
        BASE + "limits:\n  inbox_messages: 1000\n",
        6,
        "limits.inbox_messages",
        ["is 1000, expected more than mqtt.receive_maximum, 1000"],
        "lower mqtt.receive_maximum",
    ),
    "more may come than the inbox holds": (
        BASE + "mqtt:\n  receive_maximum: 20000\n  max_packet: 2048\nlimits: {payload: 1024}\n",
        6,
        "mqtt.receive_maximum",
        ["limits.inbox_messages is 10000, expected more than mqtt.receive_maximum, 20000"],
        "",
    ),
    "packets larger than the inbox": (
        BASE + "mqtt:\n  max_packet: 1000000\n",
        6,
        "mqtt.max_packet",
        ["limits.inbox_bytes is 268435456, expected at least", "1000 x 1000000 = 1000000000"],
        "",
    ),
    "payload larger than a packet": (
        BASE + "limits:\n  payload: 262144\n",
        6,
        "limits.payload",
        ["is 262144, expected at most mqtt.max_packet - 1024, 261120"],
        "",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_led_to_its_line(write: Any, name: str) -> None:
    text, line, key, says, hint = MISTAKES[name]
    path = write(text)
    error = refused(path)
    assert error.object == f"{path}:{line}: {key}"
    for part in says:
        assert part in error.problem
    assert hint in error.hint
    assert "msgspec" not in str(error)
    assert "`int`" not in str(error)
    assert "object" not in str(error)


NOT_YAML = {
    "tab": ("bundle: b\n\ttopics: {}\n", 2, "cannot start any token", "indent with spaces"),
    "colon": ("# hello\nbundle: b: c\n", 2, "mapping values are not allowed here", "needs quotes"),
    "unclosed": ("bundle: [b\ntopics: {}\n", 2, "flow sequence that begins on line 1", ""),
    "template without quotes": ("bundle: b\ntopics: {readings: [p/{asset}]}\n", 2, "'{'", "needs quotes"),
    "level at the start": ("topics:\n  readings:\n    - {asset}/cycle\n", 3, "block end", "needs quotes"),
    "two documents": ("bundle: b\n---\nbundle: c\n", 2, "but found another document", ""),
    "no such anchor": ("bundle: *gone\n", 1, "undefined alias 'gone'", ""),
    "an object of Python's": ("bundle: !!python/object/apply:os.getcwd []\n", 1, "could not determine", ""),
}


@pytest.mark.parametrize("name", NOT_YAML)
def test_what_is_no_yaml_is_led_to_its_line(write: Any, name: str) -> None:
    text, line, says, hint = NOT_YAML[name]
    path = write(text)
    error = refused(path)
    assert error.object == f"{path}:{line}"
    assert error.problem.startswith("this is not valid YAML: ")
    assert says in error.problem
    assert hint in error.hint


def test_a_control_character_is_led_to_its_line(write: Any) -> None:
    path = write("bundle: b\ntopics: \x07\n")
    error = refused(path)
    assert error.object == f"{path}:2"
    assert "control character 0x07" in error.problem


@pytest.mark.parametrize("text", ["bundle: &a [*a]\n", "bundle: " + "[" * 600 + "]" * 600 + "\n"])
def test_what_never_ends_is_refused(write: Any, text: str) -> None:
    assert "nested too deeply, or an alias refers to itself" in refused(write(text)).problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty; expected a section of keys: bundle, topics"),
        ("# nothing yet\n", "the file is empty"),
        ("- bundle\n", "found a list"),
        ("hello\n", "found the text 'hello'"),
        ("12\n", "found 12"),
    ],
)
def test_a_file_that_is_no_section_of_keys(write: Any, text: str, says: str) -> None:
    path = write(text)
    error = refused(path)
    assert error.object == f"{path}:1"
    assert says in error.problem


def test_a_file_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path / "gone.yaml").problem
    assert "cannot be read: Is a directory" in refused(tmp_path).problem
    (tmp_path / "latin").write_bytes("bundle: Öl\n".encode("latin-1"))
    assert "is not UTF-8 text" in refused(tmp_path / "latin").problem
    for path in (tmp_path / "gone.yaml", tmp_path, tmp_path / "latin"):
        assert refused(path).object == str(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=10),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["bundle", "topics", "mqtt", "alarms", "inputs", "limits", "readings", "port", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_the_file_says_nothing_but_a_config_error_comes_of_it(tmp_path: Path, data: object) -> None:
    import yaml

    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    try:
        load_settings(path)
    except ConfigError as e:
        assert e.object.startswith(str(path))


@given(
    tag=st.sampled_from(
        ["", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!null ", "!!str ", "!!binary ", "!!set "]
    ),
    value=st.from_regex(r"[-+]?[0-9xbo_.:eE+-]{0,12}[TZ ]?[0-9:.Z+-]{0,12}", fullmatch=True) | st.just("2026-02-30"),
    quote=st.sampled_from(["", "'"]),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_value_looks_like_nothing_but_a_config_error_comes_of_it(
    tmp_path: Path, tag: str, value: str, quote: str
) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(BASE + f"mqtt: {{client_id: {tag}{quote}{value}{quote}}}\n", encoding="utf-8")
    try:
        load_settings(path)
    except ConfigError as e:
        assert e.object.startswith(f"{path}:5"), "where it stands"


# -- what is right ---------------------------------------------------------------------------------------------------


def test_the_shipped_configuration_loads_and_shows_the_defaults() -> None:
    """What configs/edge-rul.yaml sets in the sections below is what holds without it: it is documentation too."""
    path = ROOT / "configs" / "edge-rul.yaml"
    shipped, source = load_settings(path)
    defaults = Settings(bundle=shipped.bundle, topics=shipped.topics)
    assert shipped.mqtt == defaults.mqtt
    assert shipped.engine == defaults.engine
    assert shipped.log == defaults.log
    assert shipped.limits == defaults.limits
    assert shipped.inputs == {}
    assert [type(rule) for rule in shipped.alarms] == [RulAlarm, HealthAlarm]
    assert {name: t.names for name, t in templates(shipped.topics).items()} == {
        "prediction": ("line", "asset"),
        "state": ("line", "asset"),
        "alarm": ("line", "asset", "alarm"),
        "alarm_event": ("line", "asset"),
        "availability": (),
        "command": (),
        "status": (),
        "statistics": (),
        "daemon_alarm": ("alarm",),
        "dead_letter": (),
    }
    assert source.path == path


def test_the_shipped_configuration_fits_the_shipped_bundle(shipped_bundle: Path) -> None:
    if not shipped_bundle.is_dir():
        absent("bundles/cmapss_fd001")
    assert main(["check", "--offline", "--config", str(ROOT / "configs" / "edge-rul.yaml")]) == 0


def test_the_defaults(write: Any) -> None:
    loaded, _ = load_settings(write(BASE))
    assert (loaded.mqtt.host, loaded.mqtt.port, loaded.mqtt.version) == ("localhost", 1883, 5)
    assert loaded.topics.prediction == "edge-rul/{asset}/prediction"
    assert loaded.engine.max_batch == 32
    assert loaded.limits.payload < loaded.mqtt.max_packet
    assert loaded.alarms == []


def test_a_version_and_a_null_command(write: Any) -> None:
    loaded, _ = load_settings(write(BASE + "  command: null\nmqtt: {version: 3.1.1}\n"))
    assert loaded.mqtt.version == "3.1.1"
    assert loaded.topics.command is None
    assert "command" not in templates(loaded.topics)


def test_merge_keys_are_yaml_too(write: Any) -> None:
    text = BASE + "alarms:\n  - &low {name: low, watch: rul, below: 30}\n  - {<<: *low, name: lower, below: 10}\n"
    loaded, _ = load_settings(write(text))
    assert [(a.name, a.below) for a in loaded.alarms if isinstance(a, RulAlarm)] == [("low", 30), ("lower", 10)]


# -- files, and what the bundle does not have, as `edge-rul check` finds them ------------------------------------------


@pytest.fixture
def check(write: Any, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[Path, str]]:
    """Check BASE with more lines, which has to fail; gives the file and what stands on stderr."""

    def check(more: str) -> tuple[Path, str]:
        path: Path = write(BASE.replace("bundle: model", f"bundle: {tiny_bundle.path}") + more)
        assert main(["check", "--offline", "--config", str(path)]) == EXIT_CONFIG
        out, err = capsys.readouterr()
        assert out == ""
        return path, err

    return check


@pytest.mark.parametrize(
    ("more", "key", "line"),
    [
        ("mqtt:\n  username: u\n  password_file: pass\n", "mqtt.password_file", 7),
        ("mqtt:\n  tls:\n    ca: ca.pem\n", "mqtt.tls.ca", 7),
        ("mqtt:\n  tls:\n    cert: c.pem\n    key: k.pem\n", "mqtt.tls.cert", 7),
    ],
)
def test_a_file_that_a_key_names_must_be_there(
    check: Callable[[str], tuple[Path, str]], more: str, key: str, line: int
) -> None:
    path, err = check(more)
    assert f"{path}:{line}: {key}: there is no {path.parent}" in err
    assert "hint: a relative path starts at the configuration file's directory" in err


def test_the_bundle_must_be_there(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(BASE)
    assert main(["check", "--offline", "--config", str(path)]) == EXIT_CONFIG
    assert f"{path}:1: bundle: there is no {path.parent / 'model'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "key", "line", "says"),
    [
        ("inputs:\n  a: {missing: hold}\n  d: {missing: hold}\n", "inputs.d", 7, "no such input; it has a, b, c"),
        (
            "alarms:\n  - name: bad\n    watch: health\n    classes: [critical, broken, dead]\n",
            "alarms[0].classes",
            8,
            "no class broken, dead; it has healthy, degrading, critical",
        ),
        (
            "alarms:\n  - {name: low, watch: rul, below: 120, deadband: 10}\n",
            "alarms[0].below",
            6,
            "below + deadband is 130, above the bundle's largest RUL 125 cycles",
        ),
        (
            "alarms:\n  - {name: low, watch: rul, below: .inf}\n",
            "alarms[0].below",
            6,
            "above the bundle's largest RUL",
        ),
    ],
)
def test_what_the_bundle_does_not_have(
    check: Callable[[str], tuple[Path, str]], more: str, key: str, line: int, says: str
) -> None:
    path, err = check(more)
    assert f"{path}:{line}: {key}: " in err
    assert says in err


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_the_password_comes_from_the_first_place_that_has_one(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def password(more: str) -> str | None:
        return mqtt_password(*load_settings(write(BASE + more)))

    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("EDGE_RUL_MQTT_PASSWORD", raising=False)
    assert password("") is None
    monkeypatch.setenv("EDGE_RUL_MQTT_PASSWORD", "from the environment")
    assert password("") == "from the environment"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert password("") == "from the environment"
    (tmp_path / "mqtt_password").write_text("from systemd\n")
    assert password("") == "from systemd"
    (tmp_path / "pass").write_text("from the file \n")
    (tmp_path / "pass").chmod(0o600)
    assert password("mqtt: {username: u, password_file: pass}\n") == "from the file "


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("mqtt:\n  username: u\n  password_file: secret\n", "mqtt.password_file"),
        ("mqtt:\n  tls: {cert: c.pem, key: secret}\n", "mqtt.tls.key"),
        ("http: {token_file: secret}\n", "http.token_file"),
        ("http: {tls_cert: c.pem, tls_key: secret}\n", "http.tls_key"),
    ],
)
def test_a_secret_that_everybody_may_read_is_refused_whichever_it_is(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, key: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "c.pem").write_text("")
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "secret").chmod(0o644)

    def wire(path: Path) -> None:
        settings, source = load_settings(path)
        build_transport(settings, source, None)
        http_token(settings, source)
        other: Any = object()  # it is refused before any of these is looked at
        open_http(settings, source, other, other, other, info={}, starts=(1, 0), ready=str, alive=str, log=other)

    error = refused(write(BASE + more), wire)
    assert f": {key}" in error.object
    assert error.hint.startswith(f"chmod o= {tmp_path / 'secret'}")
    assert "hunter2" not in str(error)


def test_a_certificate_of_the_status_page_that_is_none_is_told_with_its_key(write: Any, tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not PEM")
        (tmp_path / name).chmod(0o600)
    path = write(BASE + "http: {tls_cert: cert.pem, tls_key: key.pem}\n")
    error = refused(path, lambda _: http_files(*load_settings(path)))
    assert error.object == f"{path}:5: http.tls_cert"
    assert "not what TLS wants" in error.problem
    pair = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -passout pass:x -keyout key.pem -out cert.pem"
    subprocess.run(
        f"openssl req -x509 {pair} -days 2 -subj /CN=x".split(), cwd=tmp_path, check=True, capture_output=True
    )
    assert "no passphrase" in refused(path, lambda _: http_files(*load_settings(path))).hint


def test_a_password_file_that_is_no_text(write: Any, tmp_path: Path) -> None:
    (tmp_path / "pass").write_bytes(b"\xff\xfe")
    (tmp_path / "pass").chmod(0o600)
    path = write(BASE + "mqtt:\n  username: u\n  password_file: pass\n")
    loaded, source = load_settings(path)
    error = refused(path, lambda _: build_transport(loaded, source, None))
    assert error.object == f"{path}:7: mqtt.password_file"
    assert "cannot be read" in error.problem


def test_a_sensors_level_belongs_to_no_assets_identity(write: Any) -> None:
    loaded, _ = load_settings(
        write("bundle: b\ntopics:\n  readings: ['plant/{asset}/{sensor}/now', 'plant/{asset}/all']\n")
    )
    assert loaded.topics.prediction == "edge-rul/{asset}/prediction"
    assert loaded.windows.parts_within == 10.0
