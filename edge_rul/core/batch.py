"""Windows that are due, copied and counted up to how many at once.

Owns the batch that goes to the engine and the order of its steps. Windows are copied when their reading is applied, so
that a batch may hold several windows of one asset. Knows no engine and no alarm.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edge_rul.core.normalise import Array, ZScore, outside
from edge_rul.core.topic import Asset


class Due(msgspec.Struct, frozen=True):
    """A window that wants a prediction, keyed by (asset, life, cycle). seq: of the entry that made it due.

    held: values of the window that were missing and held. missing: cycles that never came between its first and last.
    """

    seq: int
    asset: Asset
    life: int
    cycle: int
    time: int | None
    held: int
    missing: int


class NewLife(msgspec.Struct, frozen=True):
    """The asset began life number `life`; cycle: its first, or the old life's last where a command ended it."""

    seq: int
    asset: Asset
    life: int
    cycle: int
    time: int | None


class Batch(msgspec.Struct, frozen=True):
    """What the pipeline yields. x: (B, T, F) float32, normalised, a buffer that the next batch will not touch.

    steps: what happened, in order of seq; the b-th Due among them owns x[b]. outside: (B, F) which inputs of the last
    reading lie beyond the training range. upto: the seq that this batch answers.
    """

    x: Array
    steps: list[Due | NewLife]
    outside: np.typing.NDArray[np.bool_]
    upto: int

    @property
    def due(self) -> list[Due]:
        return [step for step in self.steps if isinstance(step, Due)]


class Builder:
    """Gathers one batch of at most `size` windows."""

    def __init__(self, size: int, window: int, inputs: int) -> None:
        self._raw = np.empty((size, window, inputs), np.float32)  # (B, T, F)
        self._steps: list[Due | NewLife] = []
        self._windows = 0

    @property
    def full(self) -> bool:
        return self._windows == len(self._raw)

    def slot(self) -> Array:
        """(T, F) where the next due window has to be written; `add` of its Due must follow."""
        view: Array = self._raw[self._windows]
        return view

    def add(self, step: Due | NewLife) -> None:
        self._steps.append(step)
        self._windows += isinstance(step, Due)

    def take(self, normaliser: ZScore, low: Array, high: Array, upto: int) -> Batch:
        """The batch so far, normalised; the builder starts anew. low, high: (F,) training range."""
        raw = self._raw[: self._windows]  # (B, T, F)
        batch = Batch(normaliser.apply(raw), self._steps, outside(raw[:, -1], low, high), upto)
        self._steps = []
        self._windows = 0
        return batch
