"""Where a model errs: by true RUL, by class, and how long before failure it warns.

Owns these tables of figures. numpy only. Must not know the network, the tree or files.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_rul.core.normalise import Array
from edge_rul.training.table import Index, Mask
from edge_rul.training.windows import Windows

BANDS = 5  # of equal width, below the cap
Bounds = tuple[Array, Array]  # (N,) low and (N,) high of intervals
PATIENCE = 3  # windows in a row that a warning waits for, as the shipped alarms do


class Band(msgspec.Struct, frozen=True):
    """Windows whose true RUL is at least `low` and below `high`; high None: at the cap, the plateau.

    rmse, bias: predicted - true, None where there is no window. coverage, width: of the intervals, None without them.
    """

    low: float
    high: float | None
    windows: int
    rmse: float | None
    bias: float | None
    coverage: float | None
    width: float | None


def bands(rul: Array, true_rul: Array, cap: float, bounds: Bounds | None) -> list[Band]:
    """rul, true_rul: (N,) of windows whose RUL is known, the labels capped. bounds: of their intervals."""
    edges = np.linspace(0, cap, BANDS + 1).tolist()
    inside = width = None
    if bounds is not None:
        inside, width = (true_rul >= bounds[0]) & (true_rul <= bounds[1]), bounds[1] - bounds[0]  # (N,), (N,)

    def mean(of: npt.NDArray[Any] | None, here: Mask) -> float | None:
        return None if of is None or not here.any() else float(of[here].mean())

    error = rul.astype(np.float64) - true_rul  # (N,)
    found = []
    for low, high in [*itertools.pairwise(edges), (cap, None)]:
        here = true_rul >= low if high is None else (true_rul >= low) & (true_rul < high)  # (N,)
        square = mean(error**2, here)
        rmse = None if square is None else square**0.5
        found.append(Band(low, high, int(here.sum()), rmse, mean(error, here), mean(inside, here), mean(width, here)))
    return found


class Coverage(msgspec.Struct, frozen=True):
    """Of the intervals: shares of windows whose label they hold, over all and over those below the cap, and widths up
    to the cap in the RUL's unit. late, early: shares of all that fail before or after what the interval says."""

    level: float
    coverage: float
    below_cap: float | None
    late: float
    early: float
    mean_width: float
    median_width: float


def coverage(true_rul: Array, cap: float, bounds: Bounds, level: float) -> Coverage:
    """true_rul, bounds: as of `bands`. level: that the intervals were made for."""
    low, high = bounds
    inside, width, below = (true_rul >= low) & (true_rul <= high), high - low, true_rul < cap  # (N,), (N,), (N,)
    return Coverage(
        level=level,
        coverage=float(inside.mean()),
        below_cap=float(inside[below].mean()) if below.any() else None,
        late=float((true_rul < low).mean()),
        early=float((true_rul > high).mean()),
        mean_width=float(width.mean()),
        median_width=float(np.median(width)),
    )


def confusion(predicted: Index, true: Index, classes: int) -> list[list[int]]:
    """Windows by true class (rows) and predicted class (columns); a negative true class is unknown and left out."""
    known = true >= 0
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (true[known], predicted[known]), 1)
    return [[int(n) for n in row] for row in counts]


class LeadTime(msgspec.Struct, frozen=True):
    """How long before failure the told RUL passed `below` for `patience` windows in a row, in lives that failed.

    leads: true RUL at each life's first such window, longest first. missed: lives without one.
    """

    below: float
    patience: int
    lives: int
    missed: int
    leads: list[float]
    shortest: float | None
    median: float | None
    longest: float | None


def lead_time(windows: Windows, rul: Array, below: float) -> LeadTime:
    """rul: (N,) predicted for full windows, those of a life one after another. below: a RUL, as of the last class."""
    left = windows.table.rul[windows.last]  # (N,) not capped
    failed: Mask = ~windows.table.is_lower_bound[windows.last]
    low = rul < below
    leads: list[float] = []
    lives: Sequence[int] = np.unique(windows.first[failed]).tolist()
    for life in lives:
        own = np.flatnonzero(windows.first == life)  # (n,)
        runs = np.convolve(low[own], np.ones(PATIENCE, np.int64), "valid") if len(own) >= PATIENCE else np.zeros(0)
        if (hit := np.flatnonzero(runs == PATIENCE)).size:
            leads.append(float(left[own[hit[0] + PATIENCE - 1]]))
    leads.sort(reverse=True)
    return LeadTime(
        below,
        PATIENCE,
        len(lives),
        len(lives) - len(leads),
        leads,
        leads[-1] if leads else None,
        float(np.median(leads)) if leads else None,
        leads[0] if leads else None,
    )
