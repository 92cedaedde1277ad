"""How well failures are told ahead, life by life: for data where a RUL to the day is too much to ask.

Owns when a life counts as found and when as a false alarm, and the formulas. An alarm is a predicted RUL at or below a
limit. Must not know formats, engines or plots; numpy only.
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.core.normalise import Array
from edge_rul.training.table import Index, Mask
from edge_rul.training.windows import Windows

MONTH = 30.4375  # days
Z95 = 1.959964
Share = Annotated[float, Meta(gt=0, lt=1)]


class DetectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """horizon: a failure is near when no more RUL than that is left, in the RUL's unit. false_alarms: the shares to
    report at. of: what they are shares of; lives that were not seen to fail, or windows that are far from a failure,
    where all assets fail sooner or later."""

    horizon: Annotated[float, Meta(gt=0)]
    false_alarms: Annotated[list[Share], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0.01, 0.05, 0.1])
    of: Literal["lives", "windows"] = "lives"


class Point(msgspec.Struct, frozen=True):
    """One limit of the predicted RUL, and what it finds.

    asked: the share of false alarms that was allowed; false_alarms of `far` lives or windows came of it, the largest
    number that is not above it. found of `failures` lives had an alarm while the failure was near, with the 95%
    interval of that share by Wilson. lead: median RUL left at their first alarm within the horizon. episodes_a_month:
    times that an alarm began while no failure was near, an asset and month, where the length of a cycle is known.
    """

    asked: float
    limit: float
    false_alarms: int
    far: int
    found: int
    failures: int
    found_low: float
    found_high: float
    lead: float | None
    episodes_a_month: float | None


class Detection(msgspec.Struct, frozen=True):
    """auc: of windows near a failure against windows far from one. near, far: how many. exposure_days: of the far ones,
    where the length of a cycle is known."""

    horizon: float
    unit: str
    auc: float | None
    near: int
    far: int
    exposure_days: float | None
    points: list[Point]


def detect(
    windows: Windows, rul: Array, settings: DetectionSettings, unit: str, seconds_per_cycle: float | None
) -> Detection:
    """Judge predictions `rul` (N,) of all windows of some lives.

    A window is near where the life is known to end within the horizon, far where it lasts beyond; what a lower bound
    leaves open counts as neither.
    """
    left = windows.table.rul[windows.last]  # (N,)
    bound = windows.table.is_lower_bound[windows.last]  # (N,)
    near: Mask = ~bound & (left <= settings.horizon)
    far: Mask = left > settings.horizon
    life = _life(windows)
    days = None if seconds_per_cycle is None else seconds_per_cycle / 86400
    return Detection(
        horizon=settings.horizon,
        unit=unit,
        auc=auc(-rul[near], -rul[far]) if near.any() and far.any() else None,
        near=int(near.sum()),
        far=int(far.sum()),
        exposure_days=None if days is None else int(far.sum()) * days,
        points=[_point(rul, left, near, far, bound, life, share, settings.of, days) for share in settings.false_alarms]
        if far.any()
        else [],
    )


def _point(
    rul: Array,
    left: Array,
    near: Mask,
    far: Mask,
    bound: Mask,
    life: Index,
    asked: float,
    of: str,
    days: float | None,
) -> Point:
    lowest = _lowest(rul[far & bound], life[far & bound]) if of == "lives" else rul[far]  # (M,)
    allowed = int(asked * len(lowest))
    # Just below the reading that would be one false alarm too many.
    limit = float(np.nextafter(np.sort(lowest)[allowed], np.float32(-np.inf))) if len(lowest) else float("inf")
    alarm = rul <= limit  # (N,)
    failures = np.unique(life[near])
    found = np.unique(life[near & alarm])
    low, high = wilson(len(found), len(failures))
    leads = [float(left[(life == one) & near & alarm].max()) for one in found]
    began = alarm & far
    began[1:] &= ~(alarm[:-1] & (life[1:] == life[:-1]))
    months = None if days is None else int(far.sum()) * days / MONTH
    return Point(
        asked=asked,
        limit=limit,
        false_alarms=int((lowest <= limit).sum()),
        far=len(lowest),
        found=len(found),
        failures=len(failures),
        found_low=low,
        found_high=high,
        lead=float(np.median(leads)) if leads else None,
        episodes_a_month=None if not months else int(began.sum()) / months,
    )


def auc(near: Array, far: Array) -> float:
    """The chance that a near window's score is above a far one's, ties counting half: the area under the ROC curve.

    By ranks: (R - n (n + 1) / 2) / (n m), R the sum of the mean ranks of the n near ones (Hanley and McNeil, 1982).
    """
    scores = np.concatenate([near, far]).astype(np.float64)
    _, where, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[where.reshape(-1)]  # mean rank of equal scores, from 1
    n, m = len(near), len(far)
    return float((rank[:n].sum() - n * (n + 1) / 2) / (n * m))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson (1927); (0, 1) where nothing was counted."""
    if not of:
        return 0.0, 1.0
    share, z2 = hits / of, Z95**2
    middle = share + z2 / (2 * of)
    half = Z95 * sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max(0.0, (middle - half) / (1 + z2 / of)), min(1.0, (middle + half) / (1 + z2 / of))


def _life(windows: Windows) -> Index:
    """(N,) the number of each window's life."""
    starts = windows.table.starts
    life: Index = np.searchsorted(starts, windows.last, side="right") - 1
    return life


def _lowest(rul: Array, life: Index) -> Array:
    """(M,) the lowest prediction of each life."""
    _, which = np.unique(life, return_inverse=True)
    lowest = np.full(which.max() + 1 if len(which) else 0, np.inf, np.float32)
    np.minimum.at(lowest, which.reshape(-1), rul)
    return lowest
