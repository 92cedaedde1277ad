"""The demo's processes: started with a log each, watched, and ended whatever happens.

Owns the children, the demo's broker (rumqttd, which the package iotcore brings) and free ports on loopback. Must not
know what the children say over MQTT, or what the screen shows.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
STOP_TOGETHER = 2.0  # seconds that fleet and daemon have to end, and after them the broker

# Linux ends a process with its parent when asked to (PR_SET_PDEATHSIG is 1): nothing stays behind, even where the demo
# is killed. Asked in the child itself and not by preexec_fn, which is unsafe beside threads.
LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""
# The broker's own process. rumqttd logs each packet as an error; without this the log would be nothing else.
BROKER = """
import logging, sys
from iotcore import IotCoreBroker
logging.basicConfig(level="WARNING")
logging.getLogger("rumqttd").setLevel("CRITICAL")
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""
BROKER_SETTINGS = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 2000
max_segment_size = 16777216
max_segment_count = 4
[v5.1]
name = "demo"
listen = "{listen}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 262144
max_inflight_count = 100
"""


class Failed(Exception):
    """The demo cannot go on; the message says why."""


class Child:
    """A Python process of the demo, and its log. argv: what follows the interpreter."""

    def __init__(self, name: str, argv: Sequence[str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as out:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends all in order.
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                # What a daemon keeps from run to run goes here, as under systemd: each demo starts from nothing.
                env=os.environ | {"STATE_DIRECTORY": str(logs / "state")},
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """The log's last lines, indented."""
        last = self.log.read_text("utf-8", "replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in last) or "    (nothing)"


class Children:
    """All processes of the demo."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._all: list[Child] = []

    def start(self, name: str, argv: Sequence[str]) -> Child:
        self._all.append(Child(name, argv, self.logs))
        return self._all[-1]

    def check(self, *, may_end: Child | None = None) -> None:
        """Raises Failed when one has ended that should run. may_end: one that may end well."""
        for child in self._all:
            code = child.process.poll()
            if code is not None and not (child is may_end and code == 0):
                raise Failed(f"the {child.name} ended with code {code}. Its log ends:\n\n{child.tail()}")

    def start_broker(self, port: int) -> Child:
        """An MQTT 5 broker on `port`, which takes a moment until it listens."""
        settings = self.logs / "broker.toml"
        settings.write_text(BROKER_SETTINGS.format(listen=f"{LOOPBACK}:{port}"), encoding="utf-8")
        return self.start("broker", ["-c", BROKER, str(settings)])

    def wait_for(self, ready: Callable[[], bool], what: str, stop: threading.Event, timeout: float = 60.0) -> bool:
        """Until `ready`, or `stop` is set (False). Raises Failed when a child ends or time runs out."""
        end = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > end:
                last = self._all[-1]
                raise Failed(f"{what}: not within {timeout:.0f} s. The {last.name}'s log ends:\n\n{last.tail()}")
            if stop.wait(0.05):
                return False
        return True

    def stop(self) -> None:
        """End all: fleet and daemon first, together, then the broker; by force where asking does not help."""
        for group in (self._all[:0:-1], self._all[:1]):
            for child in group:
                if child.alive():
                    child.process.terminate()
            end = time.monotonic() + STOP_TOGETHER
            for child in group:
                try:
                    child.process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.2)
        return s.connect_ex((LOOPBACK, port)) == 0
