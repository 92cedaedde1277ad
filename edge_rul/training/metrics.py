"""The figures by which predictions are judged.

Owns the formulas and nothing else. numpy only, so that `edge-rul evaluate` needs no torch.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from edge_rul.core.normalise import Array
from edge_rul.training.table import Index, Mask

Floats = npt.NDArray[np.float64]


class Scores(msgspec.Struct, frozen=True):
    """Figures over N windows; rmse, mae and bias in the RUL's unit, accuracy and macro_f1 in 0 to 1; NaN where no
    window tells. None: not asked for, or of a model that names no class."""

    rmse: float
    mae: float
    bias: float
    nasa_score: float | None
    accuracy: float | None
    macro_f1: float | None


def scores(
    rul: Array, logits: Array, true_rul: Array, true_health: Index, is_lower_bound: Mask | None = None
) -> Scores:
    """rul, true_rul: (N,). logits: (N, C). true_health: (N,) class indices, where a negative one is not counted.

    is_lower_bound: (N,) windows whose RUL is not known, so that they count for the health figures alone.
    """
    error = rul.astype(np.float64) - true_rul  # (N,)
    if is_lower_bound is not None:
        error = error[~is_lower_bound]
    known = true_health >= 0
    health = logits.argmax(axis=1)[known]
    n = len(error) or math.nan
    return Scores(
        rmse=math.sqrt(np.sum(error**2) / n),
        mae=float(np.sum(np.abs(error)) / n),
        bias=float(np.sum(error) / n),
        nasa_score=nasa_score(error),
        accuracy=float(np.sum(health == true_health[known]) / (len(health) or math.nan)),
        macro_f1=macro_f1(health, true_health[known]),
    )


def nasa_score(error: Floats) -> float:
    """Sum over windows of exp(-d/13) - 1 for d < 0 (early) and exp(d/10) - 1 for d >= 0 (late); d predicted - true.

    Source: Saxena et al., Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008. Late
    costs more than early, since the engine fails before the visit to the workshop. Defined for RUL in cycles; of one in
    seconds it is soon infinite.
    """
    with np.errstate(over="ignore"):
        return float(np.sum(np.expm1(np.where(error < 0, -error / 13, error / 10))))


def macro_f1(predicted: Index, true: Index) -> float:
    """Plain mean over classes of 2 TP / (2 TP + FP + FN), over the classes that occur in either."""
    f1 = []
    for c in np.union1d(predicted, true):
        hit = np.sum((predicted == c) & (true == c))
        f1.append(2 * hit / (np.sum(predicted == c) + np.sum(true == c)))
    return float(np.mean(f1)) if f1 else math.nan
