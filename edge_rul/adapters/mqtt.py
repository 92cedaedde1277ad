"""MQTT by paho: a persistent session in, a bounded window of messages out.

Owns the client and its connections, acknowledgements by connection, and what of a broker's answers is fatal. Only the
worker calls the public methods; the network thread (`mqtt_loop`) only fills the inbox and wakes it. Knows no payload.

What paho does not do by itself, and is done here: keep the session across restarts, acknowledge only on the connection
that a message came on, hand over at most N unacknowledged publishes, read the broker's ReceiveMaximum, set
TCP_NODELAY, look at failure codes, stop at a takeover, and notice that its thread has died.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_rul.adapters.mqtt_filters import Filters
from edge_rul.adapters.mqtt_inbox import Inbox, Received
from edge_rul.adapters.mqtt_loop import Client, Loop
from edge_rul.adapters.mqtt_outbox import Outbox
from edge_rul.adapters.mqtt_retained import Unsaved
from edge_rul.adapters.mqtt_tls import hint as tls_hint
from edge_rul.config import Limits, Mqtt
from edge_rul.core.command import ReplyTo
from edge_rul.core.outgoing import Message
from edge_rul.errors import EdgeRulError, SessionTakenOver, TransportError
from edge_rul.log import Summary

_UNSPECIFIED, _TAKEN_OVER = 0x80, 0x8E
_SHORT = 5.0  # seconds; a connection that ends sooner, three times in a row, looks like two clients with one id
# CONNACK codes that no waiting will change: version, client id, password, rights, ban, method, moved.
_REFUSED = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x9C, 0x9D})


class MqttTransport:
    """One connection to one broker. `start`, then `wait`, `receive`, `acknowledge`, `send`, `pump` in turn."""

    def __init__(
        self,
        settings: Mqtt,
        limits: Limits,
        *,
        filters: Sequence[str],
        stale: Sequence[str] = (),
        availability: str,
        password: str | None,
        context: ssl.SSLContext | None,
        log: Any,
    ) -> None:
        """filters: to subscribe to at QoS 1. stale: that an earlier configuration subscribed to, and the session may
        still hold. availability: topic of `online` and, as the will, `offline`. context: for TLS, of `mqtt_tls`."""
        self._settings = settings
        self._limits = limits
        self._availability = availability
        self._log = log
        self._faults = Summary(log)
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # put is safe in a signal handler
        self._awake = False
        self._inbox = Inbox(limits.inbox_messages, limits.inbox_bytes)
        self._outbox = Outbox(self._publish, settings.in_flight)
        self._unsaved = Unsaved()
        self._resumed = 0  # the connection on which what may have been lost went out again
        self._online: paho.MQTTMessageInfo | None = None
        self._renewing = False
        self._connection = 0
        self._owed: Counter[int] = Counter()  # connection -> messages at QoS 1 taken from the inbox, unacknowledged
        self._failing = ""
        self._since = 0.0  # monotonic time of the connection
        self._short = 0  # connections in a row that did not last
        self._accepted = False  # by the broker, on this connection
        self.connected = False  # accepted, and paho has sent again what was in flight: more may be published
        self.subscribed = False  # on this connection, acknowledged by the broker
        self.attempted = threading.Event()  # a first connection failed, or was subscribed
        self.new_session = False  # the broker had none for us; the worker clears it
        self.on_subscribed: Callable[[], None] = lambda: None  # called on the network thread
        self.fatal: EdgeRulError | None = None
        self.refused = 0  # publishes that the broker acknowledged with a failure
        self.drained = 0.0  # monotonic time at which nothing waited for an acknowledgement, or one came
        self._client = self._make_client(password, context)
        self._loop = Loop(self._client, self._on_connect_fail, self._on_turn)
        self.filters = Filters(filters, stale, subscribe=self._subscribe, unsubscribe=self._client.unsubscribe)

    def _make_client(self, password: str | None, context: ssl.SSLContext | None) -> Client:
        five = self._settings.version == 5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.client_id,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            manual_ack=True,
            clean_session=None if five else False,
        )
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, password)
        if context is not None:
            client.tls_set_context(context)
        will: Any = None
        if five and self._settings.will_delay:
            will = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            will.WillDelayInterval = self._settings.will_delay  # a short break is no `offline`
        client.will_set(self._availability, b"offline", qos=1, retain=True, properties=will)
        client.max_inflight_messages_set(self._settings.in_flight + 1)  # ours, and `availability`
        client.on_connect = self._guarded(self._on_connect)
        client.on_disconnect = self._guarded(self._on_disconnect)
        client.on_subscribe = self._guarded(self._on_subscribe)
        client.on_message = self._guarded(self._on_message)
        client.on_publish = self._guarded(self._on_publish)
        client.on_socket_open = self._guarded(_no_delay)
        return client

    # -- the worker's side ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect in the background, and again whenever the connection breaks."""
        self.drained = time.monotonic()
        self._client.connect_async(
            self._settings.host, self._settings.port, self._settings.keepalive, **self._session()
        )
        self._loop.start()

    def _session(self) -> dict[str, Any]:
        if self._settings.version != 5:
            return {}
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._settings.session_expiry
        properties.ReceiveMaximum = self._settings.receive_maximum
        properties.MaximumPacketSize = self._settings.max_packet
        return {"clean_start": False, "properties": properties}

    def wake(self) -> None:
        """Make `wait` return. Safe from any thread and from a signal handler."""
        if not self._awake:
            self._awake = True
            self._wake.put(None)

    def wait(self, timeout: float) -> None:
        """Return when there may be something to do, or after `timeout` seconds. Raises what ended the transport."""
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=timeout)
        self._awake = False
        if self.fatal is not None:
            raise self.fatal
        if self._loop.died:
            raise EdgeRulError("receive", "MQTT", "the network thread has died")

    def receive(self) -> Received | None:
        """The oldest message of the inbox, or None."""
        message = self._inbox.take()
        if message is None:
            self._renew()
        elif message.qos:
            self._owed[message.connection] += 1
        return message

    def _renew(self) -> None:
        """What did not fit into the inbox is still unacknowledged: a new connection makes the broker send it again. Not
        before all that was taken is acknowledged, or it would come again itself, and fill the inbox as before."""
        if self._inbox.overflowed and self.connected and not self._renewing and not self._owed[self._connection]:
            self._renewing = True
            self._faults.fault("inbox_drained", "overflow", time.monotonic(), action="renewing the connection")
            self._loop.renew()

    def acknowledge(self, message: Received) -> None:
        if not message.qos:
            return
        self._owed[message.connection] -= 1
        # Not while the connection is broken: the broker sends the message again, and Mosquitto counts the second
        # acknowledgement of it as room for one more, beyond our ReceiveMaximum.
        if self._accepted and message.connection == self._connection:
            self._client.ack(message.mid, message.qos)

    @property
    def dropped_qos0(self) -> int:
        return self._inbox.dropped

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._connection

    @property
    def turned(self) -> float:
        """Monotonic time of the network loop's last turn, or of the last attempt to connect."""
        return self._loop.turned

    @property
    def backlog(self) -> int:
        """Messages that wait for the broker, in flight or not."""
        return len(self._outbox)

    @property
    def oldest_seq(self) -> int | None:
        """The seq of the oldest QoS 1 message that the broker has not acknowledged, or None."""
        return self._outbox.oldest_seq

    @property
    def waiting_seq(self) -> int | None:
        """The seq of the oldest QoS 1 message that waits here, so that nobody has heard it, or None."""
        return self._outbox.waiting_seq

    def send(self, messages: Sequence[Message]) -> None:
        """Publish in order, as the in-flight window allows. Keeps what cannot go out yet, but for QoS 0: a statistic of
        an hour ago is of no use."""
        for message in messages:
            if message.qos:
                self._outbox.put(message)
            elif self.connected:
                self._client.publish(message.topic, message.payload, qos=0, retain=message.retain)
        self.pump()

    def pump(self) -> None:
        """Account for what the broker acknowledged, and hand paho what now fits into the window."""
        self._faults.tick(time.monotonic())
        if self._outbox.idle or not self.connected:
            self.drained = time.monotonic()
        for message, reason in self._outbox.settle():
            self.refused += 1
            self._faults.fault("publish_refused", reason, time.monotonic(), level="error", topic=message.topic)
        if self.connected:
            if self._resumed != self._connection:
                self._resumed = self._connection
                for message in self._unsaved.again(self._outbox.topics):
                    self._outbox.put(message)
            self._outbox.fill()

    def _publish(self, message: Message) -> int:
        self._unsaved.sent(message, time.monotonic())
        properties = self._correlated(message.correlation) if message.correlation else None
        topic, payload = message.topic, message.payload
        return self._client.publish(topic, payload, qos=1, retain=message.retain, properties=properties).mid

    def _correlated(self, data: bytes) -> Properties | None:
        if self._settings.version != 5:
            return None
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = data
        return properties  # type: ignore[no-any-return]

    def close(self, deadline: float) -> None:
        """Publish what is left and `offline`, then disconnect so that the session stays. deadline: monotonic."""
        while self.backlog and self.connected and self.fatal is None and time.monotonic() < deadline:
            self.pump()
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=0.1)
            self._awake = False
        if self.connected:
            info = self._client.publish(self._availability, b"offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(max(0.1, deadline - time.monotonic()))
        self._client.disconnect()
        self._loop.end()
        self._loop.join(2.0)

    def _drop_connection(self) -> None:
        sock: Any = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # -- the network thread's side ----------------------------------------------------------------------------------

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """An exception in a callback would end paho's thread in silence; make it fatal and loud instead."""

        @functools.wraps(callback)
        def guarded(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as e:
                self._log.exception("callback_failed", callback=callback.__name__)
                self._end(EdgeRulError("receive", callback.__name__, repr(e)))

        return guarded

    def _end(self, error: EdgeRulError) -> None:
        self.fatal = self.fatal or error
        self._loop.end()
        self.attempted.set()
        self.wake()

    @property
    def _broker(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    def _on_connect(self, client: paho.Client, _: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        if code.is_failure:
            if code.value in _REFUSED:
                old = "mqtt.version: 3.1.1 may help" if code.value == 0x84 else "check user, password and rights"
                self._end(TransportError("connect", self._broker, f"the broker refuses us: {code}", hint=old))
                client.disconnect()
            elif self._failing != str(code):
                self._failing = str(code)
                self._log.warning("connect_refused", broker=self._broker, reason=str(code), action="trying again")
            self.attempted.set()
            return
        self._failing = ""
        maximum = getattr(properties, "ReceiveMaximum", 65535) if properties is not None else 65535
        self._loop.connected()
        self._outbox.window = max(1, min(self._settings.in_flight, maximum - 1))
        self._connection += 1
        self._renewing = False
        self._inbox.reconnected()
        if self._online is None or self._online.is_published():
            # Otherwise paho sends the last one again; another for each connection that breaks would pile up in it.
            self._online = client.publish(self._availability, b"online", qos=1, retain=True)
        self.filters.connect()
        self._since = time.monotonic()
        if not flags.session_present:
            self.new_session = True
        self._accepted = True
        # One that comes and goes all the time is told by its faults.
        (self._log.debug if self._short >= 3 else self._log.info)(
            "connected", broker=self._broker, session="kept" if flags.session_present else "new"
        )

    def _on_connect_fail(self, error: OSError) -> None:
        self._connect_failed(repr(error), tls_hint(error) if self._settings.tls else "")

    def _on_turn(self) -> None:
        """Once for all that came together, so that the worker finds it together. What was in flight goes out again once
        `_on_connect` has returned: what the worker published before would be older than it for the broker."""
        self.connected = self._accepted
        self.wake()

    def _connect_failed(self, reason: str, hint: str) -> None:
        """Told once as long as the reason stays: it is tried again for ever."""
        if reason != self._failing:
            self._failing = reason
            more = {"hint": hint} if hint else {}
            self._log.warning("connect_failed", broker=self._broker, reason=reason, action="trying again", **more)
        self.attempted.set()

    def _on_disconnect(self, client: paho.Client, _: Any, flags: Any, code: ReasonCode, _properties: Any) -> None:
        accepted, self._accepted, self.connected, self.subscribed = self._accepted, False, False, False
        if code.value == _TAKEN_OVER and flags.is_disconnect_packet_from_server:
            client_id = self._settings.client_id
            problem = f"another client connected as {client_id!r}"
            self._end(
                SessionTakenOver("receive", self._broker, problem, hint="give each daemon its own mqtt.client_id")
            )
            client.disconnect()
        elif not accepted:
            # With TLS 1.3 a broker that wants a certificate says so only now, by hanging up.
            hint = (
                "does the broker want a client certificate? mqtt.tls.cert and mqtt.tls.key"
                if self._settings.tls
                else ""
            )
            self._connect_failed(self._failing or "the broker hung up before it accepted us", hint)
        elif code.is_failure:
            # paho calls it unspecified where nobody specified anything.
            silent = code.value == _UNSPECIFIED and not flags.is_disconnect_packet_from_server
            why = "closed without a word" if silent else str(code)
            self._faults.fault("disconnected", why, time.monotonic(), broker=self._broker, action="trying again")
            # Some brokers (Mosquitto 2.0.11) close the older connection without a word when another client takes over.
            self._short = self._short + 1 if time.monotonic() - self._since < _SHORT else 0
            if self._short == 3:
                hint = f"is another client connected as {self._settings.client_id!r}? Each needs its own mqtt.client_id"
                self._log.error("connection_contested", broker=self._broker, hint=hint)

    def _subscribe(self, filters: Sequence[str]) -> int | None:
        """Send a SUBSCRIBE at QoS 1. Returns its id, None without a connection."""
        options: Any = 1
        if self._settings.version == 5:
            # Otherwise the flag is cleared for whoever listens already, and a retained command would be carried out.
            options = SubscribeOptions(
                qos=1, noLocal=True, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            )
        return self._client.subscribe([(text, options) for text in filters])[1]

    def _on_subscribe(self, client: paho.Client, _: Any, mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        if (refused := self.filters.answered(mid, codes)) is not None:
            hint = "grant the daemon's user the right to read it"
            self._end(TransportError("subscribe", refused[0], f"the broker refuses: {refused[1]}", hint=hint))
            client.disconnect()
            return
        self.on_subscribed()
        self.subscribed = True
        self.attempted.set()  # only now does the broker keep for us what is published
        self.wake()

    def _on_message(self, _client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        reply_to = None
        if (topic := getattr(message.properties, "ResponseTopic", None)) is not None:
            reply_to = ReplyTo(topic, getattr(message.properties, "CorrelationData", b""))
        received = Received(
            message.topic,
            bytes(message.payload),
            message.qos,
            message.mid,
            self._connection,
            message.retain,
            reply_to,
            message.dup,
        )
        self._inbox.put(received)

    def _on_publish(self, _client: paho.Client, _: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        self._outbox.acknowledged(mid, str(code) if code.is_failure else None)


def _no_delay(_client: paho.Client, _: Any, sock: Any) -> None:
    # Without it Nagle's algorithm and delayed acknowledgements add 40 ms to a burst.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
