"""The way from raw windows to the network's input: features, normaliser, smoothing, and marks for what is doubtful.

Owns the order of these steps. Those that look at one reading (`rows`) serve a whole table in training and windows in
the daemon alike; those that look along a window (`finish`) follow on windows, on both sides. Knows no asset, no file
and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_rul.core.features import Feature, Features, Readings
from edge_rul.core.normalise import Array, Index, Mask, Normaliser, ZScore, outside
from edge_rul.core.smooth import Smoothing, smooth


class Rows(msgspec.Struct, frozen=True):
    """Readings (...) on their way. z: (..., C) normalised. condition: (...) the operating condition, the only one being
    0. known: (...) whether it is one that training saw. unknown_change: (...) whether a change is not known, and taken
    as 0."""

    z: Array
    condition: Index
    known: Mask
    unknown_change: Mask


class Marks(msgspec.Struct, frozen=True):
    """What is doubtful about a window. outside: inputs of its last reading beyond what training saw. unknown_condition:
    its readings in no known operating condition. unknown_change: its readings with a change that is not known."""

    outside: list[str] = []
    unknown_condition: int = 0
    unknown_change: int = 0


class Transformed(msgspec.Struct, frozen=True):
    """x: (B, T, C) float32, contiguous, as the network wants it. marks: B."""

    x: Array
    marks: list[Marks]


class Transform:
    """A bundle's declared steps. changes: whether readings need the reading before. along: whether `finish` may do
    anything."""

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        low: Sequence[float],
        high: Sequence[float],
        normaliser: Normaliser,
        window: int,
        features: Sequence[Feature] | None = None,
        smoothing: Smoothing | None = None,
    ) -> None:
        """low, high: (F,) training range. features: every input as it is, where None. ValueError where an input that
        is named is not there, or the normaliser is one for other features."""
        self.inputs = tuple(inputs)
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)  # (F,) each
        declared = plain(inputs) if features is None else features
        self._features = Features(declared, inputs)
        self.normaliser = normaliser
        if normaliser.width != len(declared):
            raise ValueError(f"normaliser for {normaliser.width}, there are {len(declared)} features")
        by = [] if isinstance(normaliser, ZScore) else normaliser.by
        if unknown := set(by) - set(inputs):
            raise ValueError(f"normaliser.by names {', '.join(sorted(unknown))}; the inputs are {', '.join(inputs)}")
        self._by = [self.inputs.index(name) for name in by]
        self._shape = (window, len(self.inputs))
        self._smoothing = smoothing
        self._matrix = None if smoothing is None else smoothing.matrix(window)
        loading = None if isinstance(normaliser, ZScore) else normaliser.loading
        self._loading = None if loading is None else np.array(loading)  # (K, C)
        self.changes = self._features.changes
        self.along = bool(by) or smoothing is not None

    def rows(self, readings: Readings) -> Rows:
        """Each reading by itself, or with the one before it."""
        features, unknown_change = self._features.apply(readings)  # (..., C), (...)
        if isinstance(self.normaliser, ZScore):
            z = self.normaliser.apply(features)  # (..., C)
            return Rows(z, np.zeros(z.shape[:-1], np.int64), np.ones_like(unknown_change), unknown_change)
        condition, known = self.normaliser.choose(np.take(readings.values, self._by, axis=-1))  # (...), (...)
        return Rows(self.normaliser.apply(features, condition), condition, known, unknown_change)

    def finish(self, z: Array, condition: Index, known: Mask) -> Array:
        """(B, T, C) normalised, (B, T) and (B, T) -> (B, T, C), what looks along a window: smoothing, where a reading
        in no known condition gives way to the one before it, or counts for nothing where readings are weighed."""
        if self._smoothing is not None and self._loading is not None:
            known = known[..., None]  # (B, T, 1)
            return self._smoothing.weighted(np.where(known, z, np.float32(0)), self._loading[condition] * known)
        x = z if known.all() else _stand_in(z, known)
        return x if self._matrix is None else smooth(self._matrix, x)

    def gather(self, windows: Sequence[Readings]) -> Readings:
        """B windows (T,) -> (B, T), copied; B may be 0."""
        values = np.array([w.values for w in windows], np.float32).reshape(-1, *self._shape)  # (B, T, F)
        if not self.changes:
            return Readings(values)
        before = np.array([w.before for w in windows], np.float32).reshape(-1, *self._shape)  # (B, T, F)
        elapsed = np.array([w.elapsed for w in windows], np.int64).reshape(-1, self._shape[0], 2)  # (B, T, 2)
        return Readings(values, before, elapsed)

    def apply(self, readings: Readings) -> Transformed:
        """Windows (B, T) of readings to the network's input."""
        rows = self.rows(readings)
        beyond = outside(readings.values[:, -1], self.low, self.high)  # (B, F)
        doubtful = beyond.any(axis=1), (~rows.known).sum(axis=1), rows.unknown_change.sum(axis=1)  # (B,) each
        marks = [
            Marks([self.inputs[i] for i in np.flatnonzero(beyond[b])] if far else [], condition, change)
            for b, (far, condition, change) in enumerate(zip(*(d.tolist() for d in doubtful), strict=True))
        ]
        return Transformed(self.finish(rows.z, rows.condition, rows.known), marks)


def plain(inputs: Sequence[str]) -> list[Feature]:
    """Each input as it is."""
    return [Feature(name, name) for name in inputs]


def _stand_in(z: Array, known: Mask) -> Array:
    """(B, T, C), (B, T) -> (B, T, C) where each reading in no known condition shows the one before it in its window, or
    the first known one; 0, the training mean, where there is none. Nothing is guessed from other conditions."""
    T = known.shape[1]
    latest = np.maximum.accumulate(np.where(known, np.arange(T), -1), axis=1)  # (B, T) -1 before the first known one
    shown = np.where(latest < 0, known.argmax(axis=1)[:, None], latest)  # (B, T)
    out: Array = np.take_along_axis(z, shown[..., None], axis=1)  # (B, T, C)
    out[~known.any(axis=1)] = 0.0
    return out
