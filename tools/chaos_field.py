"""The plant of the chaos run: real engines, replayed again and again, by a publisher that knows what a plant would.

Owns which reading goes out next, the disorder (held back, twice, never), what is sent again after a broker was killed,
and a client of MQTT 5 that keeps what the broker has not acknowledged. Each replay of an engine is a new life of the
same asset. Must not know which faults are under way: it sees connections break, acknowledgements and answers.

    order       a reading is sent at most AHEAD cycles before the engine's oldest one that the daemon has not
                acknowledged, so that nothing falls behind by more than the daemon's max_late, whatever happens.
    a new life  begins once the old one is acknowledged to its end, and its first reading goes alone: what came before
                the first one would belong to the old life.
    an outage   now and then an engine sends nothing for more cycles than the daemon holds, and never will.
    again       only a killed broker may forget what it acknowledged. When the daemon listens again and nothing more
                comes, the replayer goes back to the last cycle that it saw answered, or to an older one that the
                daemon never acknowledged, and sends what is not acknowledged. What the daemon did acknowledge is not
                sent again: that would mend a loss before it is seen. (One reading in 25 goes out twice all the same,
                to try the daemon's memory; a loss among the other 24 stays.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import mqtt_proxy
import replay
from chaos_witness import HELD, REPLAYER, Key, Witness

from edge_rul.simulate import iso
from edge_rul.simulator import Reading, line_of

AHEAD = 20  # cycles
HELD_BACK = 8  # cycles at most that one is sent late
_IN_FLIGHT = 50
_LIFE = 1000  # cycles between the event times of two lives
_QUIET = 1.0  # seconds without a message to the daemon, after which a killed broker has nothing more to deliver


class Engine:
    """One asset and where its replay stands. readings: of one life. sent: cycles of the life under way, once each."""

    def __init__(self, readings: list[Reading], rng: random.Random) -> None:
        self.readings = {reading.cycle: reading for reading in readings}
        self.name = readings[0].asset
        self._rng = rng
        self.held: list[tuple[int, Key]] = []  # (sent after how many more, what)
        self.life = -1
        self.sent: list[int] = []
        self.begin()

    def begin(self) -> None:
        """The next life. One reading in a hundred never comes, as sensors fail, and in every third life several in a
        row; the first always does."""
        if self.sent and self._rng.random() < 0.3:
            # A copy of the old life that comes when the new one has begun, and must change nothing.
            self.held.append((self._rng.randint(2, 5), self.key(self._rng.choice(self.sent))))
        self.life += 1
        first, *others = self.readings
        out = range(0)
        if self._rng.random() < 1 / 3:
            begin = self._rng.choice(others)
            out = range(begin, begin + self._rng.randint(HELD + 1, 2 * HELD))
        self._left = deque([first, *(c for c in others if c not in out and self._rng.random() > 0.01)])
        self.sent = []

    def key(self, cycle: int) -> Key:
        return Key(self.name, self.life, cycle)

    def unacknowledged(self, witness: Witness) -> list[int]:
        return [cycle for cycle in self.sent if self.key(cycle) not in witness.acknowledged]

    def next(self, witness: Witness, *, more: bool) -> Key | None:
        """What to send now, or None. more: whether new readings may begin."""
        if self.held and self.held[0][0] <= 0:
            return self._release()
        open_ = self.unacknowledged(witness)
        first_is_open = len(self.sent) == 1 and bool(open_)
        if not self._left and not self.held and not open_ and more:
            self.begin()
        held = [key.cycle for _, key in self.held if key.life == self.life and key.cycle not in self.sent]
        oldest = min([*open_, *held], default=None)
        far = oldest is not None and bool(self._left) and self._left[0] > oldest + AHEAD
        if first_is_open:
            return None
        if not more or not self._left or far:
            return self._release() if self.held else None
        key = self.key(self._left.popleft())
        self.held = sorted((after - 1, other) for after, other in self.held)
        if self.sent:
            draw = self._rng.random()
            if draw < 0.10:
                # Held back, or, in four cases of ten, sent now and once more later.
                self.held.append((self._rng.randint(1, HELD_BACK), key))
            if draw < 0.06:
                return None
        return self._send(key)

    def _release(self) -> Key:
        return self._send(self.held.pop(0)[1])

    def _send(self, key: Key) -> Key:
        if key.life == self.life and key.cycle not in self.sent:
            self.sent.append(key.cycle)
        return key


class Replayer:
    """Paces the engines' readings and sends them. more: whether new readings may begin. lost: acknowledged by a broker
    that then forgot them. suspicious: a broker was killed, and what it forgot is not known yet."""

    def __init__(self, data: Path, engines: int, rate: float, seed: int, witness: Witness) -> None:
        self._rng = random.Random(seed)
        table = replay.load_set(data, "test_FD001.txt")
        by_name: dict[str, list[Reading]] = {}
        for readings in replay.rounds(table):
            for reading in readings:
                by_name.setdefault(reading.asset, []).append(reading)
        names = self._rng.sample(sorted(by_name), engines)
        self.engines = [Engine(by_name[name], random.Random(f"{seed} {name}")) for name in names]
        self._readings = {engine.name: engine.readings for engine in self.engines}
        self._lines = {name: line_of(int(name.partition("-")[2]) - 1, replay.ENGINES_A_LINE) for name in by_name}
        self._period = 1.0 / rate
        self._witness = witness
        self._start = 1_700_000_000_000  # epoch milliseconds; all that matters is that no stamp lies ahead
        self._outbox: deque[Key] = deque()
        self._in_flight: dict[int, Key] = {}
        self._packet_id = 0
        self._wake = asyncio.Event()
        self._turn = 0
        self.suspicious = False
        self.more = True
        self.lost: set[Key] = set()
        self._quiet_since = 0.0

    # -- what goes out ----------------------------------------------------------------------------------------------

    @property
    def waits_for(self) -> list[Key]:
        """Sent and not acknowledged by the daemon."""
        return [engine.key(cycle) for engine in self.engines for cycle in engine.unacknowledged(self._witness)]

    @property
    def busy(self) -> bool:
        """Whether something is still to be sent, or is not acknowledged."""
        return bool(
            self.suspicious
            or self._outbox
            or self._in_flight
            or self.waits_for
            or any(engine.held for engine in self.engines)
        )

    def moved(self) -> None:
        """Something passed the proxy."""
        self._quiet_since = asyncio.get_running_loop().time()

    def suspect(self) -> None:
        """A broker is being killed."""
        self.suspicious = True
        self.moved()  # so that the connection has time to break before it looks quiet

    async def pace(self, idle: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Decide what to send, `rate` readings a second. idle: whether nothing is on its way to the daemon."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._period, loop.time())
            await asyncio.sleep(due - loop.time())
            if self.suspicious and self._witness.listening:
                if not self._outbox and not self._in_flight and idle() and loop.time() - self._quiet_since > _QUIET:
                    self._again(say)
                continue
            if len(self._outbox) < _IN_FLIGHT:
                self._offer()

    def _offer(self) -> None:
        for _ in self.engines:
            self._turn += 1
            engine = self.engines[self._turn % len(self.engines)]
            if (key := engine.next(self._witness, more=self.more)) is not None:
                self._outbox.append(key)
                self._wake.set()
                return

    def _again(self, say: Callable[[str], None]) -> None:
        self.suspicious = False
        forgotten = [key for key in self.waits_for if key in self._witness.accepted]
        self.lost.update(forgotten)
        # In order of cycle, so from the last one answered on, where no older one is missing.
        self._outbox.extend(sorted(forgotten, key=lambda key: (key.cycle, key.asset)))
        self._wake.set()
        if forgotten:
            say(f"the killed broker forgot {len(forgotten)} acknowledged readings: sent again")

    def _message(self, key: Key) -> tuple[str, bytes]:
        reading = self._readings[key.asset][key.cycle]
        stamp = iso(self._start + (key.life * _LIFE + key.cycle) * 1000)
        payload = {"cycle": key.cycle, "ts": stamp, "source": f"chaos/{key.life}", "values": reading.values}
        return f"plant/{self._lines[key.asset]}/{key.asset}/cycle", json.dumps(payload).encode()

    # -- the client -------------------------------------------------------------------------------------------------

    async def serve(self, port: int) -> None:
        """Connect, send, and connect again, for ever."""
        while True:
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await self._session(reader, writer)
                finally:
                    writer.transport.abort()
            # What the broker did not acknowledge goes first, in its order.
            self._outbox.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()
            await asyncio.sleep(0.2)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(connect_packet(REPLAYER))
        received = receive(reader)
        connack = await received.__anext__()
        if connack.kind != mqtt_proxy.CONNACK or connack.body[1]:
            return
        sender = asyncio.ensure_future(self._send(writer))
        try:
            async for packet in received:
                if packet.kind == mqtt_proxy.PUBACK:
                    self._in_flight.pop(mqtt_proxy.puback(packet)[0], None)
                    self._wake.set()
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while True:
            while self._outbox and len(self._in_flight) < _IN_FLIGHT:
                key = self._outbox.popleft()
                self._packet_id = self._packet_id % 65535 + 1
                self._in_flight[self._packet_id] = key
                writer.write(publish_packet(*self._message(key), self._packet_id))
            await writer.drain()
            self._wake.clear()
            await self._wake.wait()


async def receive(reader: asyncio.StreamReader) -> AsyncIterator[mqtt_proxy.Packet]:
    """Packet by packet. Raises EOFError at the end of the connection."""
    buffer = bytearray()
    while piece := await reader.read(65536):
        buffer += piece
        for packet in mqtt_proxy.packets(buffer):
            yield packet
    raise EOFError


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def _packet(first: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body


def connect_packet(client: str) -> bytes:
    """A CONNECT of MQTT 5 with clean start and without keepalive: a frozen broker is waited for."""
    return _packet(mqtt_proxy.CONNECT << 4, _text("MQTT") + b"\x05\x02\x00\x00\x00" + _text(client))


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """A PUBLISH of MQTT 5 at QoS 1."""
    return _packet(mqtt_proxy.PUBLISH << 4 | 2, _text(topic) + struct.pack(">H", packet_id) + b"\x00" + payload)


def subscribe_packet(filters: list[str]) -> bytes:
    """A SUBSCRIBE of MQTT 5 at QoS 0."""
    return _packet(mqtt_proxy.SUBSCRIBE << 4 | 2, b"\x00\x01\x00" + b"".join(_text(f) + b"\x00" for f in filters))
