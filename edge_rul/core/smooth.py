"""Windows of normalised features, smoothed along time.

Owns the kinds of smoothing. Each looks at nothing but the window's T readings, and the same bits come out whatever
windows are beside it. Knows no feature and no asset.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from edge_rul.core.normalise import Array

Loading = npt.NDArray[np.float64]


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

    def weighted(self, z: Array, loading: Loading) -> Array:
        """The same where readings tell more or less: (B, T, C) and their loadings (B, T, C) -> (B, T, C).

        A reading is z = a (level + rise u) + noise of variance 1 - a^2, where a is its loading and u runs from -1 to 1
        over the window. The line is the mean of level and rise given the window, if each has mean 0 and variance 1
        without it (Bayesian linear regression; Bishop, PRML, equations 3.50 and 3.51). A reading with loading 0 counts
        for nothing; a window of such readings is a line at 0, the training mean.
        """
        T = z.shape[1]
        middle = (T - 1) / 2
        u = (np.arange(T) - middle) / max(middle, 1.0)  # (T,)
        gain = loading / (1 - loading**2)  # (B, T, C)
        powers = np.stack([u**0, u, u**2])  # (3, T)
        # One product a window, as in `smooth`.
        weight = np.matmul(powers, gain * loading)  # (B, 3, C)
        seen = np.matmul(powers[:2], gain * z)  # (B, 2, C)
        s0, s1, s2 = weight[:, 0] + 1, weight[:, 1], weight[:, 2] + 1  # (B, C) each
        determinant = s0 * s2 - s1**2  # (B, C) at least 1
        level = (s2 * seen[:, 0] - s1 * seen[:, 1]) / determinant  # (B, C)
        rise = (s0 * seen[:, 1] - s1 * seen[:, 0]) / determinant  # (B, C)
        line: Array = (level[:, None] + self.slope * rise[:, None] * u[:, None]).astype(np.float32)  # (B, T, C)
        return line


Smoothing = Line


def smooth(matrix: Array, x: Array) -> Array:
    """(T, T) and (B, T, C) -> (B, T, C); one product a window, so that none depends on its batch."""
    smoothed: Array = np.matmul(matrix, np.ascontiguousarray(x))  # (B, T, C)
    return smoothed
