"""Windows of normalised features, smoothed along time.

Owns the kinds of smoothing. Each is a fixed matrix over the window's T readings, so that it looks at nothing but the
window, and the same bits come out whatever windows are beside it. Knows no feature and no asset.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edge_rul.core.normalise import Array


class Line(msgspec.Struct, frozen=True, tag="line", tag_field="kind", forbid_unknown_fields=True):
    """Each feature is replaced by its least-squares line over the window: level and slope stay, noise goes.

    slope: how many times as steep the line is drawn. Over a fleet the rise within a window differs far less than the
    level, and a network learns from what differs.
    """

    slope: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    def matrix(self, window: int) -> Array:
        """(T, T): P[i, j] = 1/T + slope (i - m)(j - m) / sum_k (k - m)^2, m the mean of 0 .. T-1. A projection where
        the slope is as it is."""
        steps = np.arange(window) - (window - 1) / 2  # (T,)
        spread = float((steps**2).sum())
        slope = np.outer(steps, steps) / spread if spread else np.zeros((1, 1))  # (T, T)
        return (1 / window + self.slope * slope).astype(np.float32)


Smoothing = Line


def smooth(matrix: Array, x: Array) -> Array:
    """(T, T) and (B, T, C) -> (B, T, C); one product a window, so that none depends on its batch."""
    smoothed: Array = np.matmul(matrix, np.ascontiguousarray(x))  # (B, T, C)
    return smoothed
