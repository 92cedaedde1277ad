"""A batch's steps to messages: what the engine said, what an operator did, what was refused, and the alarms on the way.

Owns the alarms, which answers hang on the order of arrival, and what goes out unretained after a restart. Knows no
ring, no life and no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from edge_rul.core import command
from edge_rul.core.alarm import Alarms, Change, Rule
from edge_rul.core.batch import Batch, Due, Letter, NewLife, Obeyed, Removed, Stands, Tended
from edge_rul.core.command import Reply
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message, Outgoing, iso, withdrawn
from edge_rul.core.prediction import Model, Prediction, predict
from edge_rul.core.topic import Asset
from edge_rul.core.transform import Marks
from edge_rul.errors import Reason


class AlarmRow(msgspec.Struct, frozen=True):
    """An asset's alarms as they stood at `seq`; a journal keeps the newest at or below its watermark.

    blob: empty where it has none any more.
    """

    seq: int
    asset: Asset
    blob: bytes


class Answered(msgspec.Struct, frozen=True):
    """A prediction as it was published, for who looks on. newest: see `Due`. unit: see `Window`."""

    asset: Asset
    prediction: Prediction
    newest: bool
    unit: int = 1


class Completed(msgspec.Struct):
    """What a batch's answers lead to, in order of seq. answers, changes: what the messages say, for who looks on.

    replies: what became of commands. removed: assets that are no more. renewed: that began this life.

    unsettled: seq of the first step whose answer hangs on the order in which readings came: a window with a gap or a
    held value, or of readings without numbers, a revision, a new life, a reading that is not used. Until its entry is
    durable a crash may bring its readings back in another order (a broker that was killed forgets), and the same key
    would get two answers. None where there is no such step.
    """

    messages: list[Message]
    alarms: list[AlarmRow]
    unsettled: int | None = None
    answers: list[Answered] = []
    changes: list[Change] = []
    unanswered: list[Due] = []  # the engine's answer was not finite
    replies: list[Reply] = []
    removed: list[Asset] = []
    renewed: list[tuple[Asset, int]] = []


class Answers:
    """One bundle's answers under one configuration. catch_up: entries up to here came before a restart."""

    def __init__(
        self,
        model: Model,
        outgoing: Outgoing,
        rules: list[Rule],
        *,
        window: int,
        counts: Counter[str],
        dropped: Counter[Reason],
    ) -> None:
        """window: T. counts, dropped: the pipeline's."""
        self.model = model
        self.outgoing = outgoing
        self.alarms = Alarms(rules)
        self.catch_up = 0
        self._window = window
        self._counts = counts
        self._dropped = dropped
        self._retained: dict[str, Message] = {}  # topic -> the newest that went out unretained while catching up
        self._by_step: dict[type, Callable[[Completed, Any], bool]] = {
            Letter: self._letter,
            NewLife: self._new_life,
            Obeyed: self._reply,
            Removed: self._remove,
            Stands: self._state,
            Tended: self._tend,
        }

    def complete(self, batch: Batch, rul: Array, logits: Array) -> Completed:
        """The engine's answers to messages. rul: (B,), logits: (B, C), in the order of the batch's windows."""
        done = Completed([], [])
        answers = zip(rul.tolist(), logits, batch.marks, strict=True)
        for step in batch.steps:
            if isinstance(step, Due):
                settled = self._answer(done, step, *next(answers))
            else:
                settled = self._by_step[type(step)](done, step)
            if done.unsettled is None and not settled:
                done.unsettled = step.seq
        return done

    def caught_up(self) -> list[Message]:
        """The retained states that have to go out once more; from now on all go out as they are."""
        self.catch_up = 0
        messages = list(self._retained.values())
        self._retained.clear()
        return messages

    def messages(self, changes: list[Change], seq: int, *, commanded: bool = False) -> list[Message]:
        """What the alarms say."""
        return [message for change in changes for message in self.outgoing.alarm(change, seq, commanded=commanded)]

    # -- one step: each returns whether the answer is the same in whatever order readings came ------------------------

    def _answer(self, done: Completed, due: Due, rul: float, logits: Array, marks: Marks) -> bool:
        settled = _settled(due, marks)
        prediction = predict(due, rul, logits, marks, iso(due.time), self.model)
        if prediction is None:
            self._dropped[Reason.ENGINE_NOT_FINITE] += 1
            done.unanswered.append(due)
            return settled
        self._counts["predictions"] += 1
        self._counts["revisions"] += due.revision > 0
        done.answers.append(Answered(due.asset, prediction, due.newest, due.unit))
        message = self.outgoing.prediction(due.asset, prediction, newest=due.newest, seq=due.seq)
        done.messages.append(self._in_order(message))
        if due.alarm:
            probabilities = prediction.health.probabilities
            of_rule = prediction.rul, probabilities, due.unit
            self._changed(done, due, self.alarms.predicted(due.asset, due.life, due.cycle, due.time, *of_rule))
        return settled

    def _letter(self, done: Completed, step: Letter) -> bool:
        messages = self.outgoing.dead_letter(step.letter, step.seq)
        self._counts["dead_letters"] += len(messages)
        done.messages += messages
        return step.settled

    def _state(self, done: Completed, step: Stands) -> bool:
        state = self.outgoing.state(step.asset, step.standing, self._window, step.seq)
        done.messages.extend(map(self._in_order, state))
        return True

    def _new_life(self, done: Completed, step: NewLife) -> bool:
        done.renewed.append((step.asset, step.life))
        done.messages.append(self._in_order(withdrawn(self.outgoing.prediction_topic(step.asset), step.seq)))
        self._changed(done, step, self.alarms.new_life(step.asset, step.life, step.cycle, step.time))
        return False

    def _reply(self, done: Completed, step: Obeyed) -> bool:
        done.replies.append(step.reply)
        if step.reply_to is not None:
            done.messages.append(self.outgoing.reply(step.reply, step.reply_to, step.seq))
        return False

    def _tend(self, done: Completed, step: Tended) -> bool:
        """Here, and not where the command is taken: only among the answers does it meet the alarms as they stood."""
        asked, error = step.command, None
        try:
            if step.newest is None:
                raise ValueError("its window is not full yet, so that no alarm has a state")
            cycle, unit = step.newest
            if asked.action == "ack":
                changes = self.alarms.acknowledge(step.asset, asked.alarm, cycle)
            else:
                changes = self.alarms.shelve(step.asset, asked.alarm, cycle, asked.cycles, unit)
            self._changed(done, step, changes)
        except ValueError as e:
            error = str(e)
        return self._reply(done, Obeyed(step.seq, command.reply(asked, error), asked.reply_to))

    def _remove(self, done: Completed, step: Removed) -> bool:
        """Alarms end with an event each; what was retained goes."""
        changes = self.alarms.new_life(step.asset, step.life, step.cycle, None)
        done.changes += changes
        done.messages += [message for message in self.messages(changes, step.seq) if not message.retain]
        topics = self.outgoing.retained(step.asset, self.alarms.names)
        done.messages.extend(self._in_order(withdrawn(topic, step.seq)) for topic in sorted(topics))
        self.alarms.remove(step.asset)
        done.alarms.append(AlarmRow(step.seq, step.asset, b""))
        done.removed.append(step.asset)
        return False

    def _changed(self, done: Completed, step: Due | NewLife | Tended, changes: list[Change]) -> None:
        if changes:
            done.changes += changes
            messages = self.messages(changes, step.seq, commanded=isinstance(step, Tended))
            done.messages.extend(map(self._in_order, messages))
            done.alarms.append(AlarmRow(step.seq, step.asset, self.alarms.dump(step.asset)))

    def _in_order(self, message: Message) -> Message:
        """The message, unretained while catching up: it is kept for later then, until a newer one takes its place."""
        if not message.retain:
            return message
        if message.seq > self.catch_up:
            self._retained.pop(message.topic, None)
            return message
        self._retained[message.topic] = message
        return msgspec.structs.replace(message, retain=False)


def _settled(due: Due, marks: Marks) -> bool:
    """Whether it is the same in whatever order its asset's readings came: T consecutive, complete cycles, after another
    one where its first change counts from there. Between two times there is always room for one more."""
    return due.newest and due.numbered and not (due.revision or due.missing or due.held or marks.unknown_change)
