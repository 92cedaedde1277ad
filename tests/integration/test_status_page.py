"""The status page and the metrics of a real daemon: readings in, the page, a kill, the page again, a reload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import Broker, free_port, wait_for_port
from integration.test_bad_input import GOOD, Peer
from paho.mqtt import publish
from prometheus_client.parser import text_string_to_metric_families

from edge_rul.bundle import Bundle

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}, username: edge, password_file: mqtt.pass}}
topics: {{readings: ["plant/{{asset}}/cycle"]}}
alarms: [{{name: low, watch: rul, below: 100, priority: urgent}}]
engine: onnxruntime
http: {{port: {http}, asset_series: true, token_file: http.token}}
log: {{format: json, level: debug}}
"""
SECRETS = {"mqtt.pass": "hunter2-of-the-broker", "http.token": "hunter2-of-the-page"}


class Daemon:
    def __init__(self, directory: Path, bundle: Bundle, broker: Broker) -> None:
        self.port = free_port()
        for name, secret in SECRETS.items():
            (directory / name).write_text(secret)
            (directory / name).chmod(0o600)
        self.config = directory / "edge-rul.yaml"
        self.config.write_text(CONFIG.format(bundle=bundle.path, port=broker.port, http=self.port))
        self.log = directory / "daemon.log"
        self.environment = {**os.environ, "STATE_DIRECTORY": str(directory / "state")}

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(self.config)]
        with self.log.open("ab") as err:
            process = subprocess.Popen(command, stderr=err, env=self.environment)
        wait_for_port(self.port, process, self.log)
        return process

    def get(self, path: str) -> str:
        bearer = {"Authorization": f"Bearer {SECRETS['http.token']}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=bearer)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text: str = answer.read().decode()
        except urllib.error.HTTPError as refusal:
            if (path, refusal.code) != ("/readyz", 503):
                raise
            text = refusal.read().decode()
        return text

    def metrics(self) -> dict[str, float]:
        families = text_string_to_metric_families(self.get("/metrics"))
        return {s.name + "".join(sorted(s.labels.values())): s.value for f in families for s in f.samples}

    def wait(self, peer: Peer, what: str, path: str) -> None:
        """Until the page says so; the daemon's statistics every few seconds are what turns the waiting."""
        for _ in range(300):
            if what in self.get(path):
                return
            with peer.changed:
                peer.changed.wait(0.2)
        raise AssertionError(f"{path} never said {what!r}: {self.get(path)}")


def test_the_page_tells_what_the_daemon_does_and_a_kill_costs_none_of_it(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, mosquitto)
    peer = Peer(mosquitto.port)
    process = daemon.start()
    try:
        peer.wait("online", lambda: peer.online)
        for cycle in range(1, 31):
            peer.send("pump", cycle)
        peer.send("fan", 1)
        peer.wait("the last prediction", lambda: 30 in peer.predictions.get("pump", []))
        daemon.wait(peer, 'id="asset-pump"', "/?show=alarm")
        daemon.wait(peer, 'id="asset-fan"', "/?show=waiting")
        assert '<svg class="chart"' in daemon.get("/asset?name=pump")
        assert daemon.get("/readyz") == "ok\n"
        daemon.wait(peer, "edge_rul_readings_total 31.0", "/metrics")
        found = daemon.metrics()
        assert found["edge_rul_assets_in_alarmurgent"] == 1 and found["edge_rul_starts_total"] == 1
        assert found["edge_rul_asset_rulpump"] > 0 and "edge_rul_asset_rulfan" not in found
        assert found["process_resident_memory_bytes"] < 150 * 2**20

        # Written every five seconds at this size; a kill before that may cost the last of it.
        daemon.wait(peer, "edge_rul_history_unwritten_assets 0.0", "/metrics")
        process.send_signal(signal.SIGKILL)
        process.wait(10)

        process = daemon.start()
        page = daemon.get("/asset?name=pump")
        assert '<svg class="chart"' in page and "cycle <b>30</b>" in page
        daemon.wait(peer, 'id="asset-pump"', "/?show=alarm")
        assert daemon.metrics()["edge_rul_unclean_starts_total"] == 1

        peer.wait("online", lambda: peer.online)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process = daemon.start()
        found = daemon.metrics()
        assert (found["edge_rul_starts_total"], found["edge_rul_unclean_starts_total"]) == (3, 1)
        said = daemon.log.read_text() + "".join(map(daemon.get, ("/", "/asset?name=pump", "/daemon", "/metrics")))
        assert '"event": "predicted"' in said and not [secret for secret in SECRETS.values() if secret in said]
    finally:
        process.kill()
        process.wait(10)
        peer.client.loop_stop()


@contextmanager
def serving(daemon: Daemon, broker: Broker) -> Iterator[tuple[subprocess.Popen[bytes], Peer]]:
    """The daemon's process, and who listens to what it publishes."""
    peer = Peer(broker.port)
    process = daemon.start()
    try:
        yield process, peer
    finally:
        process.kill()
        process.wait(10)
        peer.client.loop_stop()


def test_a_daemon_whose_disk_is_full_is_alive_and_not_ready(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, mosquitto)
    daemon.config.write_text(f"{daemon.config.read_text()}journal: {{min_free: {10**18}}}\n")
    publish.single("plant/pump/cycle", json.dumps({"cycle": 1, "values": GOOD}), 1, retain=True, port=mosquitto.port)
    with serving(daemon, mosquitto) as (_, peer):
        daemon.wait(peer, "the disk is full", "/readyz")
        assert daemon.get("/healthz") == "ok\n"


def test_the_page_tells_why_a_reload_was_refused_until_one_is_taken(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, mosquitto)
    with serving(daemon, mosquitto) as (process, peer):
        peer.wait("online", lambda: peer.online)
        good = daemon.config.read_text()
        daemon.config.write_text(good.replace("below: 100", "below: low"))
        process.send_signal(signal.SIGHUP)
        daemon.wait(peer, "reload_refused", "/daemon")
        assert f"{daemon.config}:5: alarms[0].below" in daemon.get("/daemon")
        daemon.config.write_text(good)
        process.send_signal(signal.SIGHUP)
        daemon.wait(peer, 'edge_rul_daemon_alarm{alarm="reload_refused"} 0.0', "/metrics")
        assert "alarms[0].below" not in daemon.get("/daemon")
