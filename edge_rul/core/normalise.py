"""Features to the numbers that the network was trained on, and how far they can be trusted.

Owns the z-score, whole or for each operating condition, and the check against the training range. The same functions
serve training and the daemon, and every step is one of single numbers, so that a window is normalised to the same bits
on both sides. Knows no asset, no time and no file.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class ZScore(msgspec.Struct, frozen=True, tag="zscore", tag_field="kind", forbid_unknown_fields=True):
    """z = (x - mean) / std for each feature, fitted on training lives only.

    mean, std: C numbers each, in the features' units and order. A feature that is constant in training has std 0 and
    normalises to 0: it carries nothing that the network could have learnt from.
    """

    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; one of each a feature")
        _check_scales(self.mean, self.std)

    @property
    def width(self) -> int:
        return len(self.mean)

    def constant(self) -> list[tuple[int, int | None]]:
        """(feature, None) of each that was constant in training."""
        return [(c, None) for c, std in enumerate(self.std) if std == 0]

    @classmethod
    def fit(cls, rows: Array) -> ZScore:
        """rows: (N, C) of training readings. The deviation is that of the population (ddof 0)."""
        rows64 = rows.astype(np.float64)
        std = rows64.std(axis=0)
        # Rounding gives a constant column a deviation of about 1e-13 of its level: that is 0, not a scale.
        std[np.ptp(rows64, axis=0) == 0] = 0.0
        return cls(mean=rows64.mean(axis=0).tolist(), std=std.tolist())

    @np.errstate(over="ignore")  # what no float32 holds is infinite, and is told as `outside`
    def apply(self, raw: Array) -> Array:
        """(..., C) -> (..., C) normalised, float32, a new contiguous array."""
        out: Array = np.subtract(raw, np.asarray(self.mean, np.float32), dtype=np.float32)  # (..., C)
        np.multiply(out, _factors(np.asarray(self.std, np.float32)), out=out)  # (..., C)
        return out


class Conditions(
    msgspec.Struct, frozen=True, tag="conditions", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True
):
    """A z-score for each of K operating conditions, told apart by S settings; all fitted on training lives only.

    by:        the inputs that are the settings
    scale:     (S,) what counts as a distance of 1 in each setting: its deviation in training
    centroids: (K, S) in the settings' units, ascending
    reach:     (K,) distance of the farthest training reading of each condition from its centroid
    margin:    a reading is in no condition when it lies farther than reach * (1 + margin) from the nearest centroid
    mean, std: (K, C) as of a ZScore; std 0 where a feature is constant within the condition
    loading:   (K, C) from -1 to 1, how much of what lies behind a feature it shows in each condition: normalised it is
               loading * h + noise, with h the same whatever the condition, and the noise's variance what is left of 1.
               None: not measured
    """

    by: list[str]
    scale: list[float]
    centroids: list[list[float]]
    reach: list[float]
    margin: float
    mean: list[list[float]]
    std: list[list[float]]
    loading: list[list[float]] | None = None

    def __post_init__(self) -> None:
        K, S = len(self.centroids), len(self.by)
        shapes = {len(c) for c in self.centroids}, len(self.scale), len(self.reach), len(self.mean), len(self.std)
        if not K or not S or shapes != ({S}, S, K, K, K):
            raise ValueError(f"{K} centroids of {S} settings: scale, reach, mean and std do not fit them")
        if len({len(row) for row in (*self.mean, *self.std)}) != 1:
            raise ValueError("mean and std have rows of different lengths; expected one number a feature")
        if not min(self.scale) > 0 or not min(self.reach) >= 0 or not self.margin >= 0:
            raise ValueError("scale must be above 0, reach and margin not negative")
        for mean, std in zip(self.mean, self.std, strict=True):
            _check_scales(mean, std)
        if self.loading is not None:
            if [len(row) for row in self.loading] != [self.width] * K:
                raise ValueError(f"loading does not fit {K} conditions of {self.width} features")
            if not np.all(np.abs(self.loading) < 1):  # NaN neither
                raise ValueError("loading must lie between -1 and 1: some of a feature is always noise")

    @property
    def width(self) -> int:
        return len(self.mean[0])

    def constant(self) -> list[tuple[int, int | None]]:
        """(feature, condition) of each feature that was constant in a condition; (feature, None): in all of them."""
        zero = np.asarray(self.std) == 0  # (K, C)
        whole = zero.all(axis=0)  # (C,)
        parts = [(int(c), int(k)) for k, c in np.argwhere(zero) if not whole[c]]
        return [*((int(c), None) for c in np.flatnonzero(whole)), *parts]

    @classmethod
    def fit(cls, rows: Array, settings: Array, condition: Index, by: list[str], margin: float) -> Conditions:
        """rows: (N, C) features, settings: (N, S) and condition: (N,) of training readings; each condition has some.

        The conditions are numbered again by their centroids, which are means, so that nothing hangs on the order or
        the last bits of what found them.
        """
        settings64 = settings.astype(np.float64)
        scale = settings64.std(axis=0)  # (S,)
        scale[np.ptp(settings64, axis=0) == 0] = 1.0
        found = []
        for k in np.unique(condition):
            own = condition == k  # (N,)
            centroid = settings64[own].mean(axis=0)  # (S,)
            distance = np.sqrt((((settings64[own] - centroid) / scale) ** 2).sum(axis=1))  # (n,)
            found.append((centroid.tolist(), float(distance.max()), ZScore.fit(rows[own])))
        found.sort(key=lambda one: one[0])
        return cls(
            by=by,
            scale=scale.tolist(),
            centroids=[centroid for centroid, _, _ in found],
            reach=[reach for _, reach, _ in found],
            margin=margin,
            mean=[z.mean for _, _, z in found],
            std=[z.std for _, _, z in found],
        )

    def choose(self, settings: Array) -> tuple[Index, Mask]:
        """(..., S) raw settings -> (...) the nearest condition, and (...) whether it is near enough to be one."""
        squared = np.zeros((*settings.shape[:-1], len(self.centroids)))  # (..., K)
        for s, scale in enumerate(self.scale):
            centroid = np.array([c[s] for c in self.centroids])  # (K,)
            squared += ((settings[..., s, None].astype(np.float64) - centroid) / scale) ** 2  # (..., K)
        nearest: Index = squared.argmin(axis=-1)  # (...)
        # The smallest step that float32 settings make must not matter where a condition is a single point.
        limit = np.asarray(self.reach) * (1 + self.margin) + 1e-6  # (K,)
        return nearest, squared.min(axis=-1) <= limit[nearest] ** 2

    @np.errstate(over="ignore")  # what no float32 holds is infinite, and is told as `outside`
    def apply(self, raw: Array, condition: Index) -> Array:
        """(..., C) features and (...) conditions -> (..., C) normalised, float32, a new contiguous array."""
        factors = _factors(np.asarray(self.std, np.float32))  # (K, C)
        out: Array = np.subtract(raw, np.asarray(self.mean, np.float32)[condition], dtype=np.float32)  # (..., C)
        np.multiply(out, factors[condition], out=out)  # (..., C)
        return out


Normaliser = ZScore | Conditions


def _check_scales(mean: list[float], std: list[float]) -> None:
    if not all(np.isfinite(mean)) or not all(np.isfinite(s) and s >= 0 for s in std):
        raise ValueError("mean must be finite, and std finite and not negative")


def _factors(std: Array) -> Array:
    """1 / std, and 0 where std is 0."""
    factors: Array = np.divide(np.float32(1), std, out=np.zeros_like(std), where=std > 0)
    return factors


def outside(last: Array, low: Array, high: Array, margin: float = 0.1) -> Mask:
    """Which inputs of a reading lie outside what training saw: (..., F) raw -> (..., F) bool.

    low, high: (F,) the least and greatest training value. `margin` widens the range by that share of its width on
    both sides, since the extremes of a finite sample are always passed now and then.
    """
    slack = (high - low) * np.float32(margin)
    result: Mask = (last < low - slack) | (last > high + slack)
    return result
