"""Raw readings to the numbers that the network was trained on, and how far they can be trusted.

Owns the z-score and the check against the training range. The same functions serve training and the daemon, so
that a window is normalised to the same bits on both sides. Knows no asset, no time and no file.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class ZScore(msgspec.Struct, frozen=True, tag="zscore", tag_field="kind", forbid_unknown_fields=True):
    """z = (x - mean) / std for each input, fitted on training lives only.

    mean, std: F numbers each, in the inputs' units and order. An input that is constant in training has std 0 and
    normalises to 0: it carries nothing that the network could have learnt from.
    """

    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; one of each an input")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(s) and s >= 0 for s in self.std):
            raise ValueError("mean must be finite, and std finite and not negative")

    @classmethod
    def fit(cls, rows: Array) -> ZScore:
        """rows: (N, F) raw training readings. The deviation is that of the population (ddof 0)."""
        rows64 = rows.astype(np.float64)
        std = rows64.std(axis=0)
        # Rounding gives a constant column a deviation of about 1e-13 of its level: that is 0, not a scale.
        std[np.ptp(rows64, axis=0) == 0] = 0.0
        return cls(mean=rows64.mean(axis=0).tolist(), std=std.tolist())

    def apply(self, raw: Array) -> Array:
        """(..., F) raw -> (..., F) normalised, float32, a new contiguous array."""
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        scale = np.divide(np.float32(1), std, out=np.zeros_like(std), where=std > 0)
        out: Array = np.subtract(raw, mean, dtype=np.float32)  # (..., F)
        np.multiply(out, scale, out=out)  # (..., F)
        return out


def outside(last: Array, low: Array, high: Array, margin: float = 0.1) -> npt.NDArray[np.bool_]:
    """Which inputs of a reading lie outside what training saw: (..., F) raw -> (..., F) bool.

    low, high: (F,) the least and greatest training value. `margin` widens the range by that share of its width on
    both sides, since the extremes of a finite sample are always passed now and then.
    """
    slack = (high - low) * np.float32(margin)
    result: npt.NDArray[np.bool_] = (last < low - slack) | (last > high + slack)
    return result
