"""Values that a sensor cannot have meant.

Owns the declared ranges of the inputs. Training applies them to a table and the daemon to each reading, in float32 on
both sides, so that a value at the edge of its range is the same to both. Knows no asset and no window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_rul.core.normalise import Array, Mask


class Ranges:
    """valid: [low, high] of each of F inputs, None for any value. hold: whether the value before may stand in for one
    that is missing, and so for one beyond."""

    def __init__(self, valid: Sequence[tuple[float, float] | None], hold: Sequence[bool]) -> None:
        self.declared = any(v is not None for v in valid)
        self._low = np.array([-np.inf if v is None else v[0] for v in valid], np.float32)  # (F,)
        self._high = np.array([np.inf if v is None else v[1] for v in valid], np.float32)  # (F,)
        self.hold: Mask = np.array(hold, np.bool_)  # (F,)

    def beyond(self, values: Array) -> Mask:
        """(..., F) raw -> (..., F), False for what is missing."""
        result: Mask = (values < self._low) | (values > self._high)
        return result

    def apply(self, values: Array) -> tuple[Array, int] | None:
        """(F,) with NaN for each value beyond, and how many these are; None where one of them may not be held."""
        if not self.declared or not (beyond := self.beyond(values)).any():
            return values, 0
        if (beyond & ~self.hold).any():
            return None
        return np.where(beyond, np.float32(np.nan), values), int(beyond.sum())
