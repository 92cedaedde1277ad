"""A short visit to the broker, for commands typed at a terminal: connect, ask, listen for a while, go.

Owns a session under a name of its own that ends with the visit, so that the daemon's session, and what waits in it, is
never touched. Knows no payload.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import ssl
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_rul.adapters.mqtt_tls import hint as tls_hint
from edge_rul.config import Mqtt
from edge_rul.errors import TransportError

_PATIENCE = 10.0  # seconds for one answer of the broker's


class Heard(msgspec.Struct, frozen=True):
    """A message as it came. qos: the smaller of the publisher's and ours. retain: it was there before we asked."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int = 0


class Visit:
    """A context manager. Raises TransportError wherever the broker cannot be reached, or does not do as it is asked.

    told: what the broker said of itself when it accepted us, by MQTT's names; empty with MQTT 3.1.1.
    """

    def __init__(
        self, settings: Mqtt, password: str | None, context: ssl.SSLContext | None, *, name: str = "", keep: int = 0
    ) -> None:
        """name: of the session, a new one by default. keep: seconds for which it outlives the visit; its messages are
        then acknowledged by `acknowledge`. 0 ends it, and an older one of this name."""
        self._broker = f"{settings.host}:{settings.port}"
        self._five = settings.version == 5
        self._answers: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.told: dict[str, Any] = {}
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name or a_name(settings),
            protocol=paho.MQTTv5 if self._five else paho.MQTTv311,
            clean_session=None if self._five else not keep,
            manual_ack=keep > 0,
            reconnect_on_failure=False,
        )
        if settings.username is not None:
            client.username_pw_set(settings.username, password)
        if context is not None:
            client.tls_set_context(context)
        client.on_connect = lambda _c, _u, _f, code, properties: self._answers.put(("connect", 0, (code, properties)))
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._answers.put(("disconnect", 0, code))
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._answers.put(("subscribe", mid, codes))
        client.on_publish = lambda _c, _u, mid, code, _p: self._answers.put(("publish", mid, code))
        client.on_message = lambda _c, _u, m: self._heard.put(Heard(m.topic, bytes(m.payload), m.qos, m.retain, m.mid))
        self._client = client
        options: dict[str, Any] = {}
        if self._five:
            properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = keep
            properties.ReceiveMaximum = settings.receive_maximum
            options = {"clean_start": not keep, "properties": properties}
        try:
            client.connect(settings.host, settings.port, settings.keepalive, **options)
        except OSError as e:
            hint = (tls_hint(e) if context else "") or "is the broker running, and are mqtt.host and mqtt.port right?"
            raise TransportError("connect", self._broker, f"cannot be reached: {e}", hint=hint) from None
        client.loop_start()
        try:
            code, answer = self._answer("connect", 0)
            if code.is_failure:
                hint = "check user, password and rights"
                raise TransportError("connect", self._broker, f"the broker refuses us: {code}", hint=hint)
        except BaseException:
            self.close()
            raise
        if answer is not None:
            self.told = {k: v for k, v in answer.json().items() if k != "UserProperty"}

    def _answer(self, operation: str, mid: int) -> Any:
        """What the broker answers to the packet `mid`. What answers an earlier one is passed over."""
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                kind, of, answer = self._answers.get(timeout=left)
                if kind == "disconnect":
                    hint = (
                        "does it want TLS, or a client certificate? Its log says why" if operation == "connect" else ""
                    )
                    raise TransportError(operation, self._broker, f"the broker hung up: {answer}", hint=hint)
                if (kind, of) == (operation, mid):
                    return answer
        raise TransportError(operation, self._broker, f"no answer within {_PATIENCE:g} s")

    def subscribe(self, filters: list[str], qos: int = 1) -> dict[str, str]:
        """Returns the filters that the broker refuses, with its words for it."""
        _, mid = self._client.subscribe([(text, qos) for text in filters])
        codes: list[ReasonCode] = self._answer("subscribe", mid or 0)
        return {text: str(code) for text, code in zip(filters, codes, strict=True) if code.is_failure}

    def listen(self, seconds: float) -> Iterator[Heard]:
        """What comes within `seconds`; the caller stops when it has heard enough."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                yield self._heard.get(timeout=left)
            except queue.Empty:
                return

    def acknowledge(self, heard: Heard) -> None:
        self._client.ack(heard.mid, heard.qos)

    def publish(
        self, topic: str, payload: bytes, *, times: int = 1, reply_to: str = "", correlation: bytes = b""
    ) -> str:
        """At QoS 1; returns how the broker acknowledged the last. reply_to, correlation: told with MQTT 5 only."""
        properties: Any = None
        if self._five and reply_to:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = reply_to
            properties.CorrelationData = correlation
        for _ in range(times):
            info = self._client.publish(topic, payload, qos=1, properties=properties)
        code: ReasonCode = self._answer("publish", info.mid)
        if code.is_failure:
            hint = "the user needs the right to write it; --username and --password-file name another"
            raise TransportError("publish", topic, f"the broker refuses: {code}", hint=hint)
        return str(code)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def a_name(settings: Mqtt) -> str:
    """A session's, that says whose visit it is."""
    return f"{settings.client_id[:100]}-visit-{secrets.token_hex(4)}"
