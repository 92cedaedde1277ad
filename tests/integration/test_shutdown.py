"""A stop in the middle of work: what was taken in is answered, and what was not waits in the broker's session."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

from conftest import Broker, free_port

from edge_rul.bundle import Bundle
from edge_rul.errors import JournalError

from .test_reload import FIRST, Daemon, Peer, peer, start  # noqa: F401  # fixtures

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
engine: {{name: onnxruntime, max_batch: 1}}
topics: {{readings: ["plant/{{asset}}/cycle"]}}
service: {{drain_seconds: {drain}}}
"""
# The first window of the plant is in the engine until the signal has come: what was taken in waits behind it.
_HELD_UNTIL_THE_STOP = """
import sys, threading
from edge_rul.engines.onnxruntime import OnnxRuntimeEngine as Engine
from edge_rul.loop import Loop

stopped, infer, stop, ready = threading.Event(), Engine.infer, Loop._stop, []
told = Loop.run

def run(self):
    ready.append(True)
    told(self)

def held(self, x):
    if ready and len(x) and not stopped.is_set():
        print("engine waits for the stop", file=sys.stderr, flush=True)
        while not stopped.wait(0.05):  # not one wait without an end: the signal would not be seen
            pass
    return infer(self, x)

def stop_and_tell(self, *arguments):
    stop(self, *arguments)
    stopped.set()

Loop.run, Engine.infer, Loop._stop = run, held, stop_and_tell
"""


def send(peer: Peer, first: int, last: int) -> None:  # noqa: F811
    readings = [{"cycle": cycle, "values": [10, 20, 30]} for cycle in range(first, last + 1)]
    peer.client.publish("plant/pump/cycle", json.dumps(readings), qos=1).wait_for_publish(60)


def wait_for_line(daemon: Daemon, text: str) -> None:
    for _ in range(6000):
        if text in daemon.log.read_text():
            return
        assert daemon.process.poll() is None, daemon.log.read_text()
        signal.sigtimedwait([], 0.01)
    raise AssertionError(daemon.log.read_text())


def holding_twelve(start: Callable[..., Daemon], config: str, peer: Peer) -> Daemon:  # noqa: F811
    """A daemon that has taken in twelve readings and answers none of them before its stop."""
    daemon = start(config, _HELD_UNTIL_THE_STOP)
    peer.wait("online", lambda: peer.retained.get("edge-rul/status"))
    send(peer, 1, 12)
    wait_for_line(daemon, "engine waits for the stop")  # no words of the log, where figures bear names too
    return daemon


def test_a_stop_answers_what_was_taken_in_and_leaves_the_rest_in_the_session(
    start: Callable[..., Daemon],  # noqa: F811
    peer: Peer,  # noqa: F811
    mosquitto: Broker,
    tiny_bundle: Bundle,
) -> None:
    config = CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port, drain=30)
    daemon = holding_twelve(start, config, peer)
    send(peer, 13, 14)  # which the broker has, and the daemon will not take in
    daemon.end()
    peer.wait("offline", lambda: peer.retained.get("edge-rul/availability") == "offline")
    assert peer.cycles("pump") == list(range(5, 13)), "windows of five, each once"

    start(config)
    peer.wait("the rest", lambda: peer.cycles("pump")[-1:] == [14])
    # The newest may be told once more: its retained state was still owed to a session that was new.
    assert list(dict.fromkeys(peer.cycles("pump"))) == list(range(5, 15))


def test_a_broker_that_answers_nothing_delays_the_end_no_longer_than_allowed(
    start: Callable[..., Daemon],  # noqa: F811
    peer: Peer,  # noqa: F811
    mosquitto: Broker,
    tiny_bundle: Bundle,
) -> None:
    config = CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port, drain=0.2)
    daemon = holding_twelve(start, config, peer)
    mosquitto.process.send_signal(signal.SIGSTOP)
    try:
        daemon.end()  # with 0, while its answers wait for a broker that is there and says nothing
    finally:
        mosquitto.process.send_signal(signal.SIGCONT)
    start(config)
    peer.wait("all of it", lambda: set(peer.cycles("pump")) == set(range(5, 13)))


_FAILS_AT_ITS_STATE = """
from edge_rul.errors import JournalError
from edge_rul.worker import Worker

def restore(self, unclean):
    raise JournalError("read", "journal.db", "is damaged")

Worker.restore = restore
"""


def test_a_start_that_fails_ends_also_where_the_status_page_is_open(
    start: Callable[..., Daemon],  # noqa: F811
    mosquitto: Broker,
    tiny_bundle: Bundle,
) -> None:
    """Its server's threads would keep the process, which a service manager then takes for one that still starts."""
    config = FIRST.format(bundle=tiny_bundle.path, port=mosquitto.port) + f"http: {{port: {free_port()}}}\n"
    daemon = start(config, _FAILS_AT_ITS_STATE)
    assert daemon.process.wait(60) == JournalError.exit_code
    assert "journal.db: is damaged" in daemon.log.read_text()
