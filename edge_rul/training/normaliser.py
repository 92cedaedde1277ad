"""The normaliser that a configuration asks for, fitted on training readings.

Owns how operating conditions are found: k-means on the settings, each in units of its deviation (scikit-learn's, with
ten starts). What a normaliser is and how it is applied stands in the core, which the daemon shares. Must not know
windows, files or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.core.features import Feature
from edge_rul.core.normalise import Array, Conditions, Normaliser, ZScore
from edge_rul.errors import ConfigError, DataError

STARTS = 10


class ZScoreSettings(msgspec.Struct, frozen=True, tag="zscore", tag_field="kind", forbid_unknown_fields=True):
    """One mean and deviation a feature."""

    @property
    def settings(self) -> list[str]:
        return []


class ConditionSettings(msgspec.Struct, frozen=True, tag="conditions", tag_field="kind", forbid_unknown_fields=True):
    """One mean and deviation a feature and operating condition.

    by:     the inputs that tell the conditions apart
    count:  how many there are
    margin: a reading is in no condition when it lies farther from each than training readings did, by this share
    """

    by: Annotated[list[str], Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1)]
    margin: Annotated[float, Meta(ge=0)] = 1.0

    @property
    def settings(self) -> list[str]:
        return self.by


NormaliserSettings = ZScoreSettings | ConditionSettings


def fit_normaliser(chosen: NormaliserSettings, features: Array, settings: Array, seed: int) -> Normaliser:
    """features: (N, C) and settings: (N, S) of training readings. Raises DataError where the settings do not fall into
    so many conditions, and ConfigError without scikit-learn."""
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
    return Conditions.fit(features, settings, condition, chosen.by, chosen.margin)


def constants(normaliser: Normaliser, features: Sequence[Feature]) -> list[str]:
    """Features that carry nothing, in words: those that were constant in training, or within a condition."""
    return [features[c].name + ("" if k is None else f" in condition {k}") for c, k in normaliser.constant()]
