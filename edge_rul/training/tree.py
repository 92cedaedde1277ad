"""The yardstick: a gradient-boosted tree on a few numbers of each window, which trains in a second.

Owns those numbers and the tree's settings, which are never tuned. A network that does not beat it has not earned its
place, so it stands beside the network in every table. Needs scikit-learn. Must not know lives, labels' caps or files.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from edge_rul.core.normalise import Array

Features = Literal["last value, slope", "line's end, slope, mean"]
FEATURES: tuple[Features, ...] = get_args(Features)


def describe(x: Array, features: Features) -> Array:
    """(N, T, C) normalised windows -> (N, 2C or 3C): of each input its numbers over the window, one after another.

    The line is that of least squares through the window's T readings; its slope is a reading's.
    """
    steps = np.arange(x.shape[1], dtype=np.float32) - np.float32((x.shape[1] - 1) / 2)  # (T,) around 0
    slope = np.einsum("ntc,t->nc", x, steps / max(1.0, float(steps @ steps)))  # (N, C)
    if features == "last value, slope":
        return np.concatenate([x[:, -1], slope], axis=1)
    mean = x.mean(axis=1)  # (N, C)
    return np.concatenate([mean + slope * steps[-1], slope, mean], axis=1)


class Tree:
    """features: which numbers of a window it looks at."""

    def __init__(self, features: Features, described: Array, rul: Array) -> None:
        """Fit on windows that were described, (N, D), and their RUL (N,)."""
        from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415  half a second

        self.features = features
        self._tree: Any = HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.05, max_leaf_nodes=15, early_stopping=False, random_state=0
        ).fit(described, rul)

    def predict(self, described: Array) -> Array:
        """(N, D) -> rul (N,), never negative."""
        rul: Array = np.maximum(self._tree.predict(described), 0).astype(np.float32)
        return rul
