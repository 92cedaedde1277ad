"""The replay: order, payload, and that it returns only when the broker has everything."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import Counter
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
import replay
from conftest import Broker
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_rul.bundle import Bundle
from edge_rul.errors import EXIT_CONFIG, EXIT_USAGE
from edge_rul.simulate import TOPIC, Publisher, topic_template
from edge_rul.training.table import Table


@pytest.fixture(scope="module")
def table(data_dir: Path) -> Table:
    return replay.load_set(data_dir / "cmapss", "test_FD001.txt")


def test_every_row_of_the_file_is_sent_once(table: Table) -> None:
    sent = Counter((topic, json.loads(payload)["cycle"]) for topic, payload in replay.messages(table))
    assert len(sent) == sum(sent.values()) == len(table) == 13096
    assert len({topic for topic, _ in sent}) == 100


def test_engines_go_side_by_side_cycle_by_cycle_and_fall_silent_at_their_end(table: Table) -> None:
    order = [(json.loads(payload)["cycle"], topic) for topic, payload in replay.messages(table)]
    assert order == sorted(order), "cycle 1 of every engine, then cycle 2 of every engine that has one"
    last = {topic: cycle for cycle, topic in order}
    lengths = np.diff([*table.starts, len(table)]).tolist()
    assert sorted(last.values()) == sorted(lengths)
    assert last["plant/A/engine-001/cycle"] == lengths[0]
    assert last["plant/D/engine-100/cycle"] == lengths[99]


def test_the_payload_is_the_files_row_by_sensor_name(table: Table) -> None:
    topic, payload = next(iter(replay.messages(table, start=1767225600000)))
    body = json.loads(payload)
    assert topic == "plant/A/engine-001/cycle"
    assert (body["cycle"], body["ts"], body["source"]) == (1, "2026-01-01T00:00:00.000Z", "replay")
    assert len(body["values"]) == 21
    # The first row of test_FD001.txt, as it is printed there.
    assert body["values"]["T24"] == 643.02 and body["values"]["Nc"] == 9050.17 and body["values"]["W32"] == 23.3735


def test_a_receiver_gets_the_same_float32_as_training(table: Table) -> None:
    sent = [json.loads(payload)["values"] for _, payload in islice(replay.messages(table, engines=1), 31)]
    assert (np.array([list(values.values()) for values in sent], np.float32) == table.inputs[:31]).all()


def test_a_replay_returns_when_the_broker_has_every_message(mosquitto: Broker, table: Table) -> None:
    expected = list(replay.messages(table, "test/{asset}", engines=7))
    got: list[tuple[str, bytes]] = []
    ready, complete = threading.Event(), threading.Event()

    def on_message(_client: mqtt.Client, _userdata: object, m: mqtt.MQTTMessage) -> None:
        got.append((m.topic, m.payload))
        if len(got) == len(expected):
            complete.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe("test/#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = on_message
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    assert ready.wait(10)
    with Publisher("127.0.0.1", mosquitto.port) as publisher:
        assert replay.replay(table, publisher, topic=topic_template("test/{asset}"), engines=7) == len(expected)
        assert publisher.drain(0), "everything was acknowledged by then"
    assert complete.wait(20)
    client.disconnect()
    client.loop_stop()

    stamps = [datetime.fromisoformat(json.loads(payload)["ts"].replace("Z", "+00:00")) for _, payload in got]
    assert max(stamps) <= datetime.now(timezone.utc), "a stamp in the future would be refused"

    def bare(message: tuple[str, bytes]) -> tuple[str, dict[str, object]]:
        body = json.loads(message[1])
        del body["ts"]
        return message[0], body

    assert [bare(m) for m in got] == [bare(m) for m in expected]


def test_stopping_a_paced_replay_does_not_wait_for_its_end(mosquitto: Broker, table: Table) -> None:
    stop = threading.Event()
    with Publisher("127.0.0.1", mosquitto.port) as publisher:
        threading.Timer(0.3, stop.set).start()
        sent = replay.replay(table, publisher, topic=topic_template(TOPIC), rate=0.2, engines=3, warm_up=30, stop=stop)
    assert 90 <= sent < 100


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, code, words in (
        (["--data", str(tmp_path)], EXIT_CONFIG, "test_FD001.txt"),
        (["--data", str(tmp_path), "--set", "FD001"], EXIT_USAGE, "expected a file like"),
    ):
        monkeypatch.setattr(sys, "argv", ["replay", *argv])
        assert replay.main() == code
        err = capsys.readouterr().err
        assert words in err and "Traceback" not in err


def test_any_bundles_data_set_goes_out_life_after_life(tmp_path: Path, tiny_bundle: Bundle) -> None:
    """An asset's second life begins at a lower cycle and a later time, which is how the daemon tells it."""
    rows = [f"pump-{p},{life},{c},{p + c},0,0" for p in (1, 2) for life in (1, 2) for c in range(0, 6, 2)]
    (tmp_path / "pumps.csv").write_text("pump,run,hour,a,b,c\n" + "\n".join(rows))
    told = {
        "format": "table",
        "file": {"train": "none.csv", "test": "pumps.csv"},
        "asset": "pump",
        "life": "run",
        "cycle": "hour",
        "seconds_per_cycle": 3600,
    }
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["training"]["dataset"] = told
    (copy / "manifest.json").write_text(json.dumps(manifest))
    table, inputs, period = replay.load_bundles_set(tmp_path, copy, "test")
    assert (inputs, period) == (["a", "b", "c"], 3_600_000)
    stamp = replay.stamps(0, 3_600_000)
    sent = [r for readings in replay.rounds(table, inputs=inputs) for r in readings if r.asset == "pump-2"]
    assert [(r.cycle, r.values["a"], stamp(r) // 3_600_000 + 1) for r in sent] == [
        *[(0, 2, 0), (2, 4, 2), (4, 6, 4)],
        *[(0, 2, 5), (2, 4, 7), (4, 6, 9)],
    ]
    assert [r.line for r in sent] == ["A"] * 6
