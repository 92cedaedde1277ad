"""What a reading means for its asset: the next cycle, one that was there already, a late one, or a new life.

Owns the assets, their lives and the judgement of a reading; feeds the rings. A life is an asset's run from new or
overhauled to the next overhaul, counted from 0; all its readings are keyed alike. Knows no clock: time is the readings'
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np

from edge_rul.core.assemble import Assembled, Assembly, Overdue, same
from edge_rul.core.command import Command
from edge_rul.core.normalise import Mask
from edge_rul.core.payload import Key, Part, Reading
from edge_rul.core.standing import Stale, Standing
from edge_rul.core.topic import Asset
from edge_rul.core.valid import Ranges
from edge_rul.core.window import Rings, Window
from edge_rul.errors import Reason

_RESETS = 8  # that a life remembers: as often as somebody who waits for an answer may ask again


class Answer(msgspec.Struct, frozen=True):
    """A window that wants a prediction. newest: whether none of a newer cycle of its life was answered."""

    cycle: int
    time: int | None
    revision: int
    window: Window
    newest: bool


class Applied(msgspec.Struct, frozen=True):
    """A reading that entered its asset's ring. cycle: its key there. ended: the number of the life that it ended, or
    None.

    gap: cycles that are missing before it. restarted: so many that the window begins anew with it. late: it filled a
    hole. invalid: its values beyond their valid range, taken as missing. held_too_long: its window would be full, and
    is not answered since it holds an input for longer than it may. answers: by cycle, the newest last. standing: the
    asset's, where that is not what it was before.
    """

    life: int
    cycle: int
    ended: int | None = None
    gap: int = 0
    restarted: bool = False
    late: bool = False
    invalid: int = 0
    held_too_long: bool = False
    answers: list[Answer] = []
    standing: Standing | None = None


class _Life(msgspec.Struct):
    """Where an asset stands. The row of its ring never changes. empty: no reading since the life began.

    since, old_cycle: what is older than `since` and not beyond `old_cycle`, or as `_judge` says little beyond, belongs
    to a life before. heard: when its newest reading came, epoch seconds. silence: why it is stale, or None. full:
    whether its newest window is. key: what the cycles of its readings are. overtaken: since its newest reading, an
    older one that came late was the first to be answered of its cycle, and of all newer ones. resets: the commands that
    came before its first reading, the newest few; none where a reading began it.
    """

    row: int
    number: int = 0
    first_cycle: int = -1
    last_cycle: int = -1
    last_time: int | None = None
    empty: bool = True
    since: int | None = None
    old_cycle: int = -1
    heard: int = 0
    silence: Stale | None = None
    full: bool = False
    key: Key = "cycle"
    overtaken: bool = False
    resets: tuple[Command, ...] = ()

    def before(self, time: int | None) -> bool:
        """Whether an event time is newer than the last reading's, where both are known."""
        return time is not None and self.last_time is not None and time > self.last_time


class _Blob(msgspec.Struct, array_like=True):
    """An asset's state as it is stored. heard, stale_at: 0 where a state of 0.1 does not say, and where it is not. One
    without `key` is older than readings without numbers. parts: of `Assembly.dump`."""

    version: int
    life: tuple[int, int, int, int | None, bool, int | None, int]
    cycles: bytes
    times: bytes
    revisions: bytes
    values: bytes
    heard: int = 0
    stale_at: int = 0
    key: Key = "cycle"
    parts: bytes = b""
    overtaken: bool = False
    resets: tuple[Command, ...] = ()


class Lives:
    """All assets that were heard of, at most `limit`.

    changed: those whose state moved since the caller cleared it. stale: those of which nothing came for too long.
    assembly: their readings of which parts are missing.
    bring_back: gives the state of an evicted asset as it was last dumped.
    """

    def __init__(self, rings: Rings, limit: int, ranges: Ranges | None = None) -> None:
        self._rings = rings
        self.assembly = Assembly(rings.inputs)
        self._limit = limit
        self.ranges = ranges
        self._lives: dict[Asset, _Life] = {}
        self._free: list[int] = []  # rows of assets that are gone or evicted
        self._away: set[Asset] = set()  # evicted
        self.bring_back: Callable[[Asset], bytes | None] = lambda _: None
        self.changed: set[Asset] = set()
        self.stale: set[Asset] = set()

    def __len__(self) -> int:
        return len(self._lives) + len(self._away)

    def __contains__(self, asset: Asset) -> bool:
        return asset in self._lives or asset in self._away

    @property
    def assets(self) -> list[Asset]:
        return [*self._lives, *self._away]

    def number(self, asset: Asset) -> int:
        """Of the asset's life, which may have no reading yet."""
        return self._known(asset).number

    def reserve(self, assets: int) -> None:
        """Make room for so many assets at once."""
        self._rings.reserve(assets)

    def apply(self, reading: Reading) -> Applied | Reason:
        """Put the reading into its asset's ring, or say why not."""
        if self.ranges is None:
            return self._apply(reading)
        if (checked := self.ranges.apply(reading.values)) is None:
            return Reason.OUT_OF_RANGE
        values, invalid = checked
        if not invalid:
            return self._apply(reading)
        applied = self._apply(msgspec.structs.replace(reading, values=values))
        return applied if isinstance(applied, Reason) else msgspec.structs.replace(applied, invalid=invalid)

    def assemble(self, entry: Part | Overdue, hold: Mask) -> list[Assembled] | Reason:
        """The readings that end with it, to be applied in this order; or why the part is not used.

        hold: (F,) inputs that may be missing.
        """
        life = self._find(entry.asset)
        if isinstance(entry, Overdue):
            return self._close(entry.asset, [entry.cycle], hold)
        if life is None:
            if len(self._lives) >= self._limit:
                return Reason.TOO_MANY_ASSETS
            life = self._add(entry.asset)
        if (verdict := self._entered(life, entry)) is not None:
            return verdict
        self.changed.add(entry.asset)
        return self.assembly.put(entry, hold)

    def close(self, asset: Asset, hold: Mask) -> list[Assembled]:
        """The asset's open readings as they are: its life is about to end. hold: see `assemble`."""
        self._find(asset)
        return self._close(asset, self.assembly.open(asset), hold)

    def _close(self, asset: Asset, cycles: list[int], hold: Mask) -> list[Assembled]:
        if ended := self.assembly.close(asset, cycles, hold):
            self.changed.add(asset)
        return ended

    def _entered(self, life: _Life, part: Part) -> Reason | None:
        """What the part is to a reading that is in the ring already, or None where there is none of its cycle."""
        position, there = self._rings.find(life.row, part.cycle)
        if life.before(part.time) or not there or part.key != life.key:
            return None
        value = float(self._rings.reading(life.row, position)[part.input])
        if same(value, part.value):
            return Reason.DUPLICATE
        return Reason.LATE if math.isnan(value) else Reason.CONFLICT

    def _apply(self, reading: Reading) -> Applied | Reason:
        life = self._find(reading.asset)
        incomplete = math.isnan(sum(reading.values.tolist()))  # any of them is
        if life is None:
            if len(self._lives) >= self._limit:
                return Reason.TOO_MANY_ASSETS
            if incomplete:
                return Reason.NOTHING_TO_HOLD
            life = self._add(reading.asset)
        if reading.key != life.key and not life.empty:
            return Reason.OTHER_KEY
        if reading.key == "arrival":  # each is the next
            reading = msgspec.structs.replace(reading, cycle=1 if life.empty else life.last_cycle + 1)
        verdict = self._judge(life, reading)
        if isinstance(verdict, Reason):
            return verdict
        if (verdict == "new life" or life.empty) and incomplete:
            return Reason.NOTHING_TO_HOLD
        self.changed.add(reading.asset)
        before = life.full, life.silence
        life.heard, life.silence = max(life.heard, reading.received), None
        self.stale.discard(reading.asset)
        if verdict == "late":
            applied = self._late(life, reading)
        else:
            ended = None
            if verdict == "new life":
                ended = life.number
                self._end(life, reading.time)
            applied = self._next(life, reading, ended)
        if before != (True, None) or not life.full:
            applied = msgspec.structs.replace(applied, standing=self.standing(reading.asset))
        return applied

    def standing(self, asset: Asset) -> Standing:
        """How the asset stands: by its newest reading, or where that leads nowhere, as a cycle number far ahead that no
        other follows, by the newest that was answered. Sets what it remembers of its window."""
        life = self._known(asset)
        if life.empty:
            return Standing(life.number, None, None, 0, life.silence)
        position = self._rings.count(life.row) - 1
        if life.overtaken and (answered := self._rings.answered(life.row)):
            position, _ = answered
        readings = self._rings.filled(life.row, position)
        life.full = readings == self._rings.window
        cycle, time = int(self._rings.cycles(life.row)[position]), self._rings.time(life.row, position)
        return Standing(life.number, cycle, time, readings, life.silence)

    def silent(self, stale: Stale) -> Standing | None:
        """Nothing has come from the asset for too long. None where it is not known any more."""
        if (life := self._find(stale.asset)) is None:
            return None
        life.silence = stale
        self.stale.add(stale.asset)
        self.changed.add(stale.asset)
        return self.standing(stale.asset)

    def heard(self, asset: Asset) -> int:
        """When the asset's newest reading came, epoch seconds; 0 unknown."""
        return life.heard if (life := self._find(asset)) else 0

    def begun_by(self, reset: Command) -> bool:
        """Whether it is the one that began the asset's life, come again. What came after it comes again as well."""
        life = self._find(reset.asset)
        return life is not None and reset.again and msgspec.structs.replace(reset, again=False) in life.resets

    def reset(self, command: Command) -> tuple[int, int] | None:
        """End the asset's life by command: the next life's number, the old one's last cycle; None where none ended.

        The same one come again ends none. Without event times readings of the old life may have come again before it:
        then the life begins anew, under its number."""
        if (life := self._find(command.asset)) is None:
            return None
        self.changed.add(command.asset)
        over = not life.empty
        if self.begun_by(command):
            self.assembly.forget(command.asset)
            if over := over and life.since is None:
                self._empty(life)
        elif over:
            self._end(life, None if life.last_time is None else life.last_time + 1)
        if (first := msgspec.structs.replace(command, again=False)) not in life.resets:
            life.resets = (*life.resets, first)[-_RESETS:]
        return (life.number, life.last_cycle) if over else None

    def remove(self, asset: Asset) -> tuple[int, int]:
        """Forget the asset: its life's number, its last cycle. If it comes back it begins anew, with life 0."""
        life = self._known(asset)
        del self._lives[asset]
        self.assembly.forget(asset)
        self._rings.clear(life.row)
        self._free.append(life.row)
        self.stale.discard(asset)
        self.changed.add(asset)
        return life.number, life.last_cycle

    def newest(self, asset: Asset) -> tuple[int, Answer] | None:
        """The asset's life and its newest answer as it was last given; None where there is none, or where that was so
        many readings ago that its window is not held any more."""
        if (life := self._find(asset)) is None or (answered := self._rings.answered(life.row)) is None:
            return None
        position, revision = answered
        window, time = self._rings.window_at(life.row, position), self._rings.time(life.row, position)
        cycle = int(self._rings.cycles(life.row)[position])
        return (life.number, Answer(cycle, time, revision, window, True)) if window else None

    def dump(self, asset: Asset) -> bytes:
        """The asset's state; empty where it was removed."""
        if (life := self._find(asset)) is None:
            return b""
        fields = msgspec.structs.astuple(life)[1:8]
        stale_at = life.silence.at if life.silence else 0
        parts, began = (life.key, self.assembly.dump(asset)), (life.overtaken, life.resets)
        ring = self._rings.dump(life.row)
        return msgspec.msgpack.encode(_Blob(1, fields, *ring, life.heard, stale_at, *parts, *began))

    def load(self, asset: Asset, blob: bytes) -> None:
        """Take the state that `dump` gave. Raises ValueError where it is of another version or other inputs."""
        if not blob:
            if asset in self._lives:
                self.remove(asset)
            return
        self._away.discard(asset)
        state = msgspec.msgpack.decode(blob, type=_Blob)
        if state.version != 1:
            raise ValueError(f"the state of {asset} has version {state.version}, this program reads 1")
        life = self._lives.get(asset) or self._add(asset)
        ring = state.cycles, state.times, state.revisions, state.values
        self._rings.load(life.row, *ring, by_time=state.key == "time")  # or nothing is taken
        self.assembly.load(asset, state.parts)
        more = {field: getattr(state, field) for field in ("heard", "key", "overtaken", "resets")}
        self._lives[asset] = _Life(life.row, *state.life, **more)
        if state.stale_at:
            self._lives[asset].silence = Stale(asset, state.heard, state.stale_at)
            self.stale.add(asset)
        self.standing(asset)

    def evict(self, heard_before: int) -> int:
        """Give up the memory of assets that were last heard before then, epoch seconds, and have not changed since they
        were dumped. Whoever asks for one brings it back. Returns how many went."""
        idle = [a for a, life in self._lives.items() if life.heard < heard_before and a not in self.changed]
        for asset in idle:
            row = self._lives.pop(asset).row
            self.assembly.forget(asset)
            self._rings.clear(row)
            self._free.append(row)
            self._away.add(asset)
        return len(idle)

    def _find(self, asset: Asset) -> _Life | None:
        life = self._lives.get(asset)
        if life is None and asset in self._away:
            self._away.discard(asset)
            if blob := self.bring_back(asset):
                self.load(asset, blob)
                life = self._lives[asset]
        return life

    def _known(self, asset: Asset) -> _Life:
        life = self._find(asset)
        if life is None:
            raise KeyError(asset)
        return life

    def _add(self, asset: Asset) -> _Life:
        row = self._free.pop() if self._free else len(self._lives)
        self._rings.reserve(row + 1)
        life = self._lives[asset] = _Life(row)
        return life

    def _judge(self, life: _Life, reading: Reading) -> Reason | str:
        """`next`, `late` or `new life`, or why the reading is not used."""
        older = life.since is not None and reading.time is not None and reading.time < life.since
        # Until the life has come as far as the old one, what lies little beyond that is the old one's last, come late.
        # What lies farther is of a clock that was set back.
        slack = self._rings.window if life.last_cycle < life.old_cycle else 0
        if older and reading.cycle <= life.old_cycle + slack:
            return Reason.OLD_LIFE
        if life.empty or reading.cycle > life.last_cycle:
            return "next"
        position, there = self._rings.find(life.row, reading.cycle)
        if not there and position > 0:
            # It fills a hole, so it is late whatever its time; only after that does a newer time mean an overhaul.
            newer_readings = self._rings.count(life.row) - position
            return "late" if newer_readings <= self._rings.max_late else Reason.LATE
        if life.before(reading.time) and reading.cycle < life.last_cycle:
            return "new life"
        if there:
            first, sent = self._rings.reading(life.row, position), ~np.isnan(reading.values)
            same = np.array_equal(first[sent], reading.values[sent])
            return Reason.DUPLICATE if same else Reason.CONFLICT
        return Reason.OLD_LIFE if reading.cycle < life.first_cycle else Reason.LATE

    def _end(self, life: _Life, since: int | None) -> None:
        life.since, life.old_cycle = since, max(life.old_cycle, life.last_cycle)
        life.number += 1
        life.resets = ()
        self._empty(life)

    def _empty(self, life: _Life) -> None:
        self._rings.clear(life.row)
        life.empty, life.full = True, False
        life.last_time = None

    def _next(self, life: _Life, reading: Reading, ended: int | None) -> Applied:
        if life.empty:
            self._rings.clear(life.row, by_time=reading.key == "time")
            life.first_cycle, life.empty, life.key = reading.cycle, False, reading.key
        position = self._rings.insert(
            life.row, self._rings.count(life.row), reading.cycle, reading.time, reading.values
        )
        life.last_cycle, life.overtaken = reading.cycle, False
        if reading.time is not None and (life.last_time is None or reading.time > life.last_time):
            life.last_time = reading.time
        window = self._rings.window_at(life.row, position)
        answers = [self._answer(life, position, window)] if window else []
        held_too_long = window is None and self._rings.filled(life.row, position) == self._rings.window
        life.full = life.full and (window is not None or held_too_long)  # it may begin anew behind a gap
        gap = self._rings.gap(life.row, position)
        return Applied(
            life.number,
            reading.cycle,
            ended,
            gap,
            restarted=self._rings.restarts(gap),
            held_too_long=held_too_long,
            answers=answers,
        )

    def _late(self, life: _Life, reading: Reading) -> Applied:
        """Its own window, and again every later one that is not what it was before."""
        row = life.row
        position, _ = self._rings.find(row, reading.cycle)
        later = self._rings.count(row) - position
        before = [self._rings.window_at(row, position + i) for i in range(later)]
        position = self._rings.insert(row, position, reading.cycle, reading.time, reading.values)
        answers = []
        for i in range(later + 1):
            window = self._rings.window_at(row, position + i)
            if window and (i == 0 or not window.same(before[i - 1])):
                answers.append(self._answer(life, position + i, window))
        life.overtaken = life.overtaken or any(answer.newest and answer.revision == 0 for answer in answers)
        return Applied(life.number, reading.cycle, late=True, answers=answers)

    def _answer(self, life: _Life, position: int, window: Window) -> Answer:
        cycle = int(self._rings.cycles(life.row)[position])
        newest = cycle == life.last_cycle
        if not newest:
            answered = self._rings.answered(life.row)
            newest = answered is None or position >= answered[0]
        time, revision = self._rings.time(life.row, position), self._rings.revise(life.row, position)
        return Answer(cycle, time, revision, window, newest)
