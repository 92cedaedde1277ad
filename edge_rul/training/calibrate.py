"""How far the network is off on assets that it never saw, as a table of intervals for its bundle.

Owns the calibration: split conformal prediction (Javanmardi and Huellermeier, arXiv 2212.14612) with the residuals'
quantiles taken by predicted RUL, as nested sets (Gupta, Kuchibhotla and Ramdas, Pattern Recognition 127, 2022). Whole
assets are kept for it, since the windows of one depend on each other. Must not know the network, files or torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.core.interval import IntervalTable
from edge_rul.core.normalise import Array
from edge_rul.training.metrics import Floats
from edge_rul.training.table import Index, Mask
from edge_rul.training.windows import Labels

FOLDS = 5  # of assets, where intervals are tried on those that did not make them
MIN_WINDOWS = 50  # of a bin, so that its tails are told by more than one window
Share = Annotated[float, Meta(gt=0, lt=1)]


class IntervalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """level: share of the calibration windows whose RUL the interval holds, of those below the cap; at the cap, where
    the upper end is open, it holds more. late: of those outside, the share that fails earlier than the interval says,
    which costs more than the other. bins: of predicted RUL, with as many windows each."""

    level: Share = 0.9
    late: Share = 0.4
    bins: Annotated[int, Meta(ge=1)] = 6


def calibrate(rul: Array, true: Labels, max_rul: float, settings: IntervalSettings) -> IntervalTable | None:
    """The tightest table by which `level` of the windows lie within their interval; None where no window tells.

    rul: (N,) predicted. true: their labels, capped at `max_rul`; those of lives that were not seen to fail tell
    nothing. A bin's reaches are quantiles of its residuals, the same two in every bin; they are moved together until
    the intervals as they will be applied, interpolated and open at the cap, hold (n + 1) / n times `level` of the n
    windows below the cap.
    """
    rul, true_rul = rul[~true.is_lower_bound], true.rul[~true.is_lower_bound]
    if not len(rul):
        return None
    judged = true_rul < max_rul
    if not judged.any():
        judged[:] = True
    n = int(judged.sum())
    wanted = min(1.0, settings.level * (n + 1) / n)
    bins = np.array_split(np.argsort(rul, kind="stable"), max(1, min(settings.bins, len(rul) // MIN_WINDOWS)))
    at, first = np.unique([np.median(rul[b]) for b in bins], return_index=True)  # equal ones could not be rising
    residuals = [
        np.sort((true_rul[b] - rul[b]).astype(np.float64))
        for b in (np.concatenate(bins[i:j]) for i, j in zip(first, [*first[1:], len(bins)], strict=True))
    ]

    def table(outside: float) -> IntervalTable:
        tails = [_tails(r, outside * settings.late, outside * (1 - settings.late)) for r in residuals]
        return IntervalTable(settings.level, at.tolist(), [b for b, _ in tails], [a for _, a in tails])

    least, most = 0.0, 1.0  # share outside of each bin: what is tight enough, and what is not known to be too tight
    for _ in range(20):
        middle = (least + most) / 2
        inside, _ = held(table(middle), rul, true_rul, max_rul)
        least, most = (middle, most) if inside[judged].mean() >= wanted else (least, middle)
    return table(least)


def _tails(residuals: Floats, late: float, early: float) -> tuple[float, float]:
    """Reaches below and above, beyond which `late` and `early` of the sorted residuals, true - predicted, lie."""
    below = -float(np.quantile(residuals, late, method="lower"))
    above = float(np.quantile(residuals, 1 - early, method="higher"))
    return max(0.0, _up(below)), max(0.0, _up(above))


def _up(reach: float) -> float:
    """To the next of four decimals, so that a window that just lay within still does."""
    return math.ceil(reach * 1e4) / 1e4


def held(table: IntervalTable, rul: Array, true_rul: Array, max_rul: float) -> tuple[Mask, Array]:
    """(N,) whether the label lies in the window's interval, and (N,) the interval's width up to the cap."""
    low, high = table.bounds(rul, max_rul)  # (N,), (N,)
    return (true_rul >= low) & (true_rul <= high), high - low


def dealt(asset: Sequence[str]) -> Index:
    """(N,) the part of each window's asset: assets go into FOLDS parts in turn."""
    number = {name: i for i, name in enumerate(dict.fromkeys(asset))}
    return np.array([number[a] % FOLDS for a in asset], np.int64)


def cross_held(
    rul: Array, true: Labels, asset: Sequence[str], max_rul: float, settings: IntervalSettings
) -> tuple[Array, Array]:
    """(N,) low and (N,) high of windows by tables that others made: assets in FOLDS parts, each by the rest's table.

    What calibration is worth, where there are no other lives to try it on. NaN where the rest tells nothing, as where
    there is one asset only.
    """
    low, high = np.full(len(rul), np.nan, np.float32), np.full(len(rul), np.nan, np.float32)
    fold = dealt(asset)  # (N,)
    for k in range(int(fold.max(initial=-1)) + 1):
        own = fold == k
        rest = Labels(*(of[~own] for of in msgspec.structs.astuple(true)))
        if (table := calibrate(rul[~own], rest, max_rul, settings)) is not None:
            low[own], high[own] = table.bounds(rul[own], max_rul)
    return low, high
