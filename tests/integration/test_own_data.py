"""A user's own table by the commands alone: battery cells, from the published file to a daemon that answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import published
import yaml
from conftest import ROOT, Broker
from paho.mqtt.enums import CallbackAPIVersion

from edge_rul import bundle as bundles

PATIENCE = 120.0
CELLS = {"b1c00": (130, "dropped"), "b1c05": (135, "to_end_of_life"), "b1c06": (125, "to_end_of_life")}
DAEMON = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics:
  readings: ["plant/{{line}}/{{asset}}/cycle"]
  prediction: edge-rul/{{line}}/{{asset}}/prediction
  alarm: edge-rul/{{line}}/{{asset}}/alarm/{{alarm}}
  alarm_event: edge-rul/{{line}}/{{asset}}/event
engine: onnxruntime
journal: {{directory: state, min_free: 0}}
"""


def edge_rul(*words: object) -> str:
    command = [sys.executable, "-m", "edge_rul.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_raw_table_to_a_daemon_that_answers(mosquitto: Broker, tmp_path: Path) -> None:
    data = tmp_path / "data"
    published.batteries(data, CELLS)
    text = yaml.safe_load((ROOT / "configs" / "batteries.yaml").read_text())
    text["dataset"]["split"]["test"] = ["b1c06"]
    text["model"] = {"lstm_hidden": 8, "num_heads": 2, "shared_dim": 8}
    text["recipe"] |= {"epochs": 2, "batch": 4}
    config, bundle = tmp_path / "mine.yaml", tmp_path / "mine"
    config.write_text(yaml.safe_dump(text, allow_unicode=True))

    # The table itself, and then the directory that holds it.
    edge_rul("train", config, "--data", data / "severson_batch1_cycles.csv.gz", "--out", bundle)
    told = json.loads(edge_rul("evaluate", bundle, "--data", data, "--json"))
    assert (told["windows"], told["unit"], told["nasa_score"]) == (25, "cycles", None)

    (tmp_path / "edge-rul.yaml").write_text(DAEMON.format(bundle=bundle, port=mosquitto.port))
    found: list[dict[str, Any]] = []
    online, done = threading.Event(), threading.Event()

    def on_message(_client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        if message.topic == "edge-rul/availability" and message.payload == b"online":
            online.set()
        elif message.topic.endswith("/prediction"):
            found.append(json.loads(message.payload))
            if len(found) == told["windows"]:
                done.set()

    listener = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    listener.on_message = on_message
    listener.connect("127.0.0.1", mosquitto.port)
    listener.subscribe("edge-rul/#", qos=1)
    listener.loop_start()
    log = tmp_path / "daemon.log"
    with log.open("wb") as err:
        words = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(tmp_path / "edge-rul.yaml")]
        daemon = subprocess.Popen(words, stderr=err)
    try:
        assert online.wait(PATIENCE), log.read_text()
        replay = [str(ROOT / "tools" / "replay.py"), "--bundle", str(bundle), "--data", str(data)]
        to = ["--rate", "0", "--port", str(mosquitto.port)]
        subprocess.run([sys.executable, *replay, *to], check=True, stdout=subprocess.DEVNULL)
        assert done.wait(PATIENCE), log.read_text()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE) == 0, log.read_text()
    finally:
        daemon.kill()
        daemon.wait()
        listener.disconnect()
        listener.loop_stop()
    assert [(p["asset"], p["cycle"]) for p in found] == [("b1c06", cycle) for cycle in range(101, 126)]
    classes = {c.name for c in bundles.load(bundle).manifest.classes}
    assert all(p["rul"] >= 0 and p["rul_unit"] == "cycles" and p["health"]["class"] in classes for p in found)
