"""The corridor: messages in, a batch out; answers in, messages out.

    decoded = pipeline.decode(topic, payload, received)    -> entries, and what was rejected
    tail.append(numbered entries)                          the journal gives the numbers
    batch = pipeline.fill(tail, durable)                   -> windows that are due, perhaps none, and `upto`
    done = pipeline.complete(batch, rul, logits)           -> messages and alarm rows, each with the seq it comes from

Owns the walk between the rooms and counts everything that was dropped, and why. It yields a batch and is given the
answer, so it never calls an engine; the caller owns I/O and time. One batch is under way at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from edge_rul.core import command, dead_letter
from edge_rul.core.alarm import Rule
from edge_rul.core.answers import Answers, Completed
from edge_rul.core.assemble import Assembled, Deadlines, Overdue
from edge_rul.core.batch import Batch, Builder, Due, Letter, NewLife, Obeyed, Removed, Stands, Step, Tended
from edge_rul.core.command import Command, ReplyTo
from edge_rul.core.dead_letter import Refused
from edge_rul.core.entry import AssetEntry, BundleChange, Entry
from edge_rul.core.life import Applied, Lives
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message, Outgoing, withdrawn
from edge_rul.core.payload import Decoded, Decoder, Part, Reading
from edge_rul.core.prediction import Model
from edge_rul.core.standing import Silences, Stale
from edge_rul.core.tail import Tail
from edge_rul.core.topic import Asset
from edge_rul.core.transform import Transform
from edge_rul.core.valid import Ranges
from edge_rul.core.window import Rings
from edge_rul.errors import Reason


class Pipeline:
    """The state of all assets under one bundle and one configuration.

    counts: `readings` that came in, whole or in `parts`, `gaps` (cycles that never came), windows `restarted` behind
    one, `late` ones among the readings, `predictions`, `revisions` among those, due windows that were `skipped` or
    `held_too_long`, `invalid_values` and `dead_letters`. dropped: by reason; with `readings` and the parts of those
    that came so it accounts for every element of every message.
    """

    def __init__(
        self,
        *,
        model: Model,
        rings: Rings,
        transform: Transform,
        decoder: Decoder,
        outgoing: Outgoing,
        rules: list[Rule],
        max_batch: int = 32,
        max_assets: int = 10_000,
        ranges: Ranges | None = None,
        stale_after: float | None = None,
        parts_within: float = 10.0,
    ) -> None:
        """rings: empty ones. ranges: what values may be. stale_after: seconds without a reading after which an asset is
        stale; None lets none be. parts_within: seconds in which the parts of a reading come."""
        self._window = rings.window
        self._silences = Silences(stale_after)
        self._deadlines = Deadlines(parts_within)
        self._now = 0.0  # the caller's clock at the last `fill`
        self.decoder = decoder
        self.lives = Lives(rings, max_assets, ranges)
        self._builder = Builder(max_batch, transform)
        self._answered = 0  # entries up to here were answered before a restart, and are not again
        self._restored: dict[Asset, int] = {}  # asset -> seq of the snapshot that it was restored from
        self.applied = 0  # seq of the newest entry applied
        self._change: BundleChange | None = None  # that was reached; nothing is applied until it is made
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[Reason] = Counter()
        self._answers = Answers(model, outgoing, rules, window=rings.window, counts=self.counts, dropped=self.dropped)
        self.alarms = self._answers.alarms
        self._commands: dict[str, Callable[[int, Command], list[Step]]] = {
            "reset": self._reset,
            "remove": self._remove,
            "ack": self._tend,
            "shelve": self._tend,
        }

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
        """One message to entries. received: the caller's clock, epoch milliseconds. Rejected elements are counted."""
        decoded = self.decoder.decode(
            topic, payload, received, qos=qos, reply_to=reply_to, retained=retained, again=again
        )
        for bad in decoded.rejected:
            self.dropped[bad.reason] += 1
        if decoded.silenced:
            self.dropped[Reason.TOO_FAST] += decoded.silenced
        return decoded

    @property
    def idle(self) -> bool:
        """Whether no window waits for the next batch."""
        return self._builder.empty

    @property
    def changes(self) -> bool:
        """Whether a change of bundle was reached, and everything before it was given out."""
        return self._change is not None and self.idle

    def resume(self) -> BundleChange:
        """The change that was reached; what comes after it may be applied."""
        assert self._change is not None
        change, self._change = self._change, None
        return change

    @property
    def model(self) -> Model:
        return self._answers.model

    @property
    def transform(self) -> Transform:
        return self._builder.transform

    def serve(self, model: Model, transform: Transform, max_batch: int) -> None:
        """Another bundle or engine answers from the next batch on. Its windows are those that there are."""
        self._answers.model = model
        self._builder.transform, self._builder.size = transform, max_batch

    def transformed_again(self, batch: Batch) -> Batch:
        """The batch as it is for the bundle that serves now."""
        done = self.transform.apply(batch.raw)
        return msgspec.structs.replace(batch, x=done.x, marks=done.marks)

    def begin(self, *, replay_from: int, answered: int, catch_up: int) -> None:
        """After a restart: entries from `replay_from` on are applied again, those up to `answered` are not answered.

        Answers to entries up to `catch_up` may have been published before, with newer ones after them: they go out
        unretained, so that no retained state goes backwards; see `caught_up`.
        """
        self.applied, self._answered, self._answers.catch_up = replay_from, answered, catch_up

    @property
    def catching_up(self) -> bool:
        """Whether entries up to `catch_up` are still to be answered."""
        return self._answers.catch_up > 0 and (self.applied < self._answers.catch_up or not self.idle)

    def caught_up(self) -> list[Message]:
        """Once, when it is not `catching_up` any more: the retained states that have to go out once more."""
        if self.catching_up:
            return []
        self._restored.clear()
        return self._answers.caught_up()

    def restore(self, asset: Asset, seq: int, state: bytes) -> None:
        """Take an asset's state as it stood at `seq`. Raises ValueError where it does not fit program or bundle."""
        self.lives.load(asset, state)
        self._restored[asset] = seq
        self._deadlines.follow(asset, self.lives.assembly.open(asset), 0.0)
        if asset in self.lives and asset not in self.lives.stale:
            self._silences.heard(asset, 0.0)  # it counts from when we listen

    def restore_alarms(self, asset: Asset, stored: bytes, seq: int) -> list[Message]:
        """Take an asset's alarms as they stood at `seq`. Returns what withdraws the states of those that are gone from
        the configuration: nobody else would. Raises msgspec.DecodeError."""
        gone = self.alarms.load(asset, stored)
        return [withdrawn(self._answers.outgoing.alarm_topic(asset, name), seq) for name in gone]

    def tick(self, now: float, wall: int, listening: float, *, all_applied: bool = True) -> list[AssetEntry]:
        """What a clock decides: entries for the journal.

        now: monotonic seconds. wall: epoch seconds. listening: since when assets could be heard, monotonic.
        all_applied: nothing that came in waits, so that who seems silent is.
        """
        entries: list[AssetEntry] = [*self._deadlines.over(now, listening)]
        if all_applied:
            entries += [Stale(asset, self.lives.heard(asset), wall) for asset in self._silences.over(now, listening)]
        return entries

    def fill(self, tail: Tail, durable: int, *, now: float = 0.0, latest: bool = False) -> Batch | None:
        """Apply entries in order of seq until a batch is full or nothing more may be answered. None where none was.

        A change of bundle ends the batch. durable: seq up to which entries are committed. now: monotonic seconds.
        latest: apply all that is at hand, and keep of each asset's due windows only the newest, which says how many
        were skipped.
        """
        self._now = now
        started = not self._builder.empty
        while (
            self._change is None and (latest or not self._builder.full) and (numbered := tail.pop(durable)) is not None
        ):
            started = True
            self.applied = numbered.seq
            self._take(numbered.seq, numbered.entry)
        if not started:
            return None
        if latest:
            self.counts["skipped"] += self._builder.keep_latest()
        return self._builder.take(self.applied)

    def _take(self, seq: int, entry: Entry) -> None:
        if isinstance(entry, BundleChange):
            self._change = entry
        elif isinstance(entry, Refused):
            if seq > self._answered:
                self._builder.add(Letter(seq, dead_letter.of_refused(entry), settled=True))
                if entry.reply_to is not None:
                    self._builder.add(Obeyed(seq, command.refusal(entry.reply_to, entry.problem), entry.reply_to))
        elif seq <= self._answered and seq <= self._restored.get(entry.asset, 0):
            pass  # its asset's snapshot holds it already
        elif isinstance(entry, Command):
            self._obey(seq, entry)
        elif isinstance(entry, Stale):
            self._silences.forget(entry.asset)
            if (standing := self.lives.silent(entry)) is not None and seq > self._answered:
                self._builder.add(Stands(seq, entry.asset, standing))
        elif isinstance(entry, Part | Overdue):
            self._assemble(seq, entry)
        else:
            self._apply(seq, entry)

    def _assemble(self, seq: int, entry: Part | Overdue) -> None:
        self.counts["parts"] += isinstance(entry, Part) and seq > self._answered
        ended = self.lives.assemble(entry, self.decoder.hold)
        self._deadlines.follow(entry.asset, self.lives.assembly.open(entry.asset), self._now)
        if not isinstance(ended, Reason):
            self._end(seq, ended)
        elif isinstance(entry, Part) and seq > self._answered:
            self._refuse(seq, ended, entry)

    def _end(self, seq: int, ended: list[Assembled]) -> None:
        for assembled in ended:
            self._apply(seq, assembled.reading, assembled.refused)

    def _obey(self, seq: int, entry: Command) -> None:
        if entry.asset in self.lives:
            steps = self._commands[entry.action](seq, entry)
        else:
            steps = [Obeyed(seq, command.reply(entry, "the daemon knows no such asset"), entry.reply_to)]
        if seq > self._answered:
            for step in steps:
                self._builder.add(step)

    def _tend(self, seq: int, entry: Command) -> list[Step]:
        """The alarms are told among the answers: only there do they stand as they stood."""
        newest = self.lives.newest(entry.asset)
        return [Tended(seq, entry.asset, entry, (newest[1].cycle, newest[1].window.unit) if newest else None)]

    def _remove(self, seq: int, entry: Command) -> list[Step]:
        removed = Removed(seq, entry.asset, *self.lives.remove(entry.asset))
        self._silences.forget(entry.asset)
        self._deadlines.follow(entry.asset, (), self._now)
        return [removed, Obeyed(seq, command.reply(entry, None), entry.reply_to)]

    def _reset(self, seq: int, entry: Command) -> list[Step]:
        asset, steps = entry.asset, list[Step]()
        if not self.lives.begun_by(entry):
            self._end(seq, self.lives.close(asset, self.decoder.hold))
        self._deadlines.follow(asset, (), self._now)
        if (ended := self.lives.reset(entry)) is not None:
            steps += [NewLife(seq, asset, *ended, None), Stands(seq, asset, self.lives.standing(asset))]
        return [*steps, Obeyed(seq, command.reply(entry, None), entry.reply_to)]

    def _refuse(self, seq: int, reason: Reason, entry: Reading | Part) -> None:
        self.dropped[reason] += 1
        if dead_letter.told(reason):
            topic, shown = self.decoder.topic(entry), self.decoder.describe(entry)
            letter = dead_letter.of_reading(reason, topic, shown, self.decoder.refused_limit)
            self._builder.add(Letter(seq, letter, settled=False))

    def _apply(self, seq: int, reading: Reading, refused: Reason | None = None) -> None:
        """refused: why the reading is not to be used."""
        applied = refused or self.lives.apply(reading)
        if isinstance(applied, Applied):
            self._silences.heard(reading.asset, self._now)
        if seq <= self._answered:
            return
        self.counts["readings"] += 1
        if isinstance(applied, Reason):
            self._refuse(seq, applied, reading)
            return
        self.counts["gaps"] += applied.gap
        self.counts["restarted"] += applied.restarted
        self.counts["late"] += applied.late
        self.counts["invalid_values"] += applied.invalid
        self.counts["held_too_long"] += applied.held_too_long
        if applied.ended is not None:
            self._builder.add(NewLife(seq, reading.asset, applied.life, applied.cycle, reading.time))
        if applied.standing is not None:
            self._builder.add(Stands(seq, reading.asset, applied.standing))
        numbered = reading.key == "cycle"
        for answer in applied.answers:
            first = answer.newest and answer.revision == 0
            due = Due.of(seq, reading.asset, applied.life, answer, alarm=first, numbered=numbered)
            self._builder.add(due, answer.window.readings)

    def again(self, assets: Iterable[Asset]) -> Batch:
        """The newest windows of `assets`, to publish once more for a broker that has forgotten them.

        Call it only between batches, with no more assets than a batch holds; the answers move no alarm.
        """
        for asset in assets:
            if (found := self.lives.newest(asset)) is not None:
                life, answer = found
                self._builder.add(Due.of(self.applied, asset, life, answer, alarm=False), answer.window.readings)
        return self._builder.take(self.applied)

    def states(self, asset: Asset) -> list[Message]:
        """How the asset and its alarms stand, to publish once more."""
        if asset not in self.lives:
            return []
        found = self.lives.newest(asset)
        alarms = self.alarms.states(asset, found[1].cycle if found else None)
        state = self._answers.outgoing.state(asset, self.lives.standing(asset), self._window, self.applied)
        return state + self._answers.messages(alarms, self.applied)

    def reconfigure(self, outgoing: Outgoing, rules: list[Rule], seq: int) -> list[Message]:
        """Another configuration between two batches: windows, lives, and the states of alarms that it still has, stay.

        seq: that messages bear which come from no entry. Returns what withdraws states from topics that are not used
        any more; what the alarms say under other rules or on another topic; the predictions are for `again`.
        """
        messages: list[Message] = []
        before, names = self._answers.outgoing, self.alarms.names
        self._answers.outgoing = outgoing
        moved = outgoing.topics != before.topics
        if rules != self.alarms.rules:
            self.alarms.replace(rules)
        elif not moved:
            return messages
        for asset in self.lives.assets:
            gone = before.retained(asset, names) - outgoing.retained(asset, self.alarms.names)
            messages += [withdrawn(topic, seq) for topic in sorted(gone)]
            messages += [msgspec.structs.replace(message, seq=seq) for message in self.states(asset)]
        return messages

    def complete(self, batch: Batch, rul: Array, logits: Array) -> Completed:
        """The engine's answers to messages. rul: (B,), logits: (B, C), in the order of the batch's windows."""
        return self._answers.complete(batch, rul, logits)
