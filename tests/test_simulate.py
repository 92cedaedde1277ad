"""The simulator's engines, and the publisher: what a user of the fleet, and of its messages, relies on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import fit_simulator
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from conftest import Broker, free_port, start_mosquitto
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_rul.bundle import load
from edge_rul.core.normalise import outside
from edge_rul.errors import EXIT_OK, EXIT_USAGE, ConfigError, TransportError
from edge_rul.simulate import (
    TOPIC,
    Publisher,
    iso,
    message,
    publish,
    read_password,
    simulate_command,
    topic_template,
    wall_clock,
)
from edge_rul.simulator import Fleet, Params, Reading, draw_life, load_params
from edge_rul.training.cmapss import SENSORS
from edge_rul.training.cmapss import load as load_cmapss

MOVING = ("T24", "T30", "T50", "P30", "Nf", "Nc", "Ps30", "phi", "NRf", "NRc", "BPR", "htBleed", "W31", "W32")


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params()


def rounds(fleet: Fleet, count: int) -> list[list[Reading]]:
    return list(itertools.islice(fleet, count))


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another(params: Params) -> None:
    first = rounds(Fleet(params, 5, seed=3), 300)
    assert rounds(Fleet(params, 5, seed=3), 300) == first
    assert rounds(Fleet(params, 5, seed=4), 300) != first


def test_an_engine_does_not_depend_on_how_many_others_there_are(params: Params) -> None:
    few, many = rounds(Fleet(params, 2), 50), rounds(Fleet(params, 9), 50)
    assert few == [readings[:2] for readings in many]


def test_engines_run_to_failure_and_come_back_with_cycle_1_of_another_life(params: Params) -> None:
    history = [readings[0] for readings in rounds(Fleet(params, 1), 800)]
    for before, after in itertools.pairwise(history):
        if before.remaining > 0:
            assert (after.cycle, after.remaining) == (before.cycle + 1, before.remaining - 1)
        else:
            assert after.cycle == 1 and after.remaining >= 120
    ends = [reading.cycle for reading in history if reading.remaining == 0]
    assert len(ends) >= 2
    assert len(set(ends)) > 1, "every life has its own length"


def test_a_fleet_starts_spread_over_its_lives_with_some_near_the_end(params: Params) -> None:
    for assets in (6, 12, 40):
        start = rounds(Fleet(params, assets), 1)[0]
        left = sorted(reading.remaining for reading in start)
        # The first RUL comes 30 cycles later: nobody may fail before, and somebody has to be close by then.
        assert 50 <= left[0] < 80
        assert left[-1] > 100
        assert all(reading.cycle >= 1 for reading in start)


def test_values_bear_the_sensors_names_and_stay_where_the_model_was_trained(
    params: Params, shipped_bundle: Path
) -> None:
    inputs = load(shipped_bundle).manifest.inputs
    readings = [r for readings in rounds(Fleet(params, 40), 250) for r in readings]
    assert all(tuple(r.values) == SENSORS for r in readings)
    x = np.array([[r.values[i.name] for i in inputs] for r in readings], np.float32)
    beyond = outside(x, np.float32([i.low for i in inputs]), np.float32([i.high for i in inputs]))
    assert beyond.mean() < 1e-3


def test_each_sensor_drifts_the_way_its_real_one_does(params: Params, data_dir: Path) -> None:
    real = load_cmapss(data_dir / "cmapss", "FD001", "train", SENSORS)
    lives = np.split(real.inputs.astype(np.float64), real.starts[1:])
    rng = np.random.default_rng(1)
    simulated = [draw_life(params, rng) for _ in range(200)]

    def drift(group: list[np.ndarray]) -> np.ndarray:
        return np.mean([life[-10:].mean(axis=0) - life[:20].mean(axis=0) for life in group], axis=0)

    columns = [SENSORS.index(name) for name in MOVING]
    wanted, got = drift(lives)[columns], drift(simulated)[columns]
    assert (np.sign(wanted) == np.sign(got)).all()
    np.testing.assert_allclose(got, wanted, rtol=0.25)


def test_the_packaged_parameters_are_what_the_tool_fits(
    params: Params, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "fitted.json"
    argv = ["fit_simulator", "--data", str(data_dir / "cmapss"), "--out", str(out), "--engines", "20"]
    monkeypatch.setattr(sys, "argv", argv)
    assert fit_simulator.main() == EXIT_OK
    fitted = load_params(out)
    for ours, theirs in zip(params.sensors, fitted.sensors, strict=True):
        assert (ours.name, ours.unit, ours.decimals) == (theirs.name, theirs.unit, theirs.decimals)
        assert (theirs.level, theirs.damage) == pytest.approx((ours.level, ours.damage), rel=1e-3)
        assert theirs.noise == pytest.approx(ours.noise, rel=1e-3)
    assert fitted.traits.life == params.traits.life
    np.testing.assert_allclose(fitted.traits.correlation, params.traits.correlation, atol=0.05)


def test_a_wrong_parameter_file_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.json"):
        load_params(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text('{"schema": 1}')
    with pytest.raises(ConfigError, match=r"other\.json"):
        load_params(tmp_path / "other.json")


def test_a_message_keeps_the_wire_contract_and_says_that_it_is_simulated() -> None:
    reading = Reading("sim-07", "B", 12, {"T24": 641.8, "htBleed": 392.0}, 100)
    topic, payload = message(reading, topic_template(TOPIC), 1767225600123, "simulated")
    assert topic == "plant/B/sim-07/cycle"
    assert json.loads(payload) == {
        "cycle": 12,
        "ts": "2026-01-01T00:00:00.123Z",
        "source": "simulated",
        "values": {"T24": 641.8, "htBleed": 392.0},
    }


def test_event_times_rise_even_when_an_engines_cycles_go_out_in_the_same_millisecond() -> None:
    stamp = wall_clock()
    times = [stamp(Reading("a", "A", cycle, {})) for cycle in range(1000)]
    assert all(b > a for a, b in itertools.pairwise(times))
    parsed = datetime.fromisoformat(iso(times[-1]).replace("Z", "+00:00"))
    assert abs(parsed.timestamp() - times[-1] / 1000) < 1e-3


@pytest.mark.parametrize("topic", ["plant/cycle", "plant/{asset}/{cell}/cycle", "plant/+/{asset}", "a{asset}", ""])
def test_a_topic_that_cannot_serve_is_refused(topic: str) -> None:
    with pytest.raises(ConfigError):
        topic_template(topic)


def test_wrong_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert simulate_command(assets=0) == EXIT_USAGE
    assert simulate_command(rate=-1) == EXIT_USAGE
    assert simulate_command(rate=float("nan")) == EXIT_USAGE
    assert "--rate" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no-such-file"):
        read_password(tmp_path / "no-such-file")
    (tmp_path / "password").write_text("secret\n")
    assert read_password(tmp_path / "password") == "secret"


def subscribe(port: int, topic: str) -> tuple[mqtt.Client, list[mqtt.MQTTMessage]]:
    """A subscriber at QoS 1, once the broker has confirmed it; and what it has received."""
    got: list[mqtt.MQTTMessage] = []
    ready = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _u, m: got.append(m)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(10)
    return client, got


def wait_until(client: mqtt.Client, got: list[mqtt.MQTTMessage], count: int) -> None:
    arrived = threading.Event()

    def on_message(_c: mqtt.Client, _u: object, m: mqtt.MQTTMessage) -> None:
        got.append(m)
        if len(got) >= count:
            arrived.set()

    client.on_message = on_message
    if len(got) < count:
        arrived.wait(20)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_fleet_reaches_the_broker_in_order_at_qos_1(mosquitto: Broker, params: Params, version: str) -> None:
    client, got = subscribe(mosquitto.port, "plant/#")
    with Publisher("127.0.0.1", mosquitto.port, version=version) as publisher:
        sock = publisher._client.socket()
        assert isinstance(sock, socket.socket) and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        sent = publish(
            itertools.islice(Fleet(params, 3), 40),
            publisher,
            topic=topic_template(TOPIC),
            source="simulated",
            stamp=wall_clock(),
            rate=0,
        )
        assert publisher.drain(20)
    wait_until(client, got, 120)
    assert sent == len(got) == 120
    assert {m.qos for m in got} == {1}
    expected = [(r.asset, r.cycle) for readings in rounds(Fleet(params, 3), 40) for r in readings]
    assert [(m.topic.split("/")[2], json.loads(m.payload)["cycle"]) for m in got] == expected
    assert all(json.loads(m.payload)["source"] == "simulated" for m in got)


def test_nothing_is_lost_when_the_broker_goes_away_and_comes_back(tmp_path: Path) -> None:
    broker = start_mosquitto(tmp_path)
    notices: list[str] = []
    lost = threading.Event()

    def notice(text: str) -> None:
        notices.append(text)
        lost.set()

    with Publisher("127.0.0.1", broker.port, notice=notice, in_flight=5) as publisher:
        assert publisher.send("a/b", b"1")
        assert publisher.drain(10)
        broker.process.terminate()
        broker.process.wait(10)
        assert lost.wait(10) and "connection lost" in notices[0]
        for number in range(5):
            assert publisher.send("a/b", str(number).encode())
        assert not publisher.drain(0.1), "offline, nothing is acknowledged"
        stop = threading.Event()
        stop.set()
        assert not publisher.send("a/b", b"one too many", stop), "offline, no more than in_flight are taken"
        again = start_mosquitto(tmp_path, port=broker.port)
        try:
            assert publisher.drain(30)
        finally:
            again.process.terminate()
            again.process.wait(10)


def test_a_broker_that_is_not_there_or_refuses_is_the_networks_fault(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="refused"), Publisher("127.0.0.1", free_port()):
        pass
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o700)
    broker = start_mosquitto(tmp_path, f"allow_anonymous true\nacl_file {acl}")
    try:
        with (
            Publisher("127.0.0.1", broker.port) as publisher,
            pytest.raises(TransportError, match=r"(?i)not authorized"),
        ):
            publisher.send("plant/A/sim-01/cycle", b"{}")
            publisher.drain(10)
    finally:
        broker.process.terminate()
        broker.process.wait(10)
    closed = start_mosquitto(tmp_path, "allow_anonymous false")
    try:
        with pytest.raises(TransportError, match=r"(?i)not authorized"), Publisher("127.0.0.1", closed.port):
            pass
    finally:
        closed.process.terminate()
        closed.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_what_it_does_and_ends_cleanly_on_a_signal(mosquitto: Broker, number: signal.Signals) -> None:
    client, got = subscribe(mosquitto.port, "plant/#")
    argv = [sys.executable, "-m", "edge_rul.cli", "simulate", "--port", str(mosquitto.port), "--assets", "2"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    wait_until(client, got, 60)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (EXIT_OK, "")
    assert "2 SIMULATED engines, sim-01 to sim-02" in out
    assert f":{mosquitto.port} on plant/{{line}}/{{asset}}/cycle" in out
    assert "stopped after" in out
