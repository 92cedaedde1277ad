"""Raw readings to features: what a payload carries to what the model sees.

Owns the declared features, and what a reading is together with the one before it. Every step is one of single numbers,
so that a whole table in training and a window in the daemon give the same bits. Knows no window, no asset and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from edge_rul.core.normalise import Array, Index, Mask

Per = Literal["cycle", "second", "minute", "hour", "day"]
_MILLISECONDS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_LOGARITHMS = {"log": np.log, "log1p": np.log1p}


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One number that the model sees of each reading, by steps in this order:

    of:     the input of this name
    minus:  less this input
    log:    its natural logarithm; log1p is that of 1 + it
    change: how much that moved since the asset's reading before, per cycle or unit of time
    """

    name: str
    of: str
    minus: str | None = None
    log: Literal["log", "log1p"] | None = None
    change: Per | None = None

    def __post_init__(self) -> None:
        if self.log and self.minus:
            raise ValueError(
                f"feature {self.name}: {self.log} of a difference, which may be negative; expected one input"
            )


class Readings(msgspec.Struct, frozen=True):
    """Readings of any arrangement (...), such as a table's (N,) or windows' (B, T).

    values:  (..., F) float32, raw, values in force: none is missing
    before:  (..., F) those of the reading before it in its life
    elapsed: (..., 2) int64, cycles and milliseconds between the two; 0 where there is none before, or it is not known

    before, elapsed: None where no feature is a change.
    """

    values: Array
    before: Array | None = None
    elapsed: Index | None = None

    def at(self, index: Any) -> Readings:
        """Those at the numpy index."""
        if self.before is None or self.elapsed is None:
            return Readings(self.values[index])
        return Readings(self.values[index], self.before[index], self.elapsed[index])


class Features:
    """The declared features, of inputs in this order. changes: whether the reading before is needed."""

    def __init__(self, declared: Sequence[Feature], inputs: Sequence[str]) -> None:
        """Raises ValueError where a feature is of an input that is not there."""
        place = {name: i for i, name in enumerate(inputs)}
        for feature in declared:
            if unknown := {feature.of, feature.minus or feature.of} - set(place):
                raise ValueError(
                    f"feature {feature.name} is of {', '.join(sorted(unknown))}; the inputs are {', '.join(inputs)}"
                )
        self._of = [place[f.of] for f in declared]
        self._minus = [(c, place[f.minus]) for c, f in enumerate(declared) if f.minus is not None]
        self._logs = [(c, _LOGARITHMS[f.log]) for c, f in enumerate(declared) if f.log is not None]
        self._changes = [(c, f.change) for c, f in enumerate(declared) if f.change is not None]
        self.changes = bool(self._changes)

    def apply(self, readings: Readings) -> tuple[Array, Mask]:
        """(..., C) features, and (...) where a change is not known: it is 0 there."""
        now = self._levels(readings.values)  # (..., C)
        unknown = np.zeros(now.shape[:-1], np.bool_)  # (...)
        if not self._changes:
            return now, unknown
        if readings.before is None or readings.elapsed is None:
            raise ValueError("a feature is a change, and the readings before are not there")
        before = self._levels(readings.before)  # (..., C)
        for c, per in self._changes:
            if per == "cycle":
                elapsed = readings.elapsed[..., 0].astype(np.float32)  # (...)
            else:
                elapsed = (readings.elapsed[..., 1] / _MILLISECONDS[per]).astype(np.float32)  # (...)
            known = elapsed > 0  # (...)
            moved = now[..., c] - before[..., c]  # (...)
            now[..., c] = np.divide(moved, elapsed, out=np.zeros_like(moved), where=known)
            unknown |= ~known
        return now, unknown

    def _levels(self, values: Array) -> Array:
        """(..., F) -> (..., C), all but the changes; a new contiguous array."""
        out: Array = np.take(values, self._of, axis=-1)  # (..., C)
        for c, other in self._minus:
            out[..., c] -= values[..., other]
        for c, logarithm in self._logs:
            # In float64: the last bits of a logarithm depend on the processor's vector instructions.
            out[..., c] = logarithm(out[..., c].astype(np.float64))
        return out
