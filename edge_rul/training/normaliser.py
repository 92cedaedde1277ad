"""The normaliser that a configuration asks for, fitted on training readings.

Owns how operating conditions are found: k-means on the settings, each in units of its deviation (scikit-learn's, with
ten starts); and how much each feature tells in each of them. What a normaliser is and how it is applied stands in the
core, which the daemon shares. Must not know windows, files or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.core.features import Feature
from edge_rul.core.normalise import Array, Conditions, Index, Mask, Normaliser, ZScore
from edge_rul.core.smooth import Loading
from edge_rul.errors import ConfigError, DataError

STARTS = 10
NOISE = 0.05  # of a feature's variance at least: less cannot be told from readings
BELIEF = 30  # pairs that each condition has beside its own, with one that tells what all together do
SWEEPS = 100


class ZScoreSettings(msgspec.Struct, frozen=True, tag="zscore", tag_field="kind", forbid_unknown_fields=True):
    """One mean and deviation a feature."""

    @property
    def settings(self) -> list[str]:
        return []

    @property
    def loadings(self) -> bool:
        return False


class ConditionSettings(msgspec.Struct, frozen=True, tag="conditions", tag_field="kind", forbid_unknown_fields=True):
    """One mean and deviation a feature and operating condition.

    by:       the inputs that tell the conditions apart
    count:    how many there are
    margin:   a reading is in no condition when it lies farther from each than training readings did, by this share
    loadings: measure how much each feature tells in each condition, and weigh readings by it where they are smoothed
    """

    by: Annotated[list[str], Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1)]
    margin: Annotated[float, Meta(ge=0)] = 1.0
    loadings: bool = False

    @property
    def settings(self) -> list[str]:
        return self.by


NormaliserSettings = ZScoreSettings | ConditionSettings


def fit_normaliser(
    chosen: NormaliserSettings, features: Array, settings: Array, follows: Mask, seed: int
) -> Normaliser:
    """features: (N, C) and settings: (N, S) of training readings; follows: (N,) whether the one before each is of the
    same life, with noise of its own. Raises DataError where the settings do not fall into so many conditions, and
    ConfigError without scikit-learn."""
    if isinstance(chosen, ZScoreSettings):
        return ZScore.fit(features)
    try:
        # Imported here: an optional package, and a second to load.
        from sklearn.cluster import KMeans  # noqa: PLC0415
    except ImportError as e:
        hint = "python -m pip install 'edge-rul[train]' brings it"
        raise ConfigError(
            "train", "normaliser", "conditions are found by scikit-learn: not installed", hint=hint
        ) from e
    if (distinct := len(np.unique(settings, axis=0))) < chosen.count:
        found = (
            f"{distinct} distinct values of {', '.join(chosen.by)}, expected at least normaliser.count = {chosen.count}"
        )
        raise DataError("fit normaliser", "operating conditions", found)
    rows = settings.astype(np.float64)
    spread = rows.std(axis=0)  # (S,)
    scaled = rows / np.where(spread > 0, spread, 1.0)  # (N, S)
    condition = KMeans(chosen.count, n_init=STARTS, random_state=seed).fit_predict(scaled).astype(np.int64)  # (N,)
    fitted = Conditions.fit(features, settings, condition, chosen.by, chosen.margin)
    if not chosen.loadings:
        return fitted
    own, _ = fitted.choose(settings)  # (N,)
    loading = loadings(fitted.apply(features, own), own, follows, chosen.count)  # (K, C)
    loading[np.asarray(fitted.std) == 0] = 0.0  # what is constant tells nothing there
    return msgspec.structs.replace(fitted, loading=loading.tolist())


def loadings(z: Array, condition: Index, follows: Mask, count: int) -> Loading:
    """(N, C) normalised, (N,) and (N,) of training readings -> (K, C), see `Conditions.loading`.

    What lies behind a feature stays from one reading to the next, and noise is drawn anew. So over pairs of neighbours
    the mean of z z' is a_k a_l, where the first is in condition k and the second in l: one-factor analysis, whose
    loadings a are those of least squares over all pairs. Only their sign is free: where all conditions together tell
    something, that is positive.
    """
    later = np.flatnonzero(follows)  # (P,)
    pair = condition[later - 1], condition[later]  # (P,) each
    product = z[later - 1].astype(np.float64) * z[later]  # (P, C)
    total = np.zeros((count, count, z.shape[1]))  # (K, K, C)
    pairs = np.zeros((count, count, 1))  # (K, K, 1)
    np.add.at(total, pair, product)
    np.add.at(pairs, pair, 1.0)
    total, pairs = total + total.swapaxes(0, 1), pairs + pairs.swapaxes(0, 1)
    sign = np.ones((count, z.shape[1]))  # (K, C)
    against = product.sum(axis=0) <= 0  # (C,) conditions tell opposite things: by the moments' first eigenvector, which
    _, vectors = np.linalg.eigh(np.moveaxis(total[:, :, against], 2, 0))  # (c, K, K)
    sign[:, against] = np.where(vectors[..., -1].T < 0, -1.0, 1.0)  # is their loadings' but for what noise adds
    told = (product * sign[pair[0]] * sign[pair[1]]).sum(axis=0)  # (C,)
    alike = np.sqrt(np.maximum(told / max(1, len(later)), 0.0))  # (C,) if all conditions told as much
    a = sign * alike  # (K, C)
    for _ in range(SWEEPS):
        seen = (pairs * a**2).sum(axis=1) + BELIEF * alike**2  # (K, C)
        told = (total * a).sum(axis=1) + BELIEF * alike**3 * sign  # (K, C)
        best = np.divide(told, seen, out=np.zeros_like(a), where=seen > 0)  # (K, C) given these a
        a = (a + best) / 2  # half of the way: all of it would swing
    limit = np.sqrt(1 - NOISE)
    clipped: Loading = np.clip(a, -limit, limit)
    return clipped


def constants(normaliser: Normaliser, features: Sequence[Feature]) -> list[str]:
    """Features that carry nothing, in words: those that were constant in training, or within a condition."""
    return [features[c].name + ("" if k is None else f" in condition {k}") for c, k in normaliser.constant()]
