"""Bytes to entries: the shapes in which a plant sends cycles.

    {"cycle": 12, "ts": "2026-01-01T00:00:00Z", "values": {"T24": 641.8, ...}}     by name; further names are ignored
    {"cycle": 12, "ts": 1767225600000, "values": [641.8, ...]}                     in the bundle's order
    {"cycle": 12, "value": 641.8}                                                  of one sensor, which the topic names
    [{...}, {...}]                                                                 several; a bad one costs itself

`ts` (ISO 8601, UTC where no zone is given, or epoch milliseconds) may be missing, and so may `asset` where the topic
names it. Where `cycle` is missing, `ts` is the reading's key. Owns these shapes, what a reading is known by, and what
is wrong with a payload. Knows no window and no life.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import msgspec
import numpy as np

from edge_rul.core.command import Command, CommandReader, ReplyTo
from edge_rul.core.dead_letter import Refused, refuse
from edge_rul.core.normalise import Array, Mask
from edge_rul.core.rate import Rates
from edge_rul.core.topic import Asset, Template, name_problem
from edge_rul.errors import BadMessage, Reason

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CYCLE_MAX = 2**53  # beyond it JSON readers that use doubles disagree
_MILLISECONDS_FROM = 10**11  # 1973; a smaller number is a time in seconds
_YEAR_1 = -62_135_596_800_000
_MILLISECONDS_TO = 253_402_300_799_999  # the last of the year 9999: half a one more rounds up to the year 10000
_TOPICS_CACHED = 65_536
NO_NUMBER = -1

Key = Literal["cycle", "time", "arrival"]


class Reading(msgspec.Struct, frozen=True):
    """One cycle of one asset. values: (F,) float32, raw; NaN where a value is missing and may be held.

    cycle: its key, by which its asset's readings are ordered and told apart: the number that it came with, or else its
    event time, or -1 where it has neither and takes the number after the last one's.
    time: event time in epoch milliseconds; None where none came.
    source: which of the reading topics it came on, for a dead letter. received: when, epoch seconds; 0 unknown.
    key: what `cycle` is.
    """

    asset: Asset
    cycle: int
    time: int | None
    values: Array
    source: int = 0
    received: int = 0
    key: Key = "cycle"


class Part(msgspec.Struct, frozen=True):
    """One sensor's value of one cycle of one asset. input: which of the bundle's. value: float32, NaN where it is
    missing and may be held. The others are as in `Reading`; `key` is never `arrival`."""

    asset: Asset
    cycle: int
    time: int | None
    input: int
    value: float
    source: int = 0
    received: int = 0
    key: Key = "cycle"


class Decoded(msgspec.Struct, frozen=True):
    """What one message held. silenced: 1 where it was refused for its topic's rate, and neither kept nor told."""

    entries: list[Reading | Part | Command] = []
    rejected: list[Refused] = []
    silenced: int = 0


class _Cycle(msgspec.Struct):
    values: dict[str, float | None] | list[float | None]
    cycle: int | None = None
    ts: datetime | int | float | None = None
    asset: str | None = None


class _Sensor(msgspec.Struct):
    value: float | None
    cycle: int | None = None
    ts: datetime | int | float | None = None
    asset: str | None = None


class Decoder:
    """Decodes the messages of one bundle and one configuration."""

    def __init__(
        self,
        inputs: Sequence[str],
        readings: Sequence[Template],
        *,
        command: Template | None = None,
        outputs: Sequence[Template] = (),
        hold: Iterable[str] = (),
        payload_limit: int = 128 * 1024,
        refused_limit: int = 1024,
        skew: float = 300.0,
        rates: Rates | None = None,
        clock_is_right: Callable[[], bool] = lambda: True,
        undeduplicated: bool = False,
    ) -> None:
        """inputs: names in the bundle's order. hold: those whose previous value may stand in. skew: seconds.

        outputs: where the daemon publishes, and a reply may not go. refused_limit: bytes kept of what is refused.
        rates: of each topic, where it is limited; commands are not. clock_is_right: whether the clock that `received`
        comes from can be trusted; asked only where a reading lies ahead of it by more than `skew`. undeduplicated: take
        readings with neither cycle nor time at QoS 1 too.
        """
        self._undeduplicated = undeduplicated
        self._inputs = tuple(inputs)
        self._place = {name: i for i, name in enumerate(inputs)}
        self._hold = frozenset(hold)
        self.hold: Mask = np.array([name in self._hold for name in inputs], np.bool_)  # (F,) inputs that may be missing
        self._readings = tuple(readings)
        self._command = command.text if command else None
        self._levels = self._readings[0].levels
        ours = [*self._readings, *outputs, *([command] if command else [])]
        self._commands = CommandReader(self._levels, ours)
        self._limit = payload_limit
        self.refused_limit = refused_limit
        self._skew = round(skew * 1000)
        self._clock_is_right = clock_is_right
        self._rates = rates
        self._cycle = msgspec.json.Decoder(_Cycle)
        self._sensor = msgspec.json.Decoder(_Sensor)
        self._list = msgspec.json.Decoder(list[msgspec.Raw])
        self._topics: dict[str, tuple[int, dict[str, str]]] = {}
        self._assets: dict[str, Asset] = {}  # of topics that name one, each in `_topics` too
        self._float32 = struct.Struct(f"={len(self._inputs)}f").pack

    def decode(
        self,
        topic: str,
        payload: bytes,
        received: int,
        *,
        qos: int = 1,
        reply_to: ReplyTo | None = None,
        retained: bool = False,
        again: bool = False,
    ) -> Decoded:
        """Never raises for what a sender can do. received: our clock in epoch milliseconds.

        qos: at 1 it may come twice. reply_to: where MQTT 5 says that the answer goes. retained, again: as the broker's
        flags say.
        """
        if topic == self._command:
            return self._decode_command(topic, payload, reply_to, retained=retained, again=again)
        if self._rates is not None and not self._rates.take(topic, received):
            return self._too_fast(self._rates, topic, payload, received)
        try:
            if len(payload) > self._limit:
                raise self._too_large(topic, payload)
            source, levels = self._match(topic)
            elements = self._elements(topic, payload)
        except BadMessage as e:
            return Decoded(rejected=[refuse(e, payload, self.refused_limit)])
        result = Decoded([], [])
        if "sensor" in levels and levels["sensor"] not in self._place:
            return result  # as a name among `values` that the bundle does not have
        for element in elements:
            try:
                reading = self._reading(topic, source, levels, element, received // 1000, qos)
                if reading.time is not None and reading.time > received + self._skew:
                    self._judge_future(topic, reading.time - received)
            except BadMessage as e:
                result.rejected.append(refuse(e, _bytes(element, payload), self.refused_limit))
                continue
            result.entries.append(reading)
        return result

    def _judge_future(self, topic: str, ahead: int) -> None:
        """One stamp in the future would make all that follows look old (lf-edge/ekuiper 530). ahead: milliseconds.

        Raises BadMessage, unless it may well be our clock that is wrong: a box without a battery boots in the past.
        """
        if self._clock_is_right():
            problem = (
                f"ts lies {ahead / 1000:.0f} s ahead of our clock, at most limits.skew = {self._skew / 1000:g} s may"
            )
            raise BadMessage(Reason.FUTURE, topic, problem)

    def _decode_command(
        self, topic: str, payload: bytes, given: ReplyTo | None, *, retained: bool, again: bool
    ) -> Decoded:
        reply_to = None
        try:
            if len(payload) > self._limit:
                raise self._too_large(topic, payload)
            if retained and not payload:
                return Decoded()  # how a retained one is cleared
            reply_to = self._commands.address(topic, payload, given)
            return Decoded([self._commands.read(topic, payload, reply_to, retained=retained, again=again)])
        except BadMessage as e:
            return Decoded(rejected=[refuse(e, payload, self.refused_limit, reply_to)])

    def _too_fast(self, rates: Rates, topic: str, payload: bytes, received: int) -> Decoded:
        """Refused before anything is read, and told now and then only, or a flood would fill the journal after all."""
        if not rates.worth_telling(topic, received):
            return Decoded(silenced=1)
        bad = BadMessage(Reason.TOO_FAST, topic, "more messages than limits.rate and limits.burst allow")
        return Decoded(rejected=[refuse(bad, payload, self.refused_limit)])

    def _too_large(self, topic: str, payload: bytes) -> BadMessage:
        return BadMessage(Reason.TOO_LARGE, topic, f"{len(payload)} bytes, at most {self._limit} are allowed")

    def topic(self, entry: Reading | Part) -> str:
        """The topic that the entry came on, or the first template where the configuration has changed since; of a
        reading that came in parts with `+` for the sensor."""
        template = self._readings[entry.source if entry.source < len(self._readings) else 0]
        sensor = self._inputs[entry.input] if isinstance(entry, Part) else "+"
        return template.format({"sensor": sensor, **entry.asset.fields()})

    def describe(self, entry: Reading | Part) -> bytes:
        """The entry as a plant would send it: JSON, values by name, null where one is missing."""
        known = {"cycle": entry.cycle if entry.key == "cycle" else None, "ts": entry.time}
        if isinstance(entry, Part):
            return msgspec.json.encode({**known, "value": entry.value})  # NaN becomes null
        return msgspec.json.encode({**known, "values": dict(zip(self._inputs, entry.values.tolist(), strict=True))})

    def _match(self, topic: str) -> tuple[int, dict[str, str]]:
        """Which template the topic is of, and its named levels."""
        if (found := self._topics.get(topic)) is not None:
            return found
        for index, template in enumerate(self._readings):
            if (levels := template.match(topic)) is not None:
                if len(self._topics) >= _TOPICS_CACHED:
                    self._topics.clear()
                    self._assets.clear()
                self._topics[topic] = index, levels
                return index, levels
        raise BadMessage(Reason.BAD_TOPIC, topic, "matches none of topics.readings")

    def _elements(self, topic: str, payload: bytes) -> list[Any]:
        """The message's elements: JSON text, or values already parsed where JSON's own grammar was left."""
        if not payload:
            raise BadMessage(Reason.NOT_JSON, topic, "the message is empty")
        try:
            if b"NaN" in payload or b"Infinity" in payload:
                # Not JSON, but what Python and JavaScript libraries send for a missing value.
                parsed = json.loads(payload)
                return parsed if isinstance(parsed, list) else [parsed]
            return self._list.decode(payload) if payload.lstrip()[:1] == b"[" else [msgspec.Raw(payload)]
        except (msgspec.DecodeError, ValueError, RecursionError) as e:
            raise BadMessage(Reason.NOT_JSON, topic, f"this is not JSON: {e}") from None

    def _reading(
        self, topic: str, source: int, levels: dict[str, str], element: Any, received: int, qos: int
    ) -> Reading | Part:
        decoder = self._sensor if "sensor" in levels else self._cycle
        try:
            raw = isinstance(element, msgspec.Raw)
            cycle: _Cycle | _Sensor = decoder.decode(element) if raw else msgspec.convert(element, decoder.type)
        except msgspec.ValidationError as e:
            raise BadMessage(_reason(str(e)), topic, _detail(str(e), element)) from None
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as e:
            raise BadMessage(Reason.NOT_JSON, topic, f"this is not JSON: {e}") from None
        time = _milliseconds(topic, cycle.ts)
        key: Key = "cycle"
        if (number := cycle.cycle) is None:
            key, number = self._key(topic, time, qos, part=isinstance(cycle, _Sensor))
        elif not 0 <= number <= _CYCLE_MAX:
            raise BadMessage(Reason.BAD_CYCLE, topic, f"cycle is {number}, expected 0 to 2^53")
        if (asset := self._assets.get(topic)) is None:
            asset = self._asset(topic, levels, cycle.asset)
            if "asset" in levels:
                self._assets[topic] = asset
        if isinstance(cycle, _Cycle):
            return Reading(asset, number, time, self._values(topic, cycle.values), source, received, key)
        value = float(np.float32(self._value(topic, sensor := levels["sensor"], cycle.value)))
        return Part(asset, number, time, self._place[sensor], value, source, received, key)

    def _key(self, topic: str, time: int | None, qos: int, *, part: bool) -> tuple[Key, int]:
        """Of a reading without a cycle number. time: epoch milliseconds."""
        if time is not None:
            if time < 0:
                raise BadMessage(Reason.BAD_TIME, topic, "ts lies before 1970, and there is no cycle to know it by")
            return "time", time
        if part:
            problem = "it has neither cycle nor ts, so that nobody knows which parts belong together; send either"
            raise BadMessage(Reason.NO_KEY, topic, problem)
        if qos and not self._undeduplicated:
            problem = (
                "it has neither cycle nor ts, so that the same one sent again, as QoS 1 may, would count twice; send "
                "either, or set windows.allow_undeduplicated"
            )
            raise BadMessage(Reason.NO_KEY, topic, problem)
        return "arrival", NO_NUMBER

    def _asset(self, topic: str, levels: dict[str, str], named: str | None) -> Asset:
        name = levels.get("asset", named)
        if name is None:
            raise BadMessage(Reason.BAD_ASSET, topic, "neither the topic nor the payload names the asset")
        for value in (name, *levels.values()):
            if problem := name_problem(value):
                raise BadMessage(Reason.BAD_ASSET, topic, f"the name {value[:40]!r} {problem}")
        return Asset(name, tuple((level, levels[level]) for level in self._levels))

    def _values(self, topic: str, values: dict[str, float | None] | list[float | None]) -> Array:
        # Nearly always all are there and finite: then none is looked at alone. A float64 sum of float32s is finite.
        try:
            given = values if isinstance(values, list) else [values[name] for name in self._inputs]
            packed = self._float32(*given)
            if math.isfinite(sum(given)):  # type: ignore[arg-type]  # None was refused by the line before
                return np.frombuffer(packed, np.float32)
        except (struct.error, OverflowError, KeyError):
            pass
        if isinstance(values, list):
            if len(values) != len(self._inputs):
                raise BadMessage(
                    Reason.WRONG_LENGTH, topic, f"values has {len(values)} numbers, expected {len(self._inputs)}"
                )
            ordered = values
        else:
            ordered = [values.get(name) for name in self._inputs]
        numbers = [self._value(topic, name, value) for name, value in zip(self._inputs, ordered, strict=True)]
        return np.array(numbers, np.float32)

    def _value(self, topic: str, name: str, value: float | None) -> float:
        """NaN where it is missing and may be held."""
        if value is None or math.isnan(value):
            if name not in self._hold:
                reason = Reason.MISSING_INPUT if value is None else Reason.NOT_FINITE
                raise BadMessage(reason, topic, f"{name} is {'missing' if value is None else 'NaN'}")
            return math.nan
        if abs(value) > _FLOAT32_MAX:
            raise BadMessage(Reason.NOT_FINITE, topic, f"{name} is {value}, beyond float32")
        return value


def _bytes(element: Any, payload: bytes) -> bytes:
    """An element of a message as it came, or as near to that as Python's JSON gets; else the whole message."""
    if isinstance(element, msgspec.Raw):
        return bytes(element)
    try:
        return json.dumps(element).encode()
    except (ValueError, RecursionError):
        return payload


def _detail(message: str, element: Any) -> str:
    """msgspec's message, with the name in `values` whose value is no number where it writes `[...]` for it."""
    if "[...]" not in message:
        return message
    try:
        whole = msgspec.json.decode(element) if isinstance(element, msgspec.Raw) else element
    except (msgspec.DecodeError, ValueError, RecursionError):
        return message  # further on it is no JSON at all, or too deep
    values = whole.get("values")
    if not isinstance(values, dict):
        return message  # the key came twice
    names = [k for k, v in values.items() if isinstance(v, bool) or not isinstance(v, float | int | type(None))]
    return message.replace("[...]", f"[{names[0][:40]}]") if names else message


def _reason(message: str) -> Reason:
    """Which counter a message of msgspec's belongs to; it ends with the path of what is wrong."""
    path = message.partition("`$.")[2]
    for start, reason in (
        ("cycle", Reason.BAD_CYCLE),
        ("value", Reason.BAD_VALUE),
        ("ts", Reason.BAD_TIME),
        ("asset", Reason.BAD_ASSET),
    ):
        if path.startswith(start):
            return reason
    return Reason.BAD_SHAPE


def _milliseconds(topic: str, ts: datetime | int | float | None) -> int | None:
    if ts is None:
        return None
    if isinstance(ts, datetime):
        time = round((ts if ts.tzinfo else ts.replace(tzinfo=timezone.utc)).timestamp() * 1000)
        if not _YEAR_1 <= time <= _MILLISECONDS_TO:
            raise BadMessage(Reason.BAD_TIME, topic, f"ts is {ts}, which in UTC is not within the years 1 to 9999")
        return time
    if not _MILLISECONDS_FROM <= ts <= _MILLISECONDS_TO:
        raise BadMessage(Reason.BAD_TIME, topic, f"ts is {ts}, expected ISO 8601 or epoch milliseconds")
    return round(ts)
