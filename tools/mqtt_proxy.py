"""A TCP proxy between MQTT 5 clients and their broker: passes everything on, tells what it saw, misbehaves on request.

Owns the connections, the cutting of bytes into packets as far as PUBLISH and PUBACK need it, and the faults of a
network: cut (also in the middle of a packet), delay, refuse. What passes is told to a listener, once it has been read
and before it is passed on: what a peer said, it said, whether or not the other one ever hears it. Must not know what a
payload means, nor who is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
_FAILED = 0x80  # reason codes from here on


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes  # without the fixed header


class Publish(NamedTuple):
    topic: str
    payload: bytes
    packet_id: int  # 0 at QoS 0
    retain: bool


def varint(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer at `at`: its value and where it ends, or None while it is incomplete."""
    value = 0
    for index in range(4):
        if at + index >= len(data):
            return None
        value |= (data[at + index] & 0x7F) << (7 * index)
        if not data[at + index] & 0x80:
            return value, at + index + 1
    raise ValueError("a length of more than four bytes: this is not MQTT")


def packets(buffer: bytearray) -> Iterator[Packet]:
    """Takes whole packets off the front of `buffer`."""
    while len(buffer) >= 2 and (length := varint(buffer, 1)) is not None:
        size, start = length
        if len(buffer) < start + size:
            return
        packet = Packet(buffer[0] >> 4, buffer[0] & 0x0F, bytes(buffer[start : start + size]))
        del buffer[: start + size]
        yield packet


def publish(packet: Packet) -> Publish:
    """A PUBLISH of MQTT 5."""
    body, qos = packet.body, packet.flags >> 1 & 3
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode()
    packet_id = int.from_bytes(body[end : end + 2], "big") if qos else 0
    properties = varint(body, end + 2 * bool(qos))
    if properties is None:
        raise ValueError("a PUBLISH without the length of its properties")
    size, start = properties
    return Publish(topic, body[start + size :], packet_id, bool(packet.flags & 1))


def puback(packet: Packet) -> tuple[int, int]:
    """The packet id and the reason code of a PUBACK of MQTT 5."""
    return int.from_bytes(packet.body[:2], "big"), packet.body[2] if len(packet.body) > 2 else 0


def client_id(packet: Packet) -> str:
    """Of a CONNECT of MQTT 5."""
    body = packet.body
    at = 2 + int.from_bytes(body[:2], "big") + 4  # the protocol's name; version, flags, keepalive
    if (properties := varint(body, at)) is None:
        raise ValueError("a CONNECT without the length of its properties")
    at = properties[1] + properties[0]
    return body[at + 2 : at + 2 + int.from_bytes(body[at : at + 2], "big")].decode()


class Listener(Protocol):
    """What is told of the traffic. link: one connection; its client is known from its CONNECT on."""

    def on_connected(self, link: Link, session_present: bool) -> None: ...
    def on_subscribed(self, link: Link) -> None: ...
    def on_published(self, link: Link, message: Publish) -> None:
        """By the client."""

    def on_delivered(self, link: Link, message: Publish) -> None:
        """To the client."""

    def on_acknowledged(self, link: Link, message: Publish, reason: int) -> None:
        """By the client, what was delivered to it."""

    def on_accepted(self, link: Link, message: Publish, reason: int) -> None:
        """By the broker, what the client published."""

    def on_closed(self, link: Link) -> None: ...


class Link:
    """One client's connection, and the one to the broker behind it. delay: seconds that each piece is held."""

    def __init__(self, listener: Listener) -> None:
        self.client = ""
        self.delay = 0.0
        self._listener = listener
        self._to_client: dict[int, Publish] = {}  # by packet id, unacknowledged
        self._to_broker: dict[int, Publish] = {}
        self._writers: list[asyncio.StreamWriter] = []
        self._torn = False

    @property
    def unacknowledged(self) -> int:
        """Messages that were delivered to the client and not acknowledged."""
        return len(self._to_client)

    async def run(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            back, out = await asyncio.open_connection("127.0.0.1", upstream)
        except OSError:  # no broker: the client hears what it would hear from an empty port
            self.cut()
            return
        self._writers.append(out)
        pumps = [
            asyncio.ensure_future(self._pump(reader, out, self._from_client)),
            asyncio.ensure_future(self._pump(back, writer, self._from_broker)),
        ]
        _, open_ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        # What one side still said before it closed is passed on; half-open connections are of no use to MQTT.
        await asyncio.wait(pumps, timeout=0.05)
        for pump in open_:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self.cut()
        self._listener.on_closed(self)

    def cut(self, *, torn: bool = False) -> None:
        """Close both sides. torn: only once half of the next piece has been passed on."""
        if torn:
            self._torn = True
            return
        for writer in self._writers:
            with contextlib.suppress(OSError, AttributeError):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: _Tell) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                buffer += piece
                for packet in packets(buffer):
                    tell(packet)
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self._torn:
                    piece = piece[: len(piece) // 2]
                writer.write(piece)
                await writer.drain()
                if self._torn:
                    return

    def _from_client(self, packet: Packet) -> None:
        if packet.kind == CONNECT:
            self.client = client_id(packet)
        elif packet.kind == PUBLISH:
            message = publish(packet)
            if message.packet_id:
                self._to_broker[message.packet_id] = message
            self._listener.on_published(self, message)
        elif packet.kind == PUBACK:
            packet_id, reason = puback(packet)
            if (found := self._to_client.pop(packet_id, None)) is not None:
                self._listener.on_acknowledged(self, found, reason)

    def _from_broker(self, packet: Packet) -> None:
        if packet.kind == CONNACK and packet.body[1] < _FAILED:
            self._listener.on_connected(self, bool(packet.body[0] & 1))
        elif packet.kind == SUBACK:
            self._listener.on_subscribed(self)
        elif packet.kind == PUBLISH:
            message = publish(packet)
            if message.packet_id:
                self._to_client[message.packet_id] = message
            self._listener.on_delivered(self, message)
        elif packet.kind == PUBACK:
            packet_id, reason = puback(packet)
            if (found := self._to_broker.pop(packet_id, None)) is not None:
                self._listener.on_accepted(self, found, reason)


class _Tell(Protocol):
    def __call__(self, packet: Packet, /) -> None: ...


class Proxy:
    """Listens on `port` of loopback once started, and connects each client to `upstream`."""

    def __init__(self, upstream: int, listener: Listener) -> None:
        self.port = 0
        self.links: set[Link] = set()
        self._upstream = upstream
        self._listener = listener
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self._listener)
        self.links.add(link)
        try:
            await link.run(self._upstream, reader, writer)
        finally:
            self.links.discard(link)

    def of(self, client: str) -> list[Link]:
        return [link for link in self.links if link.client == client]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.cut()
        while self.links:
            await asyncio.sleep(0.01)
