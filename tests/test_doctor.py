"""What the doctor finds on a machine and at a broker, and that its archive holds no secret."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port, start_mosquitto
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_rul import cli
from edge_rul.adapters import kernel_clock, mqtt_probe
from edge_rul.bundle import Bundle
from edge_rul.config import EngineSettings, JournalSettings, Mqtt, Tls
from edge_rul.doctor import Finding, archive, broker, machine
from edge_rul.engines.failures import record_failure
from edge_rul.errors import EXIT_FOUND, EXIT_OK
from edge_rul.told import Told


def grades(findings: Iterator[Finding] | list[Finding]) -> dict[str, str]:
    return {one.what: one.grade for one in findings}


def bad(findings: Iterator[Finding] | list[Finding]) -> str:
    """The one that is bad, with its hint."""
    (one,) = [f for f in findings if f.grade == "bad"]
    assert one.hint
    return f"{one.what}: {one.said}; {one.hint}"


# -- the machine -----------------------------------------------------------------------------------------------------


def test_a_clock_that_nobody_sets_is_found() -> None:
    assert machine.clock(True).grade == "ok"
    assert machine.clock(None).grade == "note"
    assert "timesyncd" in bad([machine.clock(False)])
    assert kernel_clock.synchronised() in {True, False, None}  # of this machine


def test_a_disk_that_is_memory_or_full_is_found(tmp_path: Path) -> None:
    mounts, state = tmp_path / "mounts", tmp_path / "state" / "edge-rul"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\n/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    small = JournalSettings(min_free=0, keep_bytes=1)

    def look(settings: JournalSettings = small) -> Finding:
        return machine.disk(state, settings, str(mounts))

    assert look().grade == "ok"
    assert not state.exists(), "a doctor alters nothing"
    assert look(JournalSettings(min_free=0, keep_bytes=10**18)).grade == "note"
    assert "below journal.min_free" in bad([look(JournalSettings(min_free=10**18))])
    mounts.write_text(f"{mounts.read_text()}tmpfs {tmp_path / 'state'} tmpfs rw 0 0\n")
    assert look().grade == "ok", "the directory above it is on the disk"
    state.mkdir(parents=True)
    assert "a restart of the machine loses the journal" in bad([look()])


def test_a_directory_that_can_be_no_directory_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    settings = JournalSettings()
    assert f"{file} is no directory" in bad([machine.disk(file / "state" / "edge-rul", settings)])
    assert f"{file} is no directory" in bad([machine.disk(file, settings)])
    assert "/proc keeps no files" in bad([machine.disk(Path("/proc/nothing/here"), settings)])
    cache = machine.engines(EngineSettings(cache="file/cache"), tmp_path)
    assert f"{file} is no directory" in bad([one for one in cache if one.what == "engine cache"])


def test_a_bundle_that_is_not_whole_is_found(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert machine.bundle(tiny_bundle.path).said.startswith("tiny, sha256 ")
    assert "there is no such directory" in bad([machine.bundle(tmp_path / "gone")])
    cut = shutil.copytree(tiny_bundle.path, tmp_path / "cut")
    with (cut / "model.onnx").open("r+b") as graph:
        graph.truncate(100)
    assert "model.onnx" in bad([machine.bundle(cut)])


def test_a_port_that_another_program_has_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        assert f"127.0.0.1:{number}: Address already in use" in bad([machine.port("127.0.0.1", number)])
    assert machine.port("127.0.0.1", free_port()).grade == "ok"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def have(driver: str, *engines: str) -> None:
        monkeypatch.setattr(machine, "nvidia_driver", lambda: driver)
        monkeypatch.setattr(machine, "installed", lambda: dict.fromkeys(engines, "1"))
        monkeypatch.setattr(machine, "_DEVICES", ())

    return have


def test_a_gpu_that_is_wanted_and_not_there_is_found(no_gpu: Callable[..., None], tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")

    def look(**settings: Any) -> list[Finding]:
        return list(machine.engines(EngineSettings(cache=cache, **settings), tmp_path))

    no_gpu("", "onnxruntime", "tensorrt")
    assert set(grades(look()).values()) == {"ok"}
    assert "nvidia-smi" in bad(look(name="tensorrt"))
    assert "nvidia-smi" in bad(look(require_gpu=True))
    no_gpu("NVRM 580", "onnxruntime")
    assert grades(look())["GPU"] == "note", "it could be used"
    assert "edge-rul[tensorrt-rtx]" in bad(look(name="tensorrt_rtx"))
    no_gpu("NVRM 580", "onnxruntime", "tensorrt")
    assert set(grades(look(name="tensorrt")).values()) == {"ok"}
    for _ in range(3):
        record_failure(tmp_path / "cache", lambda _: None)
    assert "Xid" in bad(look(name="tensorrt"))


# -- the broker ------------------------------------------------------------------------------------------------------


def test_what_a_broker_does_not_grant_is_found() -> None:
    ask = Mqtt(session_expiry=1000)
    assert set(grades(broker.limits({}, ask)).values()) == {"ok"}
    assert "session" in bad(broker.limits({"SessionExpiryInterval": 999}, ask))
    assert "retained" in bad(broker.limits({"RetainAvailable": 0}, ask))
    assert "wildcards" in bad(broker.limits({"WildcardSubscriptionAvailable": 0}, ask))
    assert "QoS 0" in bad(broker.limits({"MaximumQoS": 0}, ask))
    assert "above 1000 bytes" in bad(broker.limits({"MaximumPacketSize": 1000}, ask))
    assert grades(broker.limits({"ReceiveMaximum": 20}, ask))["limits"] == "note"
    assert "7 messages" in bad([broker.dropped(7)])
    assert (broker.dropped(0).grade, broker.dropped(None).grade) == ("ok", "note")
    # Mosquitto takes the number back when it has not changed for a minute, and goes on to tell its version.
    assert broker.dropped(None, "mosquitto version 2.0.11").grade == "ok"


def test_who_may_listen_is_told() -> None:
    assert grades(broker.access(Mqtt())) == {"users": "note", "TLS": "ok"}
    assert grades(broker.access(Mqtt(username="edge", host="broker.example"))) == {"users": "ok", "TLS": "note"}
    assert grades(broker.access(Mqtt(tls=Tls(cert="a", key="b")))) == {"users": "ok", "TLS": "ok"}
    assert grades(broker.access(Mqtt(username="edge", tls=Tls(check_hostname=False))))["TLS"] == "note"


def test_what_the_daemon_tells_is_judged() -> None:
    assert "it is offline" in bad(broker.daemon(Told(why="it is offline")))
    assert "disk_full" in bad(broker.daemon(Told(serves=True, alarms=["disk_full"])))
    assert "refused 3" in bad(broker.daemon(Told(serves=True, statistics={"publish_refused": 3})))
    told = Told(serves=True, statistics={"publish_refused": 0, "dropped": {"inbox_full_qos0": 5}})
    assert [f.grade for f in broker.daemon(told)] == ["ok", "note"]


@pytest.mark.parametrize(("version", "in_flight"), [(5, 15), ("3.1.1", 7)])
def test_the_queue_of_a_broker_is_found_by_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any, in_flight: int
) -> None:
    monkeypatch.setattr(mqtt_probe, "COUNT", 40)
    monkeypatch.setattr(mqtt_probe, "_QUIET", 0.3)
    made = start_mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 25\nmax_inflight_messages 7")
    try:
        settings = Mqtt(host="127.0.0.1", port=made.port, version=version, receive_maximum=15)
        kept, sent = mqtt_probe.probe(settings, None, None, "edge-rul/probe")
        assert (kept, sent) == (25, in_flight)
        told = broker.queue(broker.Probe(40, kept, sent), settings)
        assert grades(told) == {"broker queue": "bad", "broker in flight": "ok" if version == 5 else "bad"}
        # Nothing of it stays: no session, and no message for one.
        again = mqtt_probe.probe(settings, None, None, "edge-rul/probe")
        assert again == (kept, sent)
        assert made.log.read_text().count("-probe-") == 0
    finally:
        made.process.terminate()
        made.process.wait(10)


# -- the command -----------------------------------------------------------------------------------------------------

PASSWORD = 'pa"ss\\wörd-4711'
TOKEN = "token-0815"


@pytest.fixture
def config(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with secrets, in the files that it names, in a comment, and in the environment."""
    monkeypatch.setattr(kernel_clock, "synchronised", lambda: True)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("EDGE_RUL_MQTT_PASSWORD", "of-the-environment")
    for name, text in (("mqtt.pass", PASSWORD), ("http.token", TOKEN)):
        (tmp_path / name).write_text(f"{text}\n")
        (tmp_path / name).chmod(0o600)
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout mqtt.key"
    make = f"openssl req -x509 {key} -out mqtt.pem -days 2 -subj /CN=daemon"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    path = tmp_path / "edge-rul.yaml"
    path.write_text(
        f"bundle: {tiny_bundle.path}\n# the password is {PASSWORD}\n"
        f"mqtt:\n  port: {free_port()}\n  username: edge\n  password_file: mqtt.pass\n"
        "  tls: {cert: mqtt.pem, key: mqtt.key}\n"
        "http: {token_file: http.token}\ntopics: {readings: ['plant/{asset}/cycle']}\nengine: onnxruntime\n"
    )
    return path


def test_the_archive_holds_what_helps_and_no_secret(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_rul.secrets._CREDENTIALS", tmp_path / "run")
    (tmp_path / "run/edge-rul.service").mkdir(parents=True)
    (tmp_path / "run/edge-rul.service/mqtt_password").write_text("of-the-credential\n")
    log, out = tmp_path / "daemon.log", tmp_path / "case.tar.gz"
    said = json.dumps({"event": "connect_failed", "reason": f"{PASSWORD} is wrong"}, ensure_ascii=False)
    log.write_text(f"{'x' * 300_000}\n{said}\nGET /?token={TOKEN}&env=of-the-environment of-the-credential\n")
    assert cli.main(["doctor", "--config", str(config), "--archive", str(out), "--log", str(log)]) == EXIT_FOUND
    shown = capsys.readouterr()
    assert "cannot be reached" in shown.out
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as packed:
        parts = {m.name.removeprefix("edge-rul-support/"): packed.extractfile(m).read() for m in packed}  # type: ignore[union-attr]
    names = {"about.json", "configuration.json", "findings.json", "daemon.json", "state.json", "bundle.json", "log.txt"}
    assert parts.keys() == names
    key = re.findall(r"(?m)^[A-Za-z0-9+/=]{20,}$", (tmp_path / "mqtt.key").read_text())
    assert key
    for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], TOKEN, "of-the-environment", "of-the-credential", *key):
        for name, data in {**parts, "stdout": shown.out.encode(), "stderr": shown.err.encode()}.items():
            assert secret.encode() not in data, f"{name} holds {secret}"
    settings = json.loads(parts["configuration.json"])
    assert (settings["mqtt"]["username"], settings["mqtt"]["password_file"]) == ("edge", "mqtt.pass")
    assert "numpy" in json.loads(parts["about.json"])["packages"]
    found = {one["what"]: one["grade"] for one in json.loads(parts["findings.json"])}
    assert found["bundle"] == "ok"
    assert "status page" in found, "as no daemon is known to have its port"
    assert not {"users", "TLS"} & found.keys(), "nobody came in"
    assert {"what": "broker", "grade": "bad"}.items() <= json.loads(parts["findings.json"])[-1].items()
    assert json.loads(parts["bundle.json"])["name"] == "tiny"
    assert b"connect_failed" in parts["log.txt"]
    assert b"[removed] is wrong" in parts["log.txt"]
    assert len(parts["log.txt"]) < 270_000
    assert "no such file" in json.loads(parts["state.json"])["journal"]["problem"]


VISIBLE = st.characters(max_codepoint=0x2FF, exclude_categories=("Z", "C"))


@given(secret=st.text(VISIBLE, min_size=1, max_size=20))
def test_whatever_a_secret_looks_like_it_is_taken_out(secret: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assume(secret not in archive._MASK)
    assume(secret not in json.dumps({"password": ""}))  # a secret `"` is taken out of JSON's own signs too
    path = tmp_path_factory.getbasetemp() / "case.tar.gz"
    log = json.dumps({"password": secret}, ensure_ascii=False)
    archive.write(path, {"a.txt": f"before {secret} after", "b.txt": log, "c.json": {"list": [secret]}}, [secret])
    with tarfile.open(path) as packed:
        texts = [packed.extractfile(m).read().decode() for m in packed]  # type: ignore[union-attr]
    assert texts[0] == f"before {archive._MASK} after"
    assert json.loads(texts[1])["password"] == archive._MASK
    assert json.loads(texts[2])["list"] == [archive._MASK]


def test_a_machine_in_order_is_0(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the daemon, all that the command looks at is right here; so the daemon is pretended."""
    monkeypatch.setattr(kernel_clock, "synchronised", lambda: True)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr("edge_rul.commands.doctor.ask", lambda *_: Told(serves=True))
    made = start_mosquitto(tmp_path)
    try:
        path = tmp_path / "edge-rul.yaml"
        path.write_text(
            f"bundle: {tiny_bundle.path}\nmqtt: {{host: 127.0.0.1, port: {made.port}}}\n"
            f"topics: {{readings: ['plant/{{asset}}/cycle']}}\nengine: onnxruntime\nhttp: {{port: {free_port()}}}\n"
        )
        assert cli.main(["doctor", "--config", str(path), "--json"]) == EXIT_OK
        found = {one["what"]: one["grade"] for one in json.loads(capsys.readouterr().out)}
        assert found["broker drops"] == "ok", "the broker's own topics were heard"
        assert {"clock", "disk", "bundle", "engines", "GPU", "engine cache", "session", "daemon"} <= found.keys()
        assert {"users", "TLS"} <= found.keys()
        assert "status page" not in found
        assert "bad" not in found.values()
    finally:
        made.process.terminate()
        made.process.wait(10)
