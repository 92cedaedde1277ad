"""How far the true RUL may lie from a predicted one.

Owns the interval's table, which a bundle carries, and its application to predictions. How a table is found stands in
`training.calibrate`. Knows no window, no asset and no engine.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edge_rul.core.normalise import Array


class IntervalTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reaches of an interval that held the true RUL of a share `level` of the windows that it was calibrated on.

    at: K rising predicted RULs. below, above: how far the interval reaches there, in the RUL's unit. Between two of
    them the reach is interpolated, and beyond the ends it stays: steps would make rounding of an answer jump.
    """

    level: float
    at: list[float]
    below: list[float]
    above: list[float]

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level is {self.level}, expected between 0 and 1")
        if not len(self.at) == len(self.below) == len(self.above) > 0:
            raise ValueError(
                f"at, below and above have {len(self.at)}, {len(self.below)} and {len(self.above)} numbers, expected "
                "as many of each, and one at least"
            )
        if not all(np.isfinite([*self.at, *self.below, *self.above])) or min(*self.below, *self.above) < 0:
            raise ValueError("at, below and above must be finite, and the reaches not negative")
        if any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)):
            raise ValueError(f"at is {self.at}, expected rising numbers")

    def bounds(self, rul: Array | float, max_rul: float) -> tuple[Array, Array]:
        """(...,) predicted RUL -> low and high (...,), within 0 to `max_rul`, the cap of the labels in training.

        A high of `max_rul` is no bound: training told nothing beyond it, and the true RUL is only known to be at least
        low.
        """
        low: Array = np.clip(rul - np.interp(rul, self.at, self.below), 0, max_rul)
        high: Array = np.minimum(rul + np.interp(rul, self.at, self.above), max_rul)
        return low, high
