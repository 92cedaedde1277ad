"""Windows that are due, copied and counted up to how many at once.

Owns the batch that goes to the engine and the order of its steps. Windows are copied when their reading is applied, so
that a batch may hold several windows of one asset. Knows no engine and no alarm.
"""

from __future__ import annotations

from collections import deque

import msgspec

from edge_rul.core.command import Command, Reply, ReplyTo
from edge_rul.core.dead_letter import DeadLetter
from edge_rul.core.features import Readings
from edge_rul.core.life import Answer
from edge_rul.core.normalise import Array
from edge_rul.core.standing import Standing
from edge_rul.core.topic import Asset
from edge_rul.core.transform import Marks, Transform


class Due(msgspec.Struct, frozen=True):
    """A window that wants a prediction, keyed by (asset, life, cycle). seq: of the entry that made it due.

    held: values of the window that were missing and held. missing: cycles that never came between its first and last.
    revision: of the key's answer, from 0. newest: none of a newer cycle was answered, so that this answer is retained.
    alarm: the answer moves the alarms; only a newest cycle's first answer does. unit: see `Window`. numbered: whether
    its readings bear numbers, which tell whether any is missing. skipped: due windows of the asset that were left out
    since its last answer, as scoring lagged.
    """

    seq: int
    asset: Asset
    life: int
    cycle: int
    time: int | None
    held: int
    missing: int
    revision: int
    newest: bool
    alarm: bool
    unit: int = 1
    numbered: bool = True
    skipped: int = 0

    @property
    def key(self) -> tuple[Asset, int, int]:
        return self.asset, self.life, self.cycle

    @classmethod
    def of(cls, seq: int, asset: Asset, life: int, answer: Answer, *, alarm: bool, numbered: bool = True) -> Due:
        """An asset's answer as it is due to the entry `seq`."""
        return cls(
            seq=seq,
            asset=asset,
            life=life,
            cycle=answer.cycle,
            time=answer.time,
            held=answer.window.held,
            missing=answer.window.missing,
            revision=answer.revision,
            newest=answer.newest,
            alarm=alarm,
            unit=answer.window.unit,
            numbered=numbered,
        )


class NewLife(msgspec.Struct, frozen=True):
    """The asset began life number `life`; cycle: its first, or the old life's last where a command ended it."""

    seq: int
    asset: Asset
    life: int
    cycle: int
    time: int | None


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. settled: the same message gets the same one in whatever order messages come."""

    seq: int
    letter: DeadLetter
    settled: bool


class Obeyed(msgspec.Struct, frozen=True):
    """A command was carried out or refused. Said once the command is durable, as it is done for good then."""

    seq: int
    reply: Reply
    reply_to: ReplyTo | None


class Tended(msgspec.Struct, frozen=True):
    """An operator sees to the asset's alarms. newest: cycle and unit of its last answer; None without one."""

    seq: int
    asset: Asset
    command: Command
    newest: tuple[int, int] | None


class Removed(msgspec.Struct, frozen=True):
    """The asset is no more, and nothing that was retained of it. life, cycle: its last."""

    seq: int
    asset: Asset
    life: int
    cycle: int


class Stands(msgspec.Struct, frozen=True):
    """The asset stands otherwise than before."""

    seq: int
    asset: Asset
    standing: Standing


Step = Due | NewLife | Letter | Obeyed | Tended | Removed | Stands


class Batch(msgspec.Struct, frozen=True):
    """What the pipeline yields. x: (B, T, C) float32, transformed, a buffer that the next batch will not touch.

    steps: what happened, in order of seq; the b-th Due among them owns x[b] and marks[b]. upto: the seq that this batch
    answers, with all that came before. raw: (B, T) the windows before they were transformed.
    """

    x: Array
    steps: list[Step]
    marks: list[Marks]
    upto: int
    raw: Readings

    @property
    def due(self) -> list[Due]:
        return [step for step in self.steps if isinstance(step, Due)]


class Builder:
    """Gathers steps and gives them out in batches of at most `size` windows, transformed by then."""

    def __init__(self, size: int, transform: Transform) -> None:
        self.size = size
        self.transform = transform
        self._steps: deque[tuple[Step, Readings | None]] = deque()
        self._windows = 0

    @property
    def full(self) -> bool:
        return self._windows >= self.size

    @property
    def empty(self) -> bool:
        return not self._steps

    def add(self, step: Step, window: Readings | None = None) -> None:
        """window: (T,) of a Due. One late reading may add more than a batch; the rest stays for the next."""
        self._steps.append((step, window))
        self._windows += window is not None

    def keep_latest(self) -> int:
        """Drop every due window but each asset's newest. Returns how many were dropped."""
        newest: dict[Asset, Due] = {}
        dropped: dict[Asset, int] = {}
        # A revision of what is dropped is the first answer of its key that the alarms hear of.
        alarming = {step.key for step, _ in self._steps if isinstance(step, Due) and step.alarm}
        for step, _ in self._steps:
            if isinstance(step, Due):
                if step.asset in newest:
                    dropped[step.asset] = dropped.get(step.asset, 0) + 1
                if step.asset not in newest or step.newest:
                    newest[step.asset] = step
        kept: deque[tuple[Step, Readings | None]] = deque()
        for step, window in self._steps:
            if not isinstance(step, Due):
                kept.append((step, window))
            elif newest[step.asset] is step:
                skipped = step.skipped + dropped.get(step.asset, 0)
                kept.append((msgspec.structs.replace(step, skipped=skipped, alarm=step.key in alarming), window))
        self._windows -= len(self._steps) - len(kept)
        self._steps = kept
        return sum(dropped.values())

    def take(self, applied: int) -> Batch:
        """The next batch, transformed. applied: seq of the newest entry applied."""
        steps: list[Step] = []
        windows: list[Readings] = []
        while self._steps and (self._steps[0][1] is None or len(windows) < self.size):
            step, window = self._steps.popleft()
            steps.append(step)
            if window is not None:
                windows.append(window)
        self._windows -= len(windows)
        # An entry whose windows did not all fit is answered by the batch that holds its last one.
        upto = self._steps[0][0].seq - 1 if self._steps else applied
        raw = self.transform.gather(windows)
        done = self.transform.apply(raw)
        return Batch(done.x, steps, done.marks, upto, raw)
