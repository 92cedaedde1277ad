"""Readings to a broker at a pace: the publisher of `edge-rul simulate` and of tools/replay.py.

Owns the payload that a plant would send, the pace, and an MQTT client that keeps few messages in flight, connects again
and stops cleanly. What it sends is made elsewhere (simulator.py, tools/replay.py). Must not know the daemon, its bundle
or its configuration: a publisher stands outside, where a plant would be.
"""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_rul.core.topic import Template
from edge_rul.errors import EXIT_OK, EXIT_USAGE, ConfigError, TransportError
from edge_rul.simulator import Fleet, Reading, load_params

TOPIC = "plant/{line}/{asset}/cycle"


def iso(ms: int) -> str:
    """Epoch milliseconds -> ISO 8601 in UTC."""
    stamp = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message(reading: Reading, topic: Template, ts: int, source: str) -> tuple[str, bytes]:
    """A reading as topic and payload. ts: event time in epoch milliseconds; source: what made it."""
    payload = {"cycle": reading.cycle, "ts": iso(ts), "source": source, "values": reading.values}
    return topic.format({"line": reading.line, "asset": reading.asset}), msgspec.json.encode(payload)


def topic_template(text: str) -> Template:
    """Raises ConfigError for a template that MQTT forbids, or that would put all engines on one topic."""
    try:
        template = Template(text)
    except ValueError as e:
        raise ConfigError("publish", "topic", str(e)) from None
    if not {"asset"} <= set(template.names) <= {"asset", "line"}:
        raise ConfigError("publish", "topic", f"found {text!r}, expected {{asset}} and perhaps {{line}}, like {TOPIC}")
    return template


class Publisher:
    """QoS 1 messages to a broker: at most `in_flight` unacknowledged, connected again after a loss.

    A context manager; entering it connects. Raises TransportError when the first connection fails or is refused, and
    from `send` when the broker refuses a message: what it refuses once it will refuse again. `notice` is told, in
    words, when the connection is lost and when it is back.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        version: str = "5",
        username: str | None = None,
        password: str | None = None,
        client_id: str = "edge-rul-simulate",
        in_flight: int = 20,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.host, self.port, self.in_flight = host, port, in_flight
        self._notice = notice
        self._refused = ""
        self._connack: Any = None
        self._connected = threading.Event()
        # paho hands out everything that it holds as soon as it reconnects, whatever its own limit says. So we never
        # hand it more than the broker takes at once; 20 is Mosquitto's default.
        self._slots = threading.Semaphore(in_flight)
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            f"{client_id}-{secrets.token_hex(4)}",
            protocol=MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311,
        )
        if username is not None:
            client.username_pw_set(username, password)
        client.reconnect_delay_set(1, 30)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish

    @staticmethod
    def _on_socket_open(_client: mqtt.Client, _userdata: Any, sock: Any) -> None:
        # Without it a small message waits for the acknowledgement of the one before: 46 ms instead of 8.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, _client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connack is not None:
            self._notice(f"{self.host}:{self.port}: connection attempt answered: {reason}")
        self._connack = reason
        self._connected.set()

    def _on_disconnect(self, _client: mqtt.Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._notice(f"{self.host}:{self.port}: connection lost ({reason}), trying again")

    def _on_publish(self, _client: mqtt.Client, _userdata: Any, _mid: int, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        self._slots.release()

    def __enter__(self) -> Publisher:
        where = f"{self.host}:{self.port}"
        try:
            self._client.connect(self.host, self.port)
        except OSError as e:
            hint = "is a broker running there? --host and --port name another"
            raise TransportError("connect", where, e.strerror or str(e), hint=hint, recoverable=True) from e
        self._client.loop_start()
        if self._connected.wait(5.0) and not self._connack.is_failure:
            return self
        self.__exit__()
        problem = "the broker does not answer" if self._connack is None else f"the broker answered: {self._connack}"
        raise TransportError("connect", where, problem, hint="--username and --password-file say who we are")

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, topic: str, payload: bytes, stop: threading.Event | None = None) -> bool:
        """Hand over one message, waiting for room. False when `stop` was set before there was any."""
        while not self._slots.acquire(timeout=0.2):
            if stop is not None and stop.is_set():
                return False
        self._check()
        # Offline, paho answers MQTT_ERR_NO_CONN and queues the message all the same: sending it again would double it.
        self._client.publish(topic, payload, qos=1)
        return True

    def drain(self, timeout: float) -> bool:
        """Wait until everything is acknowledged; False when `timeout` seconds were not enough."""
        end = time.monotonic() + timeout
        taken = 0
        while taken < self.in_flight and self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
            taken += 1
        if taken:
            self._slots.release(taken)
        self._check()
        return taken == self.in_flight

    def _check(self) -> None:
        if self._refused:
            raise TransportError("publish", f"{self.host}:{self.port}", f"the broker answered: {self._refused}")


def publish(
    rounds: Iterable[Sequence[Reading]],
    publisher: Publisher,
    *,
    topic: Template,
    source: str,
    stamp: Callable[[Reading], int],
    rate: float,
    free: int = 0,
    stop: threading.Event | None = None,
) -> int:
    """Send the readings of all rounds and return how many; `stop` ends it early.

    rate: cycles a second of each asset, spread evenly over the assets; 0 is as fast as the broker acknowledges.
    free: rounds at the start that do not wait. stamp: a reading's event time in epoch milliseconds, asked for as it
    goes out.
    """
    stop = stop or threading.Event()
    sent, due = 0, time.monotonic()
    for number, readings in enumerate(rounds):
        for reading in readings:
            if number >= free and rate > 0:
                now = time.monotonic()
                due = max(due + 1.0 / (rate * len(readings)), now)  # what a slow broker lost is not caught up
                stop.wait(due - now)
            if stop.is_set() or not publisher.send(*message(reading, topic, stamp(reading), source), stop):
                return sent
            sent += 1
    return sent


def wall_clock() -> Callable[[Reading], int]:
    """A stamp that is the time of publishing, but always later than the same asset's last one."""
    last: dict[str, int] = {}

    def stamp(reading: Reading) -> int:
        last[reading.asset] = max(time.time_ns() // 1_000_000, last.get(reading.asset, 0) + 1)
        return last[reading.asset]

    return stamp


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set, instead of a traceback."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def read_password(path: Path | None) -> str | None:
    """The first line of a password file. Raises ConfigError when it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError("read password", str(path), getattr(e, "strerror", None) or str(e)) from e


def simulate_command(
    *,
    assets: int = 12,
    rate: float = 1.0,
    host: str = "127.0.0.1",
    port: int = 1883,
    version: str = "5",
    topic: str = TOPIC,
    username: str | None = None,
    password_file: Path | None = None,
    seed: int = 0,
    cycles: int | None = None,
    warm_up: int = 30,
) -> int:
    """`edge-rul simulate`: publish a fleet until SIGINT or SIGTERM, or until every engine has sent `cycles`.

    warm_up: cycles of each engine that go out at once, to fill the daemon's windows. Returns an exit code. Raises
    ConfigError for a wrong topic or password file, TransportError when the broker cannot be reached or refuses.
    """
    if assets < 1 or not rate >= 0:
        print("edge-rul simulate: --assets is at least 1, --rate at least 0", file=sys.stderr)
        return EXIT_USAGE
    template = topic_template(topic)
    publisher = Publisher(
        host, port, version=version, username=username, password=read_password(password_file), notice=_say
    )
    stop = stop_on_signals()
    fleet = Fleet(load_params(), assets, seed)
    with publisher:
        _say(
            f"publishing {assets} SIMULATED engines, {fleet.names[0]} to {fleet.names[-1]}, to {host}:{port} on "
            f"{topic}, {rate:g} cycles/s each; Ctrl-C stops"
        )
        sent = publish(
            islice(fleet, cycles),
            publisher,
            topic=template,
            source="simulated",
            stamp=wall_clock(),
            rate=rate,
            free=warm_up,
            stop=stop,
        )
        done = publisher.drain(1.5)
    _say(f"stopped after {sent} readings" + ("" if done else ", the last of them unacknowledged"))
    return EXIT_OK


def _say(text: str) -> None:
    print(text, flush=True)
