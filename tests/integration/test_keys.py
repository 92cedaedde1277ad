"""A plant that sends times and no cycle numbers, through a real broker and a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import Broker
from integration.test_bad_input import GOOD, Peer

from edge_rul.bundle import Bundle

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics: {{readings: ["plant/{{asset}}/cycle"]}}
windows: {{max_gap: 1, seconds_per_cycle: 10}}
journal: {{min_free: 0}}
"""
T0 = 1_767_225_600_000


def test_readings_are_known_by_their_times_and_told_from_new_ones_by_nothing_else(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    config = tmp_path / "edge-rul.yaml"
    config.write_text(CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port))
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    peer = Peer(mosquitto.port)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)

    def send(index: float, **more: Any) -> None:
        payload = json.dumps({"ts": T0 + round(index * 10_000), "values": GOOD, **more})
        peer.client.publish("plant/pump/cycle", payload, qos=1)

    def answered(index: float) -> bool:
        return T0 + round(index * 10_000) in peer.predictions.get("pump", [])

    daemon = start()
    try:
        peer.wait("online", lambda: peer.online)
        for index in (0, 1, 2, 3.2, 4.1):  # about ten seconds apart
            send(index)
        peer.wait("the first full window", lambda: answered(4.1))
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        for index in (3.2, 8.1, 7, 6):  # one that came before the kill; 7 and 6 are late
            send(index)
        peer.client.publish("plant/pump/cycle", json.dumps({"values": GOOD}), qos=1)
        send(9, values={**GOOD, "b": "x"})
        send(10)
        daemon = start()
        peer.wait("the last prediction", lambda: answered(10))
        expected = {"duplicate": 1, "no_key": 1, "bad_value": 1}
        peer.wait("what was not used", lambda: peer.statistics.get("dropped") == expected)
        assert peer.statistics["late"] == 2
        assert peer.statistics["gaps"] == 4  # three before 8.1, when it came, and one before 10
        peer.wait("dead letters", lambda: len(peer.letters) >= 2)
        assert peer.letters == [("plant/pump/cycle", "no_key"), ("plant/pump/cycle", "bad_value")]
        assert set(peer.predictions["pump"]) == {T0 + round(i * 10_000) for i in (4.1, 6, 7, 8.1, 10)}
    finally:
        daemon.kill()
        daemon.wait()
        peer.client.disconnect()
        peer.client.loop_stop()
