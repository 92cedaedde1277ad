"""By how much one set of errors is larger than another, and how sure that is.

Owns the paired bootstrap over assets: both answer the same windows, and an asset is drawn with all its windows, since
they depend on each other. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_rul.training.metrics import Floats

RESAMPLES = 10_000
LEVEL = 0.95


class Difference(msgspec.Struct, frozen=True):
    """RMSE of the one minus RMSE of the other; low, high: the interval at `level` over resampled assets."""

    value: float
    low: float
    high: float
    level: float = LEVEL
    resamples: int = RESAMPLES


def rmse_difference(one: Floats, other: Floats, asset: Sequence[object], seed: int = 0) -> Difference:
    """one, other: (N,) errors on the same windows. asset: (N,) whose they are."""
    _, group = np.unique(np.asarray(asset), return_inverse=True)  # (N,) 0 to G - 1
    count = np.bincount(group).astype(np.float64)  # (G,)
    squares = np.stack([np.bincount(group, e**2) for e in (one, other)])  # (2, G)
    G = len(count)
    drawn = np.random.default_rng(seed).multinomial(G, np.full(G, 1 / G), RESAMPLES)  # (R, G) how often each
    first, second = np.sqrt(drawn @ squares.T / (drawn @ count)[:, None]).T  # (R,), (R,)
    low, high = np.quantile(first - second, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    whole = np.sqrt(squares.sum(axis=1) / count.sum())  # (2,)
    return Difference(float(whole[0] - whole[1]), low, high)
