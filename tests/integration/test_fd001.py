"""The proof on real data: every test engine through a broker, and the daemon answers as the offline evaluation does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import paho.mqtt.client as paho
import replay
from conftest import ROOT, Broker
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_rul import bundle as bundles
from edge_rul.core.topic import Template
from edge_rul.simulate import Publisher
from edge_rul.training.evaluate import load_table, predict_windows
from edge_rul.training.report import evaluate
from edge_rul.training.windows import full_windows

PATIENCE = 300.0  # seconds without a prediction until the test gives up

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics:
  readings: ["plant/{{line}}/{{asset}}/cycle"]
  prediction: edge-rul/{{line}}/{{asset}}/prediction
  alarm: edge-rul/{{line}}/{{asset}}/alarm/{{alarm}}
  alarm_event: edge-rul/{{line}}/{{asset}}/event
alarms:
  - {{name: rul_low, watch: rul, below: 30, deadband: 5, on_delay: 3, off_delay: 3}}
engine: onnxruntime
journal: {{directory: state, min_free: 0}}
log: {{format: json}}
"""


class Listener:
    """Keeps everything that the daemon publishes, and tells when enough predictions are there."""

    def __init__(self, port: int, expected: int) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.others: list[tuple[str, bytes]] = []
        self.statistics: dict[str, Any] = {}
        self.online, self.done, self.heard = threading.Event(), threading.Event(), threading.Event()
        self._expected = expected
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        # As published, or the retained flag would be cleared on its way to us.
        self.client.subscribe("edge-rul/#", options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_message(self, _client: Any, _: Any, message: paho.MQTTMessage) -> None:
        if message.topic == "edge-rul/availability":
            if message.payload == b"online":
                self.online.set()
        elif message.topic == "edge-rul/statistics":
            self.statistics = json.loads(message.payload)
        elif message.topic.endswith("/prediction"):
            assert message.retain
            self.predictions.append({"topic": message.topic, **json.loads(message.payload)})
            self.heard.set()
            if len(self.predictions) >= self._expected:
                self.done.set()
        else:
            self.others.append((message.topic, bytes(message.payload)))

    def wait(self) -> None:
        """Until all expected predictions came, or none has come for a long time."""
        while not self.done.is_set():
            self.heard.clear()
            if not self.heard.wait(PATIENCE):
                return


def test_all_test_engines_through_the_broker(
    data_dir: Path, shipped_bundle: Path, mosquitto: Broker, tmp_path: Path
) -> None:
    bundle = bundles.load(shipped_bundle)
    data = data_dir / "cmapss"
    windows = full_windows(load_table(bundle, data, "test"), bundle.manifest.window)
    offline_rul, offline_logits = predict_windows(bundle, windows.readings(before=False))
    keys = [(f"engine-{int(asset):03d}", cycle) for asset, _, cycle in windows.keys()]  # noqa: SIM118
    offline = dict(zip(keys, offline_rul.tolist(), strict=True))

    config = tmp_path / "edge-rul.yaml"
    config.write_text(CONFIG.format(bundle=shipped_bundle, port=mosquitto.port))
    listener = Listener(mosquitto.port, len(keys))
    log = tmp_path / "daemon.log"
    with log.open("wb") as err:
        daemon = subprocess.Popen([sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)], stderr=err)
    try:
        assert listener.online.wait(60), log.read_text()
        table = replay.load_set(data, "test_FD001.txt")
        assert len(table) == 13_096
        with Publisher("127.0.0.1", mosquitto.port, client_id="replay") as publisher:
            assert replay.replay(table, publisher, topic=Template("plant/{line}/{asset}/cycle")) == 13_096
            listener.wait()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, log.read_text()
    finally:
        daemon.kill()
        daemon.wait()
        listener.client.disconnect()
        listener.client.loop_stop()

    # Exactly one prediction for each cycle that has a full window, and each as computed offline.
    found = Counter((p["asset"], p["cycle"]) for p in listener.predictions)
    assert found == Counter(keys)
    differences = [abs(p["rul"] - offline[p["asset"], p["cycle"]]) for p in listener.predictions]
    assert max(differences) <= 1e-4
    classes = [c.name for c in bundle.manifest.classes]
    offline_class = dict(zip(keys, offline_logits.argmax(axis=1).tolist(), strict=True))
    assert all(p["health"]["class"] == classes[offline_class[p["asset"], p["cycle"]]] for p in listener.predictions)

    # Each asset's cycles in order, so that the retained prediction is the newest.
    for asset in {p["asset"] for p in listener.predictions}:
        cycles = [p["cycle"] for p in listener.predictions if p["asset"] == asset]
        assert cycles == sorted(cycles)

    # The last ones give the RMSE that `evaluate` prints.
    report = evaluate(bundle, data)
    last = {p["asset"]: p["rul"] for p in listener.predictions}
    true = np.minimum(np.loadtxt(data / "RUL_FD001.txt"), bundle.manifest.rul.max)
    answered = np.array([last[f"engine-{i + 1:03d}"] for i in range(report.engines)])
    assert abs(float(np.sqrt(np.mean((answered - true) ** 2))) - report.rmse) < 1e-4

    # What was really published keeps its schema.
    schemas = {
        path.name.removesuffix(".schema.json"): jsonschema.Draft202012Validator(json.loads(path.read_text()))
        for path in (ROOT / "docs/schemas").iterdir()
    }
    schemas["statistics"].validate(listener.statistics)
    for prediction in listener.predictions[::50]:
        schemas["prediction"].validate({k: v for k, v in prediction.items() if k != "topic"})
        assert prediction["topic"] == f"edge-rul/{prediction['levels']['line']}/{prediction['asset']}/prediction"
    assert any(topic.endswith("/event") for topic, _ in listener.others)
    said = [json.loads(payload) for _, payload in listener.others]
    for message in said:
        schemas[message["schema"].split("/")[1]].validate(message)
    assert {message["state"] for message in said if message["schema"] == "edge-rul/state/1"} == {
        "warming_up",
        "predicting",
    }
