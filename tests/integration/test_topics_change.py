"""The broker's session outlives a configuration: what it no longer names must not come in any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import Broker
from integration.test_bad_input import Peer

from edge_rul.bundle import Bundle

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics: {{readings: ["{first}/{{asset}}/cycle"]}}
log: {{format: json}}
"""


def start(bundle: Bundle, broker: Broker, directory: Path, first: str) -> subprocess.Popen[bytes]:
    config = directory / f"{first}.yaml"
    config.write_text(CONFIG.format(bundle=bundle.path, port=broker.port, first=first))
    environment = {**os.environ, "STATE_DIRECTORY": str(directory / "state")}
    command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)]
    with (directory / f"{first}.log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, env=environment)


def stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(30) == 0


def test_a_topic_that_the_configuration_no_longer_names(tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path) -> None:
    peer = Peer(mosquitto.port)
    subscribed = tmp_path / "state" / "subscriptions.json"
    daemon = start(tiny_bundle, mosquitto, tmp_path, "old")
    try:
        peer.wait("statistics", lambda: bool(peer.statistics))
        stop(daemon)
        peer.wait("offline", lambda: not peer.online)
        assert json.loads(subscribed.read_bytes()) == ["old/+/cycle", "edge-rul/command"]

        daemon = start(tiny_bundle, mosquitto, tmp_path, "new")
        started = peer.statistics["ts"]
        peer.wait("statistics", lambda: peer.statistics["ts"] > started)
        assert json.loads(subscribed.read_bytes()) == ["new/+/cycle", "edge-rul/command"]
        values = json.dumps({"cycle": 1, "values": [1.0, 2.0, 3.0]})
        peer.client.publish("old/pump/cycle", values, qos=1)
        peer.client.publish("new/pump/cycle", values, qos=1)
        peer.wait("the reading", lambda: peer.statistics["readings"] == 1)
        assert peer.statistics["dropped"] == {}
        stop(daemon)
    finally:
        daemon.kill()
        daemon.wait()
        peer.client.disconnect()
        peer.client.loop_stop()
