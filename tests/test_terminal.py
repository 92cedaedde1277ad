"""The commands that ask the broker: what they say of a daemon, of one that is away, and of a plant's messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Broker, absent, free_port, start_mosquitto
from paho.mqtt import publish

from edge_rul import cli
from edge_rul.bundle import Bundle
from edge_rul.errors import EXIT_CONFIG, EXIT_FOUND, EXIT_INTERNAL, EXIT_OK, EXIT_REFUSED, EXIT_USAGE

Main = Callable[..., tuple[int, str, str]]
VALUES = {"values": [1.0, 2.0, 3.0]}


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str]) -> Main:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        code = cli.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


def configuration(directory: Path, bundle: Bundle, port: int, more: str = "") -> Path:
    path = directory / "edge-rul.yaml"
    path.write_text(
        f"bundle: {bundle.path}\nmqtt: {{host: 127.0.0.1, port: {port}}}\nengine: onnxruntime\n"
        f"topics:\n  readings: ['plant/{{asset}}/cycle', 'lab/{{asset}}']\n{more}"
    )
    return path


def retain(broker: Broker, topic: str, payload: Any, qos: int = 1) -> None:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    publish.single(topic, data, qos=qos, retain=True, hostname="127.0.0.1", port=broker.port)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = start_mosquitto(tmp_path_factory.mktemp("broker"))
    yield made
    made.process.terminate()
    made.process.wait(10)


class Daemon(NamedTuple):
    config: Path
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def daemon(broker: Broker, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that serves, with topics of its own below `served`."""
    directory = tmp_path_factory.mktemp("daemon")
    topics = "".join(
        f"  {key}: served/{text}\n"
        for key, text in {
            "prediction": "{asset}/prediction",
            "alarm": "{asset}/alarm/{alarm}",
            "alarm_event": "{asset}/event",
            "availability": "availability",
            "command": "command",
            "status": "status",
            "statistics": "statistics",
            "daemon_alarm": "_daemon/alarm/{alarm}",
        }.items()
    )
    config = configuration(directory, tiny_bundle, broker.port, topics)
    log = directory / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)],
            env={**os.environ, "STATE_DIRECTORY": str(directory / "state")},
            stderr=out,
        )
    yield Daemon(config, process, log)
    process.kill()
    process.wait(10)


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_tells_a_person_and_a_program_how_the_daemon_does(main: Main, daemon: Daemon) -> None:
    code, out, err = main("status", "--config", daemon.config, "--wait", "60")
    assert (code, err) == (EXIT_OK, ""), daemon.log.read_text()
    assert out.startswith("edge-rul on 127.0.0.1:")
    assert " serves tiny on onnxruntime " in out
    assert "\nPredictions " in out
    # Their values make a column.
    at = out.index("connected\n") - out.index("Broker ")
    table = out[out.index("Broker ") :].splitlines()
    assert all(line[at - 1] == " " != line[at] for line in table), out
    code, out, _ = main("status", "--config", daemon.config, "--wait", "60", "--json")
    told = json.loads(out)
    assert (code, told["serves"], told["availability"], told["alarms"]) == (EXIT_OK, True, "online", [])
    assert told["statistics"]["schema"] == "edge-rul/statistics/1"


def test_status_tells_of_a_reload_and_of_a_candidate() -> None:
    from edge_rul.commands.status import lines
    from edge_rul.told import Told

    reload = {"ts": "2026-01-01T00:00:00Z", "changed": ["alarms", "log"], "problem": ""}
    candidate = {"bundle": {"name": "next"}, "windows": 0, "problem": ""}
    status = {"words": "tiny on a CPU", "reload": reload, "candidate": candidate}

    def said() -> str:
        return "\n".join(lines(Told(serves=True, status=status), "edge-rul"))

    assert said().startswith("edge-rul serves tiny on a CPU\nthe last reload, 2026-01-01T00:00:00Z, took alarms, log\n")
    assert "the candidate next has scored no window yet" in said()
    candidate |= {"windows": 1234, "rul_mean": 1.234, "rul_largest": 20.0, "disagreement": 0.051}
    reload["problem"] = "topics: x"
    assert "was refused: topics: x" in said()
    assert "differs over 1,234 windows by 1.23 in RUL on average, by 20.00 at most" in said()
    assert "another health class of 5.1%" in said()
    candidate["problem"] = "it was lost"
    assert "the candidate next scores no more: it was lost" in said()


def test_status_of_a_daemon_that_is_away_is_1(main: Main, broker: Broker, tiny_bundle: Bundle, tmp_path: Path) -> None:
    config = configuration(tmp_path, tiny_bundle, broker.port)
    code, out, _ = main("status", "--config", config, "--wait", "0.2")
    assert code == EXIT_FOUND
    assert "does not serve: no daemon was ever here" in out
    retain(broker, "edge-rul/availability", b"online")
    retain(broker, "edge-rul/_daemon/alarm/disk_full", {"state": "active"})
    retain(broker, "edge-rul/_daemon/alarm/skipping", {"state": "normal"})
    code, out, _ = main("status", "--config", config, "--wait", "0.2")
    assert code == EXIT_FOUND
    assert "it counts as online, and sent no statistics" in out
    assert "alarm of the daemon: disk_full\n" in out
    assert "skipping" not in out
    retain(broker, "edge-rul/availability", b"offline")
    code, out, _ = main("status", "--config", config, "--wait", "3600", "--json")  # which is not waited for
    assert code == EXIT_FOUND
    assert json.loads(out)["why"] == "it is offline"


def test_a_broker_that_is_down_is_not_a_daemon_that_is_down(main: Main, tiny_bundle: Bundle, tmp_path: Path) -> None:
    config = configuration(tmp_path, tiny_bundle, port := free_port())
    code, out, err = main("status", "--config", config)
    assert (code, out) == (EXIT_REFUSED, "")
    assert f"connect: 127.0.0.1:{port}: cannot be reached" in err
    assert "hint: is the broker running" in err


def test_a_person_may_be_another_user_than_the_daemon(main: Main, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The daemon's password is not shown to a broker under another's name."""
    passwords, secret = tmp_path / "passwords", tmp_path / "operator.pass"
    passwords.write_text("")
    subprocess.run(["mosquitto_passwd", "-b", passwords, "operator", "o's"], check=True, capture_output=True)
    secret.write_text("o's\n")
    secret.chmod(0o600)
    guarded = start_mosquitto(tmp_path, f"allow_anonymous false\npassword_file {passwords}")
    try:
        config = configuration(tmp_path, tiny_bundle, guarded.port)
        arguments = ("status", "--config", config, "--wait", "0.2", "--username", "operator")
        code, _, err = main(*arguments)
        assert code == EXIT_REFUSED
        assert "the broker refuses us" in err
        assert main(*arguments, "--password-file", secret)[0] == EXIT_FOUND  # it came in, and found no daemon
        secret.chmod(0o644)
        code, _, err = main(*arguments, "--password-file", secret)
        assert code == EXIT_CONFIG
        assert f"chmod o= {secret}" in err
        assert "o's" not in err
    finally:
        guarded.process.terminate()
        guarded.process.wait(10)


# -- asset -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_an_asset_is_reset_and_removed_and_the_answer_is_waited_for(
    main: Main, daemon: Daemon, broker: Broker, tmp_path: Path, version: str
) -> None:
    """With MQTT 5 the answer's topic goes beside the command, with 3.1.1 inside."""
    assert main("status", "--config", daemon.config, "--wait", "60")[0] == EXIT_OK
    config = tmp_path / "edge-rul.yaml"
    config.write_text(daemon.config.read_text().replace("mqtt: {", f"mqtt: {{version: {version}, "))
    asset = f"pump-{version}"
    retain(broker, f"plant/{asset}/cycle", {"cycle": 1, **VALUES})
    ask = ("--config", config, "--why", "overhaul 4711", "--wait", "60")
    code, out, err = main("asset", "reset", asset, *ask)
    assert (code, out, err) == (EXIT_OK, f"reset {asset}: done\n", "")
    code, out, _ = main("asset", "remove", asset, *ask, "--who", "kim", "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["who"], answer["why"]) == (EXIT_OK, True, "kim", "overhaul 4711")
    code, out, err = main("asset", "remove", asset, *ask)
    assert (code, out) == (EXIT_FOUND, "")
    assert "the daemon refuses: the daemon knows no such asset" in err
    code, _, err = main("asset", "ack", asset, *ask, "--alarm", "rul_low")
    assert code == EXIT_FOUND
    assert "the daemon knows no such asset" in err
    retain(broker, f"plant/{asset}/cycle", {"cycle": 1, **VALUES})
    code, _, err = main("asset", "shelve", asset, *ask, "--cycles", "5")
    assert code == EXIT_FOUND
    assert "its window is not full yet" in err
    assert (
        main("asset", "shelve", asset, *ask)[0] == main("asset", "ack", asset, *ask, "--cycles", "1")[0] == EXIT_USAGE
    )
    assert main("asset", "reset", asset, *ask, "--alarm", "rul_low")[0] == EXIT_USAGE
    code, _, err = main("asset", "reset", asset, *ask, "--level", "line=A")
    assert code == EXIT_FOUND
    assert "levels is" in err
    retain(broker, f"plant/{asset}/cycle", b"")


def test_a_command_that_nobody_answers_says_that_it_may_still_be_done(
    main: Main, broker: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    config = configuration(tmp_path, tiny_bundle, broker.port)
    ask = ("--config", config, "--why", "x", "--wait", "0.2")
    code, _, err = main("asset", "reset", "pump", *ask)
    assert code == EXIT_FOUND
    assert "no answer within 0.2 s" in err
    config.write_text(config.read_text() + "  command: null\n")
    code, _, err = main("asset", "reset", "pump", *ask)
    assert code == EXIT_CONFIG
    assert "the daemon takes no commands" in err


# -- check -----------------------------------------------------------------------------------------------------------


def test_check_samples_each_topic(main: Main, broker: Broker, tiny_bundle: Bundle, tmp_path: Path) -> None:
    config = configuration(tmp_path, tiny_bundle, broker.port)
    retain(broker, "plant/pump/cycle", {"cycle": 7, "ts": "2026-01-01T00:00:00Z", **VALUES})
    retain(broker, "lab/fan", {"cycle": 8, **VALUES}, qos=0)
    code, out, err = main("check", "--config", config, "--wait", "60")
    assert (code, err) == (EXIT_OK, "")
    assert "plant/pump/cycle, QoS 1, retained: 1 of 1 readings can be used" in out
    assert "asset pump, cycle 7, 2026-01-01T00:00:00.000Z\n" in out
    assert "asset fan, cycle 8, no event time\n" in out
    assert out.count("at QoS 0 it can be lost") == 1
    assert out.endswith("\nok\n")

    retain(broker, "lab/fan", {"cycle": 8, "values": [1.0, "2", 3.0]})
    code, out, _ = main("check", "--config", config, "--wait", "60")
    assert code == EXIT_FOUND
    assert "lab/fan, QoS 1, retained: 0 of 1 readings can be used" in out
    assert "bad_value: " in out

    for topic in ("plant/pump/cycle", "lab/fan"):
        retain(broker, topic, b"")
    code, out, _ = main("check", "--config", config, "--wait", "0.2")
    assert code == EXIT_OK, "a quiet plant is no mistake"
    assert out.count("nothing came within 0.2 s") == 2


def test_check_finds_each_topic_that_the_daemon_may_not_read(main: Main, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Each would end the daemon at its start, exit code 77. Mosquitto refuses by this plugin, not by an acl_file."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        absent("mosquitto_dynamic_security.so (apt-get install mosquitto)")
    role = {"rolename": "r", "acls": [{"acltype": "subscribePattern", "topic": "plant/#", "allow": True}]}
    rights = {
        **{"defaultACLAccess": {"subscribe": False}, "clients": [], "roles": [role]},
        **{"groups": [{"groupname": "all", "roles": [{"rolename": "r"}]}], "anonymousGroup": "all"},
    }
    (tmp_path / "rights.json").write_text(json.dumps(rights))
    guarded = start_mosquitto(
        tmp_path, f"allow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {tmp_path}/rights.json"
    )
    try:
        code, out, _ = main("check", "--config", configuration(tmp_path, tiny_bundle, guarded.port), "--wait", "0.2")
    finally:
        guarded.process.terminate()
        guarded.process.wait(10)
    assert code == EXIT_FOUND
    assert "plant/{asset}/cycle: nothing came within 0.2 s" in out
    assert "lab/{asset}: the broker lets us not read it: Not authorized" in out
    assert "edge-rul/command: the broker lets us not read it: Not authorized" in out


def test_check_does_all_else_before_it_finds_no_broker(main: Main, tiny_bundle: Bundle, tmp_path: Path) -> None:
    config = configuration(tmp_path, tiny_bundle, free_port())
    code, out, err = main("check", "--config", config)
    assert code == EXIT_REFUSED
    assert "\ngolden " in out
    assert "cannot be reached" in err
    assert main("check", "--config", config, "--offline")[0] == EXIT_OK


# -- reload ----------------------------------------------------------------------------------------------------------


def test_reload_hangs_up_only_on_a_daemon(main: Main) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        code, _, err = main("reload", "--pid", str(other.pid))
        assert code == EXIT_INTERNAL
        assert "is no `edge-rul run`: sleep 600" in err
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    code, _, err = main("reload", "--pid", str(other.pid))
    assert code == EXIT_INTERNAL
    assert "no such process" in err


def test_reload_tells_a_daemon(main: Main) -> None:
    """A stand-in that says which signal came."""
    program = "import signal; print(signal.Signals(signal.sigwait([signal.SIGHUP])).name)"
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP]); print(flush=True); {program}"
    command = [sys.executable, "-c", block, "edge-rul", "run", "--config", "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stand_in:
        assert stand_in.stdout is not None
        stand_in.stdout.readline()
        assert main("reload", "--pid", str(stand_in.pid))[0] == EXIT_OK
        assert stand_in.stdout.readline() == "SIGHUP\n"


def test_the_daemon_that_was_told_to_reload_says_what_came_of_it(main: Main, daemon: Daemon) -> None:
    assert main("status", "--config", daemon.config, "--wait", "60")[0] == EXIT_OK
    written = daemon.config.read_text()
    daemon.config.write_text(written + "log: {level: debug}\n")
    assert main("reload", "--config", daemon.config, "--pid", str(daemon.process.pid))[0] == EXIT_OK
    for _ in range(12):  # a status of before may be heard first
        _, out, _ = main("status", "--config", daemon.config, "--wait", "60")
        if "the last reload" in out:
            break
    daemon.config.write_text(written)
    assert re.search(r"(?m)^the last reload, \S+, took log$", out), out


def test_a_configuration_that_is_wrong_is_not_loaded(main: Main, tmp_path: Path) -> None:
    (tmp_path / "edge-rul.yaml").write_text("bundle: x\n")
    code, _, err = main("reload", "--pid", str(os.getpid()), "--config", tmp_path / "edge-rul.yaml")
    assert code == EXIT_CONFIG
    assert "topics" in err


def test_reload_asks_systemd(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$2" = edge-rul.service ] || {{ echo lost >&2; exit 5; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main("reload")[0] == EXIT_OK
    code, _, err = main("reload", "--unit", "other.service")
    assert code == EXIT_INTERNAL
    assert "reload: other.service: lost" in err
    assert (tmp_path / "asked").read_text() == "reload edge-rul.service\nreload other.service\n"
