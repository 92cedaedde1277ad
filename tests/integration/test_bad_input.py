"""What a plant sends wrong, through a real broker: acknowledged, counted by reason, and everything else goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from conftest import Broker
from paho.mqtt.enums import CallbackAPIVersion

from edge_rul.bundle import Bundle

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics: {{readings: ["plant/{{asset}}/cycle", "by-payload/cycle"]}}
inputs: {{c: {{missing: hold}}}}
limits: {{assets: 3, payload: 20000}}
log: {{format: json}}
"""

GOOD = {"a": 1.0, "b": 2.0, "c": 3.0}


def wrong() -> list[tuple[str, bytes, str]]:
    """Topic, payload and the reason under which it has to be counted."""

    def cycle(**fields: Any) -> bytes:
        return json.dumps({"cycle": 1000, "values": GOOD, **fields}).encode()

    topic = "plant/pump/cycle"
    return [
        (topic, b"not json", "not_json"),
        (topic, b"[1, 2", "not_json"),
        (topic, b"7", "bad_shape"),
        (topic, cycle(values={"a": 1.0, "c": 3.0}), "missing_input"),
        (topic, cycle(values={**GOOD, "b": float("nan")}), "not_finite"),
        (topic, cycle(values={**GOOD, "c": float("inf")}), "not_finite"),
        (topic, cycle(values={**GOOD, "b": "2.0"}), "bad_value"),
        (topic, cycle(values=[1.0, 2.0]), "wrong_length"),
        (topic, cycle(cycle="7"), "bad_cycle"),
        (topic, cycle(cycle=7.5), "bad_cycle"),
        (topic, cycle(ts="noon"), "bad_time"),
        (topic, b" " * 100_000, "too_large"),
        *(("by-payload/cycle", cycle(asset=name), "bad_asset") for name in ("a/b", "a+b", "a#b", "a\x01b", "")),
        ("by-payload/cycle", cycle(), "bad_asset"),
        *((f"plant/extra-{i}/cycle", cycle(), "too_many_assets") for i in range(3)),
        ("edge-rul/command", b'{"command": "dance", "asset": "pump"}', "bad_command"),
    ]


class Peer:
    """Publishes, and keeps predictions by asset and the newest statistics."""

    def __init__(self, port: int) -> None:
        self.changed = threading.Condition()
        self.online = False
        self.predictions: dict[str, list[int]] = {}
        self.statistics: dict[str, Any] = {}
        self.letters: list[tuple[str, str]] = []  # (topic, reason) of dead letters
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe("edge-rul/#", qos=1)

    def _on_message(self, _client: Any, _: Any, message: paho.MQTTMessage) -> None:
        with self.changed:
            if message.topic == "edge-rul/availability":
                self.online = message.payload == b"online"
            elif message.topic == "edge-rul/statistics":
                self.statistics = json.loads(message.payload)
            elif message.topic == "edge-rul/dead-letter":
                letter = json.loads(message.payload)
                self.letters.append((letter["topic"], letter["reason"]))
            elif message.topic.endswith("/prediction"):
                prediction = json.loads(message.payload)
                self.predictions.setdefault(prediction["asset"], []).append(prediction["cycle"])
            self.changed.notify_all()

    def wait(self, what: str, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 60), f"{what}: {self.predictions} {self.statistics}"

    def send(self, asset: str, cycle: int, values: dict[str, Any] | None = None) -> None:
        payload = json.dumps({"cycle": cycle, "values": GOOD if values is None else values})
        self.client.publish(f"plant/{asset}/cycle", payload, qos=1)


def test_bad_messages_cost_themselves_and_nothing_else(tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path) -> None:
    config = tmp_path / "edge-rul.yaml"
    config.write_text(CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port))
    peer = Peer(mosquitto.port)
    log = tmp_path / "daemon.log"
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    with log.open("wb") as err:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)], stderr=err, env=environment
        )
    try:
        peer.wait("online", lambda: peer.online)
        bad = wrong()
        for asset in ("pump", "fan", "motor"):
            peer.send(asset, 1)
        for step, (topic, payload, _) in enumerate(bad):
            peer.client.publish(topic, payload, qos=1)
            for asset in ("pump", "fan", "motor"):
                peer.send(asset, step + 2)
        # An element of a list that is wrong costs that element; a value that may be held is held.
        held, last = {"a": 1.0, "b": 2.0}, len(bad) + 3
        mixed = [{"cycle": last - 1, "values": GOOD}, {"cycle": "x"}, {"cycle": last, "values": held}]
        peer.client.publish("plant/pump/cycle", json.dumps(mixed), qos=1)
        expected = list(range(5, len(bad) + 2))  # a window of 5
        peer.wait("the last prediction", lambda: last in peer.predictions.get("pump", []))
        assert peer.predictions == {"pump": [*expected, last - 1, last], "fan": expected, "motor": expected}

        reasons: dict[str, int] = {}
        for reason in [*(reason for _, _, reason in bad), "bad_cycle"]:
            reasons[reason] = reasons.get(reason, 0) + 1
        peer.wait("all reasons counted", lambda: peer.statistics.get("dropped") == reasons)
        assert peer.statistics["assets"] == 3
        told = [(topic, reason) for topic, _, reason in bad] + [("plant/pump/cycle", "bad_cycle")]
        peer.wait("all dead letters", lambda: len(peer.letters) >= len(told))
        assert peer.letters == told

        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, log.read_text()
        peer.wait("offline", lambda: not peer.online)
    finally:
        daemon.kill()
        daemon.wait()
        peer.client.disconnect()
        peer.client.loop_stop()
    # Logged once a kind, with what was found, and nothing is left unacknowledged for the next start.
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines() if '"message_rejected"' in line]
    assert sorted(kinds) == sorted({reason for reason in reasons if reason != "too_many_assets"})
