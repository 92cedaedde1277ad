"""The corridor: messages in, a batch out; answers in, messages out.

    decoded = pipeline.decode(topic, payload, received)    -> entries, and what was rejected
    tail.append(decoded.entries)                           numbers them
    batch = pipeline.fill(tail)                            -> windows that are due, perhaps none, and `upto`
    out = pipeline.complete(batch, rul, logits)            -> messages, each with the seq that it comes from

Owns the walk between the rooms and counts everything that was dropped, and why. It yields a batch and is given the
answer, so it never calls an engine; the caller owns I/O and time. One batch is under way at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_rul.core.alarm import Alarms, Change, Rule
from edge_rul.core.batch import Batch, Builder, Due, NewLife
from edge_rul.core.life import Lives
from edge_rul.core.normalise import Array, ZScore
from edge_rul.core.outgoing import Message, Outgoing, iso
from edge_rul.core.payload import Decoded, Decoder, Reading, Reset
from edge_rul.core.prediction import Model, predict
from edge_rul.core.tail import Tail
from edge_rul.core.window import Rings
from edge_rul.errors import Reason


class Pipeline:
    """The state of all assets under one bundle and one configuration.

    counts: `readings` that came in, `gaps` (cycles that never came), `future_times` that were dropped, `predictions`.
    dropped: by reason; with `readings` it accounts for every element of every message.
    """

    def __init__(
        self,
        *,
        model: Model,
        window: int,
        normaliser: ZScore,
        low: Sequence[float],
        high: Sequence[float],
        decoder: Decoder,
        outgoing: Outgoing,
        rules: list[Rule],
        max_batch: int = 32,
        max_assets: int = 10_000,
    ) -> None:
        self._model = model
        self._normaliser = normaliser
        self._low = np.asarray(low, np.float32)
        self._high = np.asarray(high, np.float32)
        self._decoder = decoder
        self._outgoing = outgoing
        self._rings = Rings(window, len(model.inputs))
        self._lives = Lives(self._rings, max_assets)
        self._alarms = Alarms(rules)
        self._window = window
        self._builder = Builder(max_batch, window, len(model.inputs))
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[Reason] = Counter()

    @property
    def assets(self) -> int:
        return len(self._lives)

    def decode(self, topic: str, payload: bytes, received: int) -> Decoded:
        """One message to entries. received: the caller's clock, epoch milliseconds. Rejected elements are counted."""
        decoded = self._decoder.decode(topic, payload, received)
        self.counts["future_times"] += decoded.future
        for bad in decoded.rejected:
            self.dropped[bad.reason] += 1
        return decoded

    def fill(self, tail: Tail) -> Batch | None:
        """Apply entries in order of seq until a batch is full or the tail is empty. None where the tail was empty."""
        upto = None
        while not self._builder.full and (item := tail.pop()) is not None:
            upto, entry = item
            if isinstance(entry, Reset):
                self._reset(upto, entry)
            else:
                self._apply(upto, entry)
        return None if upto is None else self._builder.take(self._normaliser, self._low, self._high, upto)

    def _reset(self, seq: int, entry: Reset) -> None:
        if (ended := self._lives.reset(entry.asset)) is not None:
            life, last_cycle = ended
            self._builder.add(NewLife(seq, entry.asset, life, last_cycle, None))

    def _apply(self, seq: int, reading: Reading) -> None:
        self.counts["readings"] += 1
        applied = self._lives.apply(reading)
        if isinstance(applied, Reason):
            self.dropped[applied] += 1
            return
        self.counts["gaps"] += applied.gap
        if applied.ended is not None:
            self._builder.add(NewLife(seq, reading.asset, applied.life, reading.cycle, reading.time))
        if applied.due:
            row = applied.row
            self._rings.copy(row, self._builder.slot())
            missing = reading.cycle - self._rings.oldest_cycle(row) + 1 - self._window
            held = self._rings.held(row)
            self._builder.add(Due(seq, reading.asset, applied.life, reading.cycle, reading.time, held, missing))

    def complete(self, batch: Batch, rul: Array, logits: Array) -> list[Message]:
        """The engine's answers to messages. rul: (B,), logits: (B, C), in the order of the batch's windows."""
        messages: list[Message] = []
        index = 0
        for step in batch.steps:
            if isinstance(step, Due):
                messages += self._answer(step, float(rul[index]), logits[index], batch.outside[index])
                index += 1
            else:
                messages += self._alarmed(self._alarms.new_life(step.asset, step.life, step.cycle, step.time), step.seq)
        return messages

    def _answer(self, due: Due, rul: float, logits: Array, outside: np.typing.NDArray[np.bool_]) -> list[Message]:
        names = [self._model.inputs[i] for i in np.flatnonzero(outside)]
        prediction = predict(due, rul, logits, names, iso(due.time), self._model)
        if prediction is None:
            self.dropped[Reason.ENGINE_NOT_FINITE] += 1
            return []
        self.counts["predictions"] += 1
        changes = self._alarms.predicted(
            due.asset, due.life, due.cycle, due.time, prediction.rul, prediction.health.probabilities
        )
        return [self._outgoing.prediction(due.asset, prediction, due.seq), *self._alarmed(changes, due.seq)]

    def _alarmed(self, changes: list[Change], seq: int) -> list[Message]:
        return [message for change in changes for message in self._outgoing.alarm(change, seq)]
