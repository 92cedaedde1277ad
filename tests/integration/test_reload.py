"""A daemon that reads its configuration again, while readings come in all the time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from conftest import Broker
from paho.mqtt.enums import CallbackAPIVersion

from bundles import bundle_parts, make_bundle
from edge_rul import bundle as bundles
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.journal_file import FILE
from edge_rul.adapters.journal_reader import read_journal
from edge_rul.bundle import Bundle, Golden
from edge_rul.config import JournalSettings
from edge_rul.core.entry import BundleChange
from edge_rul.core.payload import Reading

ASSETS = ("fan", "pump")
FIRST = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
engine: onnxruntime
topics: {{readings: ["old/{{asset}}/cycle"]}}
alarms:
  - {{name: low, watch: rul, below: 120, priority: high}}
  - {{name: gone, watch: rul, below: 120}}
"""
SECOND = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
engine: onnxruntime
topics:
  readings: ["old/{{asset}}/cycle", "new/{{asset}}/cycle"]
  prediction: "moved/{{asset}}/rul"
  status: moved/status
alarms:
  - {{name: low, watch: rul, below: 1, priority: urgent}}
log: {{level: error}}
"""


class Peer:
    """Publishes readings without a pause, and keeps all that is published to `edge-rul` and `moved`."""

    def __init__(self, port: int) -> None:
        self.changed = threading.Condition()
        self.heard: list[tuple[str, Any]] = []
        self.retained: dict[str, Any] = {}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        options = paho.SubscribeOptions(qos=1, retainAsPublished=True)
        self.client.subscribe([("edge-rul/#", options), ("moved/#", options)])
        self.client.loop_start()
        self.first = "old"
        self.cycle = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _on_message(self, _client: Any, _: Any, message: paho.MQTTMessage) -> None:
        text = message.payload.decode()
        payload = json.loads(text) if text.startswith("{") else text
        with self.changed:
            self.heard.append((message.topic, payload))
            if message.retain:
                self.retained[message.topic] = payload
            self.changed.notify_all()

    def _send(self) -> None:
        while not self._stop.wait(0.005):
            self.cycle += 1
            for asset in ASSETS:
                payload = json.dumps({"cycle": self.cycle, "values": [10, 20, 30]})
                self.client.publish(f"{self.first}/{asset}/cycle", payload, qos=1)

    def load(self) -> None:
        self._thread.start()

    def calm(self) -> int:
        """Send no more. Returns the last cycle."""
        self._stop.set()
        self._thread.join()
        return self.cycle

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        with self.changed:
            assert self.changed.wait_for(condition, 60), f"{what}: {self.retained}"
            return condition()

    def cycles(self, asset: str) -> list[int]:
        """Of the asset's predictions, in order of arrival."""
        return [p["cycle"] for t, p in self.heard if p and t.endswith((f"{asset}/prediction", f"{asset}/rul"))]

    def wait_for_more(self) -> None:
        """Until the daemon has answered a reading that is sent from now on."""
        since = self.cycle
        self.wait(f"a cycle after {since}", lambda: all(self.cycles(a) and self.cycles(a)[-1] > since for a in ASSETS))

    def close(self) -> None:
        self._stop.set()
        self.client.disconnect()
        self.client.loop_stop()


class Daemon:
    def __init__(self, directory: Path, config: str, prelude: str = "", **environment: str) -> None:
        """prelude: Python that runs before the command."""
        command = f"import sys; from edge_rul.cli import main\n{prelude}\nsys.exit(main())"
        self.config = directory / "edge-rul.yaml"
        self.config.write_text(config)
        self.log = directory / "daemon.log"
        with self.log.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "run", "--config", str(self.config)],
                stderr=err,
                env={**os.environ, "STATE_DIRECTORY": str(directory / "state"), **environment},
            )

    def reload(self, config: str | None = None) -> None:
        if config is not None:
            self.config.write_text(config)
        self.process.send_signal(signal.SIGHUP)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


@pytest.fixture
def peer(mosquitto: Broker) -> Iterator[Peer]:
    peer = Peer(mosquitto.port)
    yield peer
    peer.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def start(config: str, prelude: str = "", **environment: str) -> Daemon:
        daemons.append(Daemon(tmp_path, config, prelude, **environment))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.process.kill()
        daemon.process.wait(10)


def test_topics_alarms_and_log_change_without_losing_a_reading_or_a_window(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle
) -> None:
    fields = {"bundle": tiny_bundle.path, "port": mosquitto.port}
    daemon = start(FIRST.format(**fields))
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait("an alarm", lambda: peer.retained.get("edge-rul/pump/alarm/low", {}).get("state") == "active")
    assert peer.retained["edge-rul/pump/alarm/low"]["priority"] == "high"

    daemon.reload(SECOND.format(**fields))
    status = peer.wait("the reload", lambda: (peer.retained.get("moved/status") or {}).get("reload"))
    assert (status["problem"], status["changed"]) == ("", ["topics", "alarms", "log"])
    # The plant moves, and then the old topic is given up. What is published there afterwards would go to nobody, so the
    # plant has to have moved by then.
    peer.first = "new"
    peer.wait_for_more()
    daemon.reload(daemon.config.read_text().replace('"old/{asset}/cycle", ', ""))
    peer.wait("the next", lambda: peer.retained["moved/status"]["reload"]["changed"] == ["topics"])
    peer.wait_for_more()
    peer.client.publish("old/fan/cycle", json.dumps({"cycle": 10**6, "values": [10, 20, 30]}), qos=1)
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1] == last for asset in ASSETS))
    for asset in ASSETS:
        # A window of 5; where the topic changed, the newest is published once more on the new one.
        assert sorted(set(peer.cycles(asset))) == list(range(5, last + 1))
        # What nobody will look after any more is withdrawn, and the alarm's state goes on under its new rule.
        assert peer.retained[f"edge-rul/{asset}/prediction"] == ""
        assert peer.retained[f"edge-rul/{asset}/alarm/gone"] == ""
        peer.wait("normal", lambda asset=asset: peer.retained[f"edge-rul/{asset}/alarm/low"]["state"] == "normal")
        assert peer.retained[f"edge-rul/{asset}/alarm/low"]["priority"] == "urgent"
    assert peer.retained["edge-rul/status"] == ""
    daemon.end()
    assert '"event": "stopped"' not in daemon.log.read_text(), "it logs errors only"


def test_a_reload_that_is_refused_changes_nothing(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle
) -> None:
    good = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port)
    daemon = start(good)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    refused = [
        (good.replace("old/", "x{"), "edge-rul.yaml:5: topics.readings[0]: "),
        (good + "limits: {assets: 7}\n", "edge-rul.yaml:9: limits.assets: 10000 became 7, which cannot change while"),
        (good.replace("port:", "keepalive: 7, port:"), "edge-rul.yaml:3: mqtt.keepalive: 30 became 7, which cannot"),
        (good + "limits: {tail: 7}\nhttp: {port: 7}\n", "daemon serves; nor can limits.tail, where 10000 became 7"),
        (good + "http: {port: 7}\n", 'edge-rul.yaml:9: http: null became {"host":"127.0.0.1","port":7,'),
        (
            good.replace("topics: {", "topics: {availability: a, "),
            'topics.availability: "edge-rul/availability" became',
        ),
        (good.replace('"old/', '"{line}/old/'), "topics.prediction: "),
        (good.replace("below: 120}", "below: 200}"), "alarms[1].below: below + deadband is 200, above the bundle's"),
    ]
    for config, problem in refused:
        daemon.reload(config)
        peer.wait(problem, lambda text=problem: text in str(peer.retained["edge-rul/status"]["reload"]))
        peer.wait("the alarm", lambda: peer.retained["edge-rul/_daemon/alarm/reload_refused"]["state"] == "active")
        peer.wait_for_more()
    assert daemon.log.read_text().count('"event": "reload_refused"') == len(refused)
    daemon.reload(good)
    peer.wait("taken", lambda: peer.retained["edge-rul/status"]["reload"]["problem"] == "")
    peer.wait("no alarm", lambda: peer.retained["edge-rul/_daemon/alarm/reload_refused"]["state"] == "normal")
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1] == last for asset in ASSETS))
    for asset in ASSETS:
        assert peer.cycles(asset) == list(range(5, last + 1))
    daemon.end()


def test_another_bundle_takes_over_between_two_readings(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", seed=1, name="other")
    first = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port) + f"candidate: {{bundle: {other.path}}}\n"
    daemon = start(first)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    compared = peer.wait("a comparison", lambda: (peer.retained["edge-rul/status"]["candidate"] or {}).get("rul_mean"))
    assert compared > 0
    broken = tmp_path / "broken"
    shutil.copytree(other.path, broken)
    (broken / "golden.safetensors").write_bytes(b"")
    lying = bundles.write(tmp_path / "lying", **lie(bundle_parts(seed=1)))
    for bundle, problem in (
        (broken, "golden.safetensors: 0 bytes with sha256"),
        (lying.path, "verify golden windows"),
        (make_bundle(tmp_path / "longer", window=6).path, "its window: 6, expected 5"),
        (make_bundle(tmp_path / "more", inputs=("a", "b", "d")).path, "its inputs: ['a', 'b', 'd'], expected ['a', "),
    ):
        daemon.reload(first.replace(str(tiny_bundle.path), str(bundle)))
        peer.wait(problem, lambda text=problem: text in str(peer.retained["edge-rul/status"]["reload"]))
        peer.wait_for_more()
    assert peer.retained["edge-rul/status"]["bundle"]["sha256"] == tiny_bundle.sha256

    daemon.reload(first.replace(str(tiny_bundle.path), str(other.path)))
    peer.wait("other", lambda: peer.retained["edge-rul/status"]["bundle"]["name"] == "other")
    assert peer.retained["edge-rul/status"]["words"].startswith("other on ")
    peer.wait_for_more()
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1] == last for asset in ASSETS))
    for asset in ASSETS:
        assert peer.cycles(asset) == list(range(5, last + 1))
        answered = [p["bundle"]["sha256"] for t, p in peer.heard if p and t == f"edge-rul/{asset}/prediction"]
        swap = answered.index(other.sha256)
        assert set(answered[:swap]) == {tiny_bundle.sha256}
        assert set(answered[swap:]) == {other.sha256}
    daemon.end()
    with read_journal(tmp_path / "state" / FILE) as kept:
        assert len(kept.assets()) == len(ASSETS)


# The bundle `broken` reproduces its golden windows, and fails at the first window of the plant.
_FAILS_AT_WORK = """
from edge_rul.errors import EngineError
from edge_rul.succession import Succession
put = Succession._put
def put_and_break(self, answerer):
    infer = answerer.engine.infer
    def fail(x):
        if len(x):
            raise EngineError("infer", "onnxruntime", "out of memory")
        return infer(x)
    if answerer.model.bundle.name == "broken":
        answerer.engine.infer = fail
    put(self, answerer)
Succession._put = put_and_break
"""


def test_a_bundle_that_fails_at_its_first_windows_is_rolled_back_under_load(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    broken, sound = (make_bundle(tmp_path / n, seed=s, name=n) for s, n in ((1, "broken"), (2, "sound")))
    first = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port)
    daemon = start(first, _FAILS_AT_WORK)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    daemon.reload(first.replace(str(tiny_bundle.path), str(broken.path)))
    problem = "broken failed at its first windows: infer: onnxruntime: out of memory"
    status = peer.wait("the roll-back", lambda: told(peer, lambda s: (s["reload"] or {}).get("problem") == problem))
    assert status["bundle"]["name"] == "tiny" and status["words"].startswith("tiny on ")
    peer.wait("the alarm", lambda: peer.retained["edge-rul/_daemon/alarm/reload_refused"]["state"] == "active")
    peer.wait_for_more()
    daemon.reload(first.replace(str(tiny_bundle.path), str(sound.path)))
    peer.wait("sound", lambda: peer.retained["edge-rul/status"]["bundle"]["name"] == "sound")
    peer.wait("no alarm", lambda: peer.retained["edge-rul/_daemon/alarm/reload_refused"]["state"] == "normal")
    peer.wait_for_more()
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1] == last for asset in ASSETS))
    for asset in ASSETS:
        assert peer.cycles(asset) == list(range(5, last + 1)), "each window is answered, once and in order"
        answered = [p["bundle"]["name"] for t, p in peer.heard if p and t == f"edge-rul/{asset}/prediction"]
        assert list(dict.fromkeys(answered)) == ["tiny", "sound"]
    daemon.end()
    assert daemon.log.read_text().count('"event": "reload_refused"') == 1
    # The journal tells who answered what: the one that failed, nothing.
    changes = bundle_changes(tmp_path / "state")
    by_name = [(entry.name, seq if entry.since is None else entry.since) for seq, entry in changes]
    assert [name for name, _ in by_name] == ["tiny", "broken", "tiny", "sound"]
    assert by_name[1][1] == by_name[2][1]


def test_a_bundle_may_still_be_rolled_back_after_the_next_reload(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Its first window comes when it comes; the engine before waits for it, whatever else has changed by then."""
    broken = make_bundle(tmp_path / "broken", seed=1, name="broken")
    daemon = start(FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port), _FAILS_AT_WORK)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    daemon.reload(daemon.config.read_text().replace(str(tiny_bundle.path), str(broken.path)))
    peer.wait("broken", lambda: peer.retained["edge-rul/status"]["bundle"]["name"] == "broken")
    daemon.reload(daemon.config.read_text() + "log: {level: warning}\n")
    peer.wait("another", lambda: peer.retained["edge-rul/status"]["reload"]["changed"] == ["log"])
    peer.load()
    peer.wait("the roll-back", lambda: "failed at its first" in peer.retained["edge-rul/status"]["reload"]["problem"])
    assert peer.retained["edge-rul/status"]["bundle"]["name"] == "tiny"
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1:] == [last] for asset in ASSETS))
    assert [peer.cycles(asset) for asset in ASSETS] == [list(range(5, last + 1))] * 2
    daemon.end()


def told(peer: Peer, wanted: Callable[[Any], bool]) -> Any:
    """The first status that was published and is as wanted, or None."""
    return next((s for t, s in peer.heard if t == "edge-rul/status" and s and wanted(s)), None)


def bundle_changes(state: Path) -> list[tuple[int, BundleChange]]:
    """In the journal of a daemon that has ended: seq and entry."""
    with Journal(state, JournalSettings()) as journal:
        return [(n.seq, n.entry) for n in journal.read(0, 10**6) if isinstance(n.entry, BundleChange)]


def test_another_bundle_after_a_restart_is_an_entry_of_the_journal(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """So that it tells, without a reload too, which bundle answered what; the new one answers what was left."""
    other = make_bundle(tmp_path / "other", seed=1, name="other")
    first = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port)
    daemon = start(first)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    daemon.end()
    changed = first.replace(str(tiny_bundle.path), str(other.path))
    daemon = start(changed)
    peer.wait_for_more()
    daemon.process.kill()
    daemon.process.wait(10)
    daemon = start(changed)
    last = peer.calm()
    peer.wait("the last answers", lambda: all(peer.cycles(asset)[-1] == last for asset in ASSETS))
    daemon.end()
    (begun, first_change), (seq, second) = bundle_changes(tmp_path / "state")
    assert (begun, first_change) == (1, BundleChange("tiny", tiny_bundle.sha256, 0))
    assert second == BundleChange("other", other.sha256, second.since) and second.since is not None
    assert begun < second.since < seq, "it answers what was not answered yet, too"
    with Journal(tmp_path / "state", JournalSettings()) as journal:
        assert journal.bundle == (other.sha256, second.since)
        by_seq = {n.seq: n.entry for n in journal.read(0, 10**6)}
    heard = {(t, p["cycle"], p["bundle"]["name"]) for t, p in peer.heard if p and t.endswith("/prediction")}
    for number, entry in by_seq.items():
        if isinstance(entry, Reading) and entry.cycle >= 5:
            answers = {b for t, c, b in heard if (t, c) == (f"edge-rul/{entry.asset.name}/prediction", entry.cycle)}
            # What the first one published and the broker had not acknowledged is answered by both.
            assert ("other" if number > second.since else "tiny") in answers, number


def test_where_the_windows_may_begin_anew_a_bundle_that_differs_is_taken(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """In the same process, so that its manager sees a reload."""
    first = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port)
    daemon = start(first)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    other = make_bundle(tmp_path / "other", window=6, inputs=("d", "e", "f"), name="other")
    more = "service: {restart_windows: true}\n"
    daemon.reload(first.replace(str(tiny_bundle.path), str(other.path)) + more)
    peer.wait("other", lambda: peer.retained["edge-rul/status"]["bundle"]["name"] == "other")
    peer.wait_for_more()
    assert daemon.process.poll() is None
    assert peer.retained["edge-rul/pump/prediction"]["bundle"]["sha256"] == other.sha256
    peer.calm()
    daemon.end()


# In the process that begins anew, before anything of ours has run: the second time that this line does.
_HUP_WHILE_IT_BEGINS_ANEW = """
import os, signal
if os.environ.setdefault("LIVES", "0") == "1":
    os.kill(os.getpid(), signal.SIGHUP)
os.environ["LIVES"] = "1"
"""
_TERM_WHILE_IT_DRAINS = """
import os, signal
from edge_rul.loop import Loop
drain = Loop._drain
def drain_and_stop(self):
    os.kill(os.getpid(), signal.SIGTERM)
    drain(self)
Loop._drain = drain_and_stop
"""


def restarting(
    start: Callable[..., Daemon], peer: Peer, port: int, bundle: Bundle, other: Bundle, prelude: str
) -> Daemon:
    """A daemon that was told to begin anew with another bundle."""
    first = FIRST.format(bundle=bundle.path, port=port) + "service: {restart_windows: true}\n"
    daemon = start(first, prelude)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    daemon.reload(first.replace(str(bundle.path), str(other.path)))
    return daemon


def test_another_reload_while_the_process_begins_anew_does_not_end_it(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The handler is gone by then, and a death by SIGHUP counts as a clean end, after which nobody starts it again."""
    other = make_bundle(tmp_path / "other", window=6, inputs=("d", "e", "f"), name="other")
    daemon = restarting(start, peer, mosquitto.port, tiny_bundle, other, _HUP_WHILE_IT_BEGINS_ANEW)
    peer.wait("other", lambda: peer.retained["edge-rul/status"]["bundle"]["name"] == "other")
    daemon.reload(daemon.config.read_text() + "log: {level: warning}\n")
    peer.wait("the next", lambda: (peer.retained["edge-rul/status"]["reload"] or {}).get("changed") == ["log"])
    daemon.end()


def test_a_stop_while_the_process_drains_to_begin_anew_is_the_end(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", window=6, inputs=("d", "e", "f"), name="other")
    daemon = restarting(start, peer, mosquitto.port, tiny_bundle, other, _TERM_WHILE_IT_DRAINS)
    assert daemon.process.wait(30) == 0
    assert daemon.log.read_text().count('"event": "ready"') == 1


def test_a_candidate_that_could_not_score_the_windows_that_begin_anew_refuses_the_bundle(
    start: Callable[..., Daemon], peer: Peer, mosquitto: Broker, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other", window=6, inputs=("d", "e", "f"), name="other")
    more = f"service: {{restart_windows: true}}\ncandidate: {{bundle: {tiny_bundle.path}}}\n"
    first = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port) + more
    daemon = start(first)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    peer.load()
    peer.wait_for_more()
    changed = first.replace(str(tiny_bundle.path), str(other.path), 1)
    daemon.reload(changed)
    problem = "candidate.bundle: it cannot score the windows of other: its inputs: ['a', 'b', 'c'], expected ['d',"
    peer.wait(problem, lambda: problem in str(peer.retained["edge-rul/status"]["reload"]))
    peer.wait_for_more()
    peer.calm()
    daemon.end()

    # Nor does a start set the journal aside for a configuration that it refuses.
    again = start(changed)
    assert again.process.wait(60) == 78
    assert problem in again.log.read_text()
    assert list((tmp_path / "state").glob(f"{FILE}.inputs-*")) == []


def lie(parts: dict[str, Any]) -> dict[str, Any]:
    golden = parts["golden"]
    return {**parts, "golden": Golden(golden.windows, golden.rul + np.float32(1), golden.logits)}


def test_the_manager_is_told_of_a_reload_with_its_time(
    start: Callable[..., Daemon], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Without the time stamp systemd would wait for one for ever. There is no broker, and it needs none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(60)

        def told(first: str) -> list[str]:
            while (lines := sock.recv(4096).decode().split("\n"))[0] != first:
                pass
            return lines

        daemon = start(FIRST.format(bundle=tiny_bundle.path, port=1), NOTIFY_SOCKET=str(tmp_path / "notify"))
        told("READY=1")
        before = time_of_clock()
        daemon.reload()
        name, _, stamp = told("RELOADING=1")[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(stamp) <= time_of_clock()
        assert told("READY=1")[1].startswith("STATUS=serving tiny on ")
        daemon.end()


def time_of_clock() -> int:
    import time

    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
