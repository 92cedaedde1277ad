"""The transport against a real Mosquitto: nothing lost, nothing twice, and clear errors."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mqtt_proxy
import paho.mqtt.client as paho
import pytest
import structlog
import structlog.testing
from conftest import Broker, absent, start_mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.adapters.mqtt_filters import Filters
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.config import Limits, Mqtt
from edge_rul.core.command import ReplyTo
from edge_rul.core.outgoing import Message
from edge_rul.errors import EXIT_REFUSED, EXIT_TAKEOVER, EdgeRulError, SessionTakenOver, TransportError

PATIENCE = 30.0  # seconds until a test gives up waiting


@contextmanager
def transport(
    port: int,
    *,
    limits: Limits | None = None,
    password: str | None = None,
    context: ssl.SSLContext | None = None,
    filters: tuple[str, ...] = ("in/+",),
    stale: tuple[str, ...] = (),
    **settings: Any,
) -> Iterator[MqttTransport]:
    made = MqttTransport(
        Mqtt(host="127.0.0.1", port=port, **settings),
        limits or Limits(),
        filters=filters,
        stale=stale,
        availability="edge/availability",
        password=password,
        context=context,
        log=structlog.get_logger(),
    )
    made.start()
    try:
        yield made
    finally:
        made.close(time.monotonic() + 2.0)


def until(made: MqttTransport, condition: Callable[[], bool]) -> None:
    """Serve the transport until `condition`, or fail."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        made.wait(0.05)
        made.pump()


def take(made: MqttTransport, count: int) -> list[Received]:
    """The next `count` messages, not acknowledged."""
    found: list[Received] = []

    def enough() -> bool:
        while len(found) < count and (message := made.receive()) is not None:
            found.append(message)
        return len(found) >= count

    until(made, enough)
    return found


class Peer:
    """A plain client on the other side, which keeps what it hears."""

    def __init__(self, port: int, topics: str = "#") -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = lambda _c, _u, m: self.heard.append((m.topic, m.payload, m.retain))
        self.client.max_inflight_messages_set(1000)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(topics, qos=1)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(PATIENCE)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def peer(mosquitto: Broker) -> Iterator[Peer]:
    made = Peer(mosquitto.port)
    yield made
    made.close()


@pytest.mark.parametrize("version", [5, "3.1.1"])
def test_messages_come_in_order_and_go_out_once(mosquitto: Broker, peer: Peer, version: Any) -> None:
    with transport(mosquitto.port, version=version, in_flight=7) as made:
        until(made, lambda: made.subscribed)
        for i in range(50):
            peer.client.publish("in/a", str(i).encode(), qos=1)
        received = take(made, 50)
        assert [m.payload for m in received] == [str(i).encode() for i in range(50)]
        for message in received:
            made.acknowledge(message)
        made.send([Message(f"out/{i}", b"x", False, i) for i in range(200)])
        until(made, lambda: made.backlog == 0)
        until(made, lambda: sum(t.startswith("out/") for t, _, _ in peer.heard) >= 200)
    assert [t for t, _, _ in peer.heard if t.startswith("out/")] == [f"out/{i}" for i in range(200)]


@pytest.mark.parametrize("version", [5, "3.1.1"])
def test_a_command_tells_where_its_answer_goes_and_the_answer_says_which_it_answers(
    mosquitto: Broker, version: Any
) -> None:
    heard: list[Any] = []
    peer = Peer(mosquitto.port, "answers")
    peer.client.on_message = lambda _c, _u, message: heard.append(message)
    with transport(mosquitto.port, version=version) as made:
        until(made, lambda: made.subscribed)
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic, properties.CorrelationData = "answers", b"\x00\xff"
        peer.client.publish("in/a", b"command", qos=1, retain=True, properties=properties).wait_for_publish(PATIENCE)
        (received,) = take(made, 1)
        five = version == 5
        assert received.reply_to == (ReplyTo("answers", b"\x00\xff") if five else None)
        assert received.retained is five  # it had subscribed before: MQTT 3.1.1 does not tell
        made.send([Message("answers", b"done", False, 1, correlation=b"\x00\xff")])
        until(made, lambda: len(heard) == 1)
        assert getattr(heard[0].properties, "CorrelationData", None) == (b"\x00\xff" if five else None)
    peer.close()
    with transport(mosquitto.port, version=version, client_id="late") as made:
        assert [m.retained for m in take(made, 1)] == [True]


@pytest.mark.parametrize("version", [5, "3.1.1"])
def test_what_was_not_acknowledged_comes_again_after_a_restart(mosquitto: Broker, peer: Peer, version: Any) -> None:
    with transport(mosquitto.port, version=version) as made:
        until(made, lambda: made.subscribed)
        for i in range(5):
            peer.publish("in/a", str(i).encode())
        for message in take(made, 5)[:2]:
            made.acknowledge(message)
    peer.publish("in/a", b"while away")
    with transport(mosquitto.port, version=version) as made:
        assert [m.payload for m in take(made, 4)] == [b"2", b"3", b"4", b"while away"]


def test_an_acknowledgement_is_worth_nothing_on_another_connection(mosquitto: Broker, peer: Peer) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed)
        peer.publish("in/a", b"first")
        (old,) = take(made, 1)
        made._drop_connection()
        (again,) = take(made, 1)
        assert again.payload == b"first"
        assert again.connection > old.connection
        made.acknowledge(old)  # its packet id may be another message's by now
    with transport(mosquitto.port) as made:
        (still,) = take(made, 1)
        assert still.payload == b"first"
        made.acknowledge(still)


@pytest.mark.parametrize("version", [5, "3.1.1"])
def test_topics_that_are_no_longer_configured_are_unsubscribed(mosquitto: Broker, peer: Peer, version: Any) -> None:
    with transport(mosquitto.port, filters=("in/+", "old/+"), version=version) as made:
        until(made, lambda: made.subscribed)
    with transport(mosquitto.port, stale=("in/+", "old/+"), version=version) as made:
        until(made, lambda: made.subscribed)
        peer.publish("old/a", b"nobody wants it")
        peer.publish("in/a", b"wanted")
        assert [m.payload for m in take(made, 1)] == [b"wanted"]


def taken(made: MqttTransport, count: int) -> list[bytes]:
    """Different payloads, acknowledged, until there are so many."""
    seen: list[bytes] = []

    def everything() -> bool:
        while (message := made.receive()) is not None:
            if message.payload not in seen:
                seen.append(message.payload)
            made.acknowledge(message)
        return len(seen) == count

    until(made, everything)
    return seen


def test_a_full_inbox_loses_nothing_at_qos_1_and_counts_qos_0(mosquitto: Broker, peer: Peer) -> None:
    with transport(mosquitto.port, limits=Limits(inbox_messages=5)) as made:
        until(made, lambda: made.subscribed)
        for i in range(12):
            peer.publish("in/a", str(i).encode())
        peer.publish("in/a", b"qos 0", qos=0)
        until(made, lambda: made.dropped_qos0 == 1)
        assert taken(made, 12) == [str(i).encode() for i in range(12)]


def test_a_message_larger_than_the_inbox_is_taken_alone_or_it_would_come_for_ever(
    mosquitto: Broker, peer: Peer
) -> None:
    """MQTT 3.1.1 has no MaximumPacketSize that would keep it at the broker; the decoder refuses it as too large."""
    with transport(mosquitto.port, version="3.1.1", limits=Limits(inbox_bytes=100)) as made:
        until(made, lambda: made.subscribed)
        peer.publish("in/a", b"small")
        peer.publish("in/a", b"x" * 1000)
        peer.publish("in/a", b"after it")
        assert taken(made, 3) == [b"small", b"x" * 1000, b"after it"]


def test_availability_is_retained_online_then_offline(mosquitto: Broker) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.connected and made.backlog == 0)
        watcher = Peer(mosquitto.port, "edge/availability")
        until(made, lambda: (len(watcher.heard)) >= 1)
    deadline = time.monotonic() + PATIENCE
    while len(watcher.heard) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    watcher.close()
    assert [payload for _, payload, _ in watcher.heard] == [b"online", b"offline"]


@pytest.mark.parametrize("settings", [{"will_delay": 0}, {"version": "3.1.1"}], ids=["no delay", "3.1.1"])
def test_the_will_says_offline_when_the_connection_breaks(
    mosquitto: Broker, peer: Peer, settings: dict[str, Any]
) -> None:
    with transport(mosquitto.port, **settings) as made:
        until(made, lambda: b"online" in [p for _, p, _ in peer.heard])
        made._drop_connection()
        until(
            made,
            lambda: [p for t, p, _ in peer.heard if t == "edge/availability"] == [b"online", b"offline", b"online"],
        )


def availability(peer: Peer) -> list[bytes]:
    return [payload for topic, payload, _ in peer.heard if topic == "edge/availability"]


def test_a_short_break_is_not_told_as_offline(mosquitto: Broker, peer: Peer) -> None:
    with transport(mosquitto.port, will_delay=3600) as made:
        until(made, lambda: availability(peer) == [b"online"])
        made._drop_connection()
        until(made, lambda: availability(peer)[1:] == [b"online"])
    # An orderly end waits for nothing.
    until(made, lambda: availability(peer)[2:] == [b"offline"])


def test_a_break_longer_than_the_delay_is_told_as_offline(mosquitto: Broker, peer: Peer) -> None:
    with transport(mosquitto.port, will_delay=1) as made:
        until(made, lambda: availability(peer) == [b"online"])
        made._loop.end()
        until_heard = time.monotonic() + PATIENCE
        made._drop_connection()
        while availability(peer) != [b"online", b"offline"]:
            assert time.monotonic() < until_heard, availability(peer)
            time.sleep(0.05)


def test_messages_wait_for_a_broker_that_is_down(tmp_path: Path) -> None:
    broker = start_mosquitto(tmp_path)
    with transport(broker.port, in_flight=3) as made:
        until(made, lambda: made.subscribed)
        broker.process.terminate()
        broker.process.wait(10)
        until(made, lambda: not made.connected)
        made.send([Message(f"out/{i}", b"x", True, i) for i in range(10)])
        assert made.backlog == 10
        again = start_mosquitto(tmp_path, port=broker.port)
        peer = Peer(broker.port, "out/#")
        until(made, lambda: made.backlog == 0)
        until(made, lambda: len({t for t, _, _ in peer.heard}) == 10)
        peer.close()
    again.process.terminate()
    again.process.wait(10)


def test_what_a_killed_broker_had_not_saved_is_retained_again_and_nothing_goes_backwards(tmp_path: Path) -> None:
    """It kept our session, so that nothing else would tell."""
    saved = tmp_path / "mosquitto.db"
    settings = f"allow_anonymous true\npersistence true\npersistence_location {tmp_path}/\nautosave_interval 0"
    broker = start_mosquitto(tmp_path, settings)
    with transport(broker.port) as made:
        until(made, lambda: made.subscribed)
        made.new_session = False
        made.send([Message(f"out/{name}", b"saved", True, 1) for name in "abc"])
        until(made, lambda: made.backlog == 0)
        broker.process.send_signal(signal.SIGUSR1)
        until(made, lambda: saved.exists() and b"saved" in saved.read_bytes())
        made.send([Message(f"out/{name}", b"newer", True, 2) for name in "ab"])
        made.send([Message("out/c", b"", True, 2), Message("out/once", b"newer", False, 2)])
        until(made, lambda: made.backlog == 0)
        broker.process.kill()
        broker.process.wait(10)
        until(made, lambda: not made.connected)
        made.send([Message("out/a", b"newest", True, 3)])
        again = start_mosquitto(tmp_path, settings, broker.port)
        peer = Peer(broker.port, "out/#")
        until(made, lambda: made.subscribed and made.backlog == 0)
        assert not made.new_session
        peer.publish("out/end", b"")
        until(made, lambda: peer.heard[-1][0] == "out/end")
        peer.close()
        peer = Peer(broker.port, "out/#")
        until(made, lambda: len(peer.heard) == 2)
        assert set(peer.heard) == {("out/a", b"newest", True), ("out/b", b"newer", True)}
        peer.close()
    again.process.terminate()
    again.process.wait(10)


def test_a_broker_that_is_down_does_not_stop_the_start() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with transport(closed.getsockname()[1]) as made:
            assert made.attempted.wait(PATIENCE)
            made.wait(0.0)
            assert not made.connected


def packet(connection: socket.socket, kind: int) -> bytes:
    """The body of the next packet of this kind that comes."""
    buffer = bytearray()
    while data := connection.recv(4096):
        buffer += data
        for found in mqtt_proxy.packets(buffer):
            if found.kind == kind:
                return found.body
    raise AssertionError(f"no packet of kind {kind} came")


def test_what_a_session_is_asked_for_and_that_each_connection_subscribes() -> None:
    asked: dict[str, Any] = {"session_expiry": 1000, "receive_maximum": 77, "max_packet": 4096, "client_id": "we"}
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1], **asked) as made:
        server.settimeout(PATIENCE)
        for session_present in (0, 1):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE)
                body = packet(connection, mqtt_proxy.CONNECT)
                assert body[:7] == b"\x00\x04MQTT\x05"
                assert not body[7] & 0b10, "a clean start would throw the session away"
                properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                _, length = properties.unpack(body[10:])
                found = (properties.SessionExpiryInterval, properties.ReceiveMaximum, properties.MaximumPacketSize)
                assert found == (1000, 77, 4096)
                assert body[10 + length :].startswith(b"\x00\x02we")
                connection.sendall(bytes([0x20, 3, session_present, 0, 0]))  # CONNACK, success
                body = packet(connection, mqtt_proxy.SUBSCRIBE)
                assert body[2:-1] == b"\x00\x00\x04in/+"
                # QoS 1, not what we publish ourselves, with the sender's retain flag, and what is retained for a new
                # subscription alone.
                assert body[-1] == 1 | 1 << 2 | 1 << 3 | 1 << 4
                until(made, lambda: made.connected)


def test_what_the_broker_sends_again_is_known_by_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1]) as made:
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\x20\x03\x01\x00\x00")  # CONNACK, success, with a session
            for kind, mid in ((0x32, 1), (0x3A, 2)):  # PUBLISH at QoS 1, without and with DUP
                connection.sendall(bytes([kind, 9, 0, 4]) + b"in/x" + bytes([0, mid, 0]))
            found: list[Received] = []

            def both() -> bool:
                found.extend(iter(made.receive, None))
                return len(found) == 2

            until(made, both)
        assert [(message.mid, message.again) for message in found] == [(1, False), (2, True)]


class Meanwhile:
    """A log during which the worker takes a turn, when it is told that the broker has accepted us."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self.turn = turn

    def info(self, event: str, **_: Any) -> None:
        if event == "connected":
            self.turn()

    def __getattr__(self, name: str) -> Any:
        return getattr(structlog.get_logger(), name)


def publishes(connection: socket.socket) -> Iterator[mqtt_proxy.Publish]:
    """As they come."""
    buffer = bytearray()
    while data := connection.recv(4096):
        buffer += data
        yield from (
            mqtt_proxy.publish(found) for found in mqtt_proxy.packets(buffer) if found.kind == mqtt_proxy.PUBLISH
        )


def test_what_was_in_flight_goes_out_again_before_what_waited_for_the_connection() -> None:
    """Of two retained messages on one topic the broker keeps the one that comes last."""
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1]) as made:
        server.settimeout(PATIENCE)
        made._log = Meanwhile(made.pump)
        came: list[bytes] = []
        for session_present, newest in enumerate((b"old", b"new")):
            made.send([Message("out/a", newest, True, session_present)])
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE)
                packet(connection, mqtt_proxy.CONNECT)
                connection.sendall(bytes([0x20, 3, session_present, 0, 0]))  # CONNACK, success
                until(made, lambda: made.connected)
                made.pump()
                for found in publishes(connection):
                    came += [found.payload] * (found.topic == "out/a")
                    if newest in came:
                        break
            until(made, lambda: not made.connected)
        assert came == [b"old", b"old", b"new"]


def test_what_comes_with_the_brokers_acceptance_is_acknowledged_on_this_connection() -> None:
    """The worker may have taken it before the network thread has seen to all that came at once."""
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1]) as made:
        server.settimeout(PATIENCE)
        put = made._inbox.put

        def put_and_acknowledge(message: Received) -> None:
            put(message)
            made.acknowledge(made.receive() or message)

        made._inbox.put = put_and_acknowledge  # type: ignore[method-assign]
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE)
            packet(connection, mqtt_proxy.CONNECT)
            accepted, message = b"\x20\x03\x01\x00\x00", b"\x32\x0a\x00\x04in/a\x00\x07\x00x"
            connection.sendall(accepted + message)
            assert packet(connection, mqtt_proxy.PUBACK)[:2] == b"\x00\x07"


def test_a_broker_that_knows_no_mqtt_5_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1]) as made:
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\x20\x02\x00\x01")  # CONNACK of MQTT 3.1.1: unacceptable protocol version
            with pytest.raises(TransportError, match=r"(?s)refuses us.*mqtt.version: 3\.1\.1") as caught:
                until(made, lambda: False)
        assert caught.value.exit_code == EXIT_REFUSED


def test_a_takeover_ends_us_with_its_own_code() -> None:
    """By a broker of two packets: Mosquitto 2.0.11 closes the old connection without the reason code."""
    with socket.create_server(("127.0.0.1", 0)) as server, transport(server.getsockname()[1], client_id="twin") as made:
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK, success
            until(made, lambda: made.connected)
            connection.sendall(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over
            with pytest.raises(SessionTakenOver, match=r"twin.*\n.*client_id") as caught:
                until(made, lambda: False)
        assert caught.value.exit_code == EXIT_TAKEOVER
        assert not made.connected
        server.settimeout(1.5)
        with pytest.raises(TimeoutError):  # longer than paho's first delay, and nobody comes back
            server.accept()


def test_two_clients_with_one_id_are_told_of_it(mosquitto: Broker) -> None:
    with structlog.testing.capture_logs() as logs, transport(mosquitto.port, client_id="twin") as made:
        other = paho.Client(CallbackAPIVersion.VERSION2, client_id="twin", protocol=paho.MQTTv5)
        until(made, lambda: made.subscribed)
        other.connect("127.0.0.1", mosquitto.port)
        other.loop_start()
        until(made, lambda: any(line["event"] == "connection_contested" for line in logs))
        assert {line["kind"] for line in logs if line["event"] == "disconnected"} == {"closed without a word"}
        other.disconnect()
        other.loop_stop()


def test_a_wrong_password_is_told_and_a_right_one_works(tmp_path: Path) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        absent("mosquitto_passwd")
    subprocess.run([str(program), "-b", "-c", tmp_path / "pw", "edge", "right"], check=True, capture_output=True)
    (tmp_path / "pw").chmod(0o644)
    broker = start_mosquitto(tmp_path, f"password_file {tmp_path}/pw")
    try:
        with transport(broker.port, username="edge", password="right") as made:
            until(made, lambda: made.subscribed)
        with transport(broker.port, username="edge", password="wrong") as made:
            with pytest.raises(TransportError, match="refuses us") as caught:
                until(made, lambda: False)
            assert caught.value.exit_code == EXIT_REFUSED
    finally:
        broker.process.terminate()
        broker.process.wait(10)


def test_what_came_on_a_broken_connection_is_not_acknowledged_on_the_next(
    mosquitto: Broker, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mosquitto would count it as room for one more message than our ReceiveMaximum, once it is acknowledged again."""
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed)
        peer.publish("in/a", b"1")
        (first,) = take(made, 1)
        sent: list[int] = []
        ack = made._client.ack
        monkeypatch.setattr(made._client, "ack", lambda mid, qos: (sent.append(mid), ack(mid, qos)))
        made._drop_connection()
        until(made, lambda: not made.connected)
        made.acknowledge(first)
        until(made, lambda: made.subscribed)
        made.acknowledge(first)
        assert sent == []
        (again,) = take(made, 1)
        made.acknowledge(again)
        assert again.payload == b"1"
        assert sent == [again.mid]


def test_connections_that_break_at_once_leave_no_heap_of_messages_in_paho(mosquitto: Broker, peer: Peer) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed and availability(peer) == [b"online"])
        flags = SimpleNamespace(session_present=True)
        made._loop.end()
        made._drop_connection()
        until(made, lambda: not made.connected)
        for _ in range(5):  # accepted, and broken before the broker has answered anything
            made._client.on_connect(made._client, None, flags, paho.ReasonCode(paho.PacketTypes.CONNACK), None)  # type: ignore[misc,arg-type]
        assert len(made._client._out_messages) == 1


def test_no_delay_is_set_on_the_socket(mosquitto: Broker) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed)
        sock: Any = made._client.socket()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_refused_subscription_is_fatal_and_names_the_topic(mosquitto: Broker) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed)
        made.filters = Filters(["in/+"], [], subscribe=lambda _: 7, unsubscribe=lambda _: None)
        made.filters.connect()
        code = paho.ReasonCode(paho.PacketTypes.SUBACK, identifier=0x87)
        made._client.on_subscribe(made._client, None, 7, [code], None)  # type: ignore[misc]
        with pytest.raises(TransportError, match=r"in/\+.*Not authorized"):
            until(made, lambda: False)


def test_an_exception_in_a_callback_is_loud(mosquitto: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    with transport(mosquitto.port) as made:
        until(made, lambda: made.subscribed)
        monkeypatch.setattr(made._outbox, "_acknowledged", None)
        made._client.publish("x", b"y", qos=1)
        with pytest.raises(EdgeRulError, match="_on_publish"):
            until(made, lambda: False)
        monkeypatch.undo()
