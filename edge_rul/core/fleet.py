"""The fleet as a person looks at it: what is known of each asset now, its RUL over time, and who comes first.

Owns one record an asset, bounded in size, the order of urgency, and the choice of a page from it. It is told what the
pipeline took in and answered, and may miss some of it. Nothing depends on it: it only shows. Knows no clock, no file
and no web.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from edge_rul.core.alarm import Change, Priority, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.entry import AssetEntry
from edge_rul.core.payload import Part, Reading
from edge_rul.core.prediction import Health, Quality
from edge_rul.core.standing import Stale
from edge_rul.core.topic import Asset
from edge_rul.core.trace import Trace

PRIORITIES: tuple[Priority, ...] = ("low", "medium", "high", "urgent")
TREND_CYCLES = 20  # over which the change of RUL is told

Show = Literal["all", "alarm", "shelved", "uncertain", "waiting", "stale"]
Sort = Literal["urgency", "asset", "health", "rul", "trend", "quality", "cycle", "seen"]


class Alarm(msgspec.Struct, frozen=True):
    """An alarm that is not at rest, or is shelved. since: the cycle at which `state` began."""

    name: str
    priority: Priority
    state: State
    since: int
    value: float
    acknowledged: bool = False
    shelved_until: int | None = None

    @property
    def on(self) -> bool:
        """Whether it is an alarm that somebody wants to hear of."""
        return self.state.on and self.shelved_until is None


class Answer(msgspec.Struct, frozen=True):
    """The newest prediction, without what all assets share.

    low, high: RUL's interval, low None where the bundle has none, high None where it has no upper end. reliable:
    whether the interval's level holds for this window.
    """

    life: int
    cycle: int
    revision: int
    rul: float
    low: float | None
    high: float | None
    health: Health
    quality: Quality
    reliable: bool = True


class Record(msgspec.Struct):
    """What is known of one asset.

    name: as `str(asset)`. seen: wall seconds of its last message. cycle, time, values: of its newest reading, `values`
    as the bundle's inputs and NaN where one was missing, or each sensor's newest where they send apart. answer: None
    until the first window is full. top: the alarm of the highest priority that is on, one that nobody acknowledged
    before others; rank: 0 without one, 4 for an urgent one. trend: by how much RUL changed over the last `TREND_CYCLES`
    of this life; None where there are too few. stale: nothing came for too long.
    """

    asset: Asset
    name: str
    seen: float = 0.0
    cycle: int | None = None
    time: int | None = None
    values: list[float] = []
    answer: Answer | None = None
    alarms: list[Alarm] = []
    top: Alarm | None = None
    rank: int = 0
    trend: float | None = None
    stale: bool = False
    trace: Trace = msgspec.field(default_factory=Trace)

    def set_alarms(self, alarms: list[Alarm]) -> None:
        """Those that are not at rest, or are shelved."""
        self.alarms = alarms
        on = [alarm for alarm in alarms if alarm.on]
        self.top = max(on, key=lambda alarm: (PRIORITIES.index(alarm.priority), not alarm.acknowledged), default=None)
        self.rank = 1 + PRIORITIES.index(self.top.priority) if self.top else 0


class Query(msgspec.Struct, frozen=True):
    """Which page of the fleet. text: part of the asset's name, in either case. page: from 1."""

    text: str = ""
    show: Show = "all"
    health: str = ""
    sort: Sort = "urgency"
    reverse: bool = False
    page: int = 1
    size: int = 50


class Listing(msgspec.Struct, frozen=True):
    """A page of the fleet. page: the one shown, at most the last. matches: before paging. counts: of what `text` and
    `health` leave."""

    records: list[Record]
    page: int
    pages: int
    matches: int
    counts: dict[Show, int]


class Fleet:
    """All assets. changed: those whose records are not what was dumped last; the caller clears it."""

    def __init__(self, max_assets: int = 10_000) -> None:
        self._records: dict[Asset, Record] = {}
        self._named: dict[str, Record] = {}
        self.max_assets = max_assets
        self.changed: set[Asset] = set()

    def __len__(self) -> int:
        return len(self._records)

    def find(self, name: str) -> Record | None:
        return self._named.get(name)

    def records(self) -> list[Record]:
        return list(self._records.values())

    # -- what is told -----------------------------------------------------------------------------------------------

    def heard(self, entry: AssetEntry, wall: float) -> None:
        """An entry came in. A reading that is older than the newest one moves only `seen`; a command moves nothing."""
        if isinstance(entry, Stale) and entry.asset in self._records:
            self._records[entry.asset].stale = True
            self.changed.add(entry.asset)
        if not isinstance(entry, Reading | Part):
            return
        record = self._record(entry.asset)
        if record is None:
            return
        record.seen, record.stale = wall, False
        cycle = None if entry.key == "arrival" else entry.cycle
        behind = record.cycle is not None and cycle is not None and cycle < record.cycle
        if behind and (entry.time is None or record.time is None or entry.time <= record.time):
            return
        record.cycle, record.time = cycle, entry.time
        if isinstance(entry, Reading):
            record.values = entry.values.tolist()
        else:
            values = [*record.values, *[math.nan] * (entry.input + 1 - len(record.values))]
            values[entry.input] = entry.value
            record.values = values  # whole at once: the page reads it in another thread

    def answered(self, answered: Answered) -> None:
        record = self._record(answered.asset)
        if record is None:
            return
        prediction = answered.prediction
        low, high = prediction.bounds
        record.trace.put(prediction.life, prediction.cycle, prediction.rul, low, high)
        record.trend = record.trace.change(TREND_CYCLES * answered.unit)
        if answered.newest:
            record.answer = Answer(
                life=prediction.life,
                cycle=prediction.cycle,
                revision=prediction.revision,
                rul=prediction.rul,
                low=low,
                high=high,
                health=prediction.health,
                quality=prediction.quality,
                reliable=prediction.interval is msgspec.UNSET or prediction.interval.reliable,
            )

    def renewed(self, asset: Asset, life: int) -> None:
        """It began this life: an answer of the one before is worth nothing any more."""
        record = self._records.get(asset)
        if record is not None and record.answer is not None and record.answer.life < life:
            record.answer = record.trend = None
            self.changed.add(asset)

    def alarm(self, change: Change) -> None:
        if (record := self._record(change.asset)) is not None:
            record.set_alarms([a for a in record.alarms if a.name != change.rule.name] + _at_work(change))

    def alarms(self, asset: Asset, states: list[Change]) -> None:
        """All alarms of the asset as they stand, in place of what was known of them."""
        if (record := self._record(asset)) is not None:
            record.set_alarms([alarm for change in states for alarm in _at_work(change)])

    def forget(self, asset: Asset) -> None:
        self._records.pop(asset, None)
        self._named.pop(str(asset), None)
        self.changed.add(asset)

    def _record(self, asset: Asset) -> Record | None:
        record = self._records.get(asset)
        if record is None:
            if len(self._records) >= self.max_assets:
                return None
            record = self._records[asset] = Record(asset, str(asset))
            self._named[record.name] = record
        self.changed.add(asset)
        return record

    # -- what is kept -----------------------------------------------------------------------------------------------

    def dump(self, asset: Asset) -> bytes | None:
        """The asset's record as it is stored; None where it was forgotten."""
        record = self._records.get(asset)
        return None if record is None else msgspec.msgpack.encode(record)

    def load(self, blob: bytes) -> None:
        """Take what `dump` gave, without alarms, which the journal knows better. Raises DecodeError, ValueError."""
        record = msgspec.msgpack.decode(blob, type=Record)
        record.trace.check()
        record.set_alarms([])
        if len(self._records) < self.max_assets or record.asset in self._records:
            self._records[record.asset] = record
            self._named[record.name] = record

    # -- what is shown ----------------------------------------------------------------------------------------------

    def select(self, query: Query) -> Listing:
        """The page that `query` asks for. Ties are in the order of urgency, and then of names."""
        left = list(self._records.values())
        if text := query.text.casefold():
            left = [r for r in left if text in r.name.casefold()]
        if query.health:
            left = [r for r in left if r.answer is not None and r.answer.health.name == query.health]
        shown: dict[Show, list[Record]] = {
            "all": left,
            "alarm": [r for r in left if r.rank],
            "shelved": [r for r in left if any(alarm.shelved_until is not None for alarm in r.alarms)],
            "uncertain": [r for r in left if r.answer is not None and r.answer.quality.state == "uncertain"],
            "waiting": [r for r in left if r.answer is None],
            "stale": [r for r in left if r.stale],
        }
        found = sorted(shown[query.show], key=_urgency)
        key = _KEYS.get(query.sort)
        if key is not None:
            having = sorted((r for r in found if key(r) is not None), key=key, reverse=query.reverse)
            found = having + [r for r in found if key(r) is None]
        elif query.reverse:
            found.reverse()
        pages = max(1, -(-len(found) // query.size))
        page = min(max(1, query.page), pages)
        counts: dict[Show, int] = {show: len(records) for show, records in shown.items()}
        return Listing(found[(page - 1) * query.size : page * query.size], page, pages, len(found), counts)


def _at_work(change: Change) -> list[Alarm]:
    status: Status = change.status
    if status.state is State.NORMAL and status.shelved_until is None:
        return []
    tended = status.acknowledged, status.shelved_until
    return [Alarm(change.rule.name, change.rule.priority, status.state, status.since, status.value, *tended)]


def _urgency(record: Record) -> tuple[int, bool, float, str]:
    """Alarms by priority, those that nobody acknowledged first, then the least RUL; who has no RUL yet comes last."""
    known = record.top is not None and record.top.acknowledged
    return -record.rank, known, math.inf if record.answer is None else record.answer.rul, record.name


def _health(record: Record) -> tuple[float, ...] | None:
    """By the probability of the classes from the last on: the bundle's order leads from healthy to worn."""
    return None if record.answer is None else tuple(reversed(record.answer.health.probabilities.values()))


def _quality(record: Record) -> int | None:
    if record.answer is None:
        return None
    quality = record.answer.quality
    doubts = quality.held, quality.missing_cycles, quality.unknown_condition, quality.unknown_change
    return sum(doubts) + len(quality.outside)


# What is sorted by, but urgency; None where a record lacks it, which puts it behind all others in either direction.
_KEYS: dict[Sort, Callable[[Record], Any]] = {
    "asset": lambda record: record.name.casefold(),
    "health": _health,
    "rul": lambda record: None if record.answer is None else record.answer.rul,
    "trend": lambda record: record.trend,
    "quality": _quality,
    "cycle": lambda record: record.cycle,
    "seen": lambda record: record.seen,
}
