"""Tables of figures against numbers computed by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from edge_rul.core.normalise import Array
from edge_rul.training.bootstrap import rmse_difference
from edge_rul.training.breakdown import bands, confusion, coverage, lead_time
from edge_rul.training.table import Table
from edge_rul.training.windows import full_windows


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def test_bands_are_by_true_rul_and_the_plateau_stands_apart() -> None:
    true, rul = f32(0, 24, 25, 124, 125, 125), f32(3, 20, 25, 120, 110, 130)
    found = bands(rul, true, 125, (rul - 4, rul + 4))
    assert [(b.low, b.high, b.windows) for b in found] == [
        (0, 25, 2),
        (25, 50, 1),
        (50, 75, 0),
        (75, 100, 0),
        (100, 125, 1),
        (125, None, 2),
    ]
    assert found[0].rmse == pytest.approx(12.5**0.5) and found[0].bias == -0.5
    assert (found[2].rmse, found[2].bias, found[2].coverage) == (None, None, None)
    assert found[5].bias == -5 and found[5].coverage == 0 and found[5].width == 8
    assert found[0].coverage == 1 and found[4].coverage == 1


def test_coverage_tells_which_side_was_missed() -> None:
    true = f32(10, 20, 30, 125)
    told = coverage(true, 125, (f32(12, 15, 20, 100), f32(20, 25, 28, 125)), 0.9)
    assert (told.coverage, told.late, told.early) == (0.5, 0.25, 0.25)
    assert told.below_cap == pytest.approx(1 / 3)
    assert told.mean_width == pytest.approx((8 + 10 + 8 + 25) / 4)


def test_confusion_is_scikit_learns_without_what_is_unknown() -> None:
    random = np.random.default_rng(0)
    predicted, true = random.integers(0, 3, 60), random.integers(-1, 3, 60)
    known = true >= 0
    assert confusion(predicted, true, 3) == confusion_matrix(true[known], predicted[known], labels=[0, 1, 2]).tolist()


def test_a_warning_is_the_third_low_window_in_a_row() -> None:
    lengths = (8, 8, 8, 8)
    asset = np.repeat(np.array(list("abcd")), lengths)
    left = np.concatenate([np.arange(n)[::-1] for n in lengths]).astype(np.float32)
    n = len(asset)
    censored = asset == "d"
    table = Table(asset, np.zeros(n, np.int64), np.arange(n), np.zeros((n, 1), np.float32), left, censored, {})
    windows = full_windows(table, 2)  # 7 of each life, with RUL 6 to 0
    high, low = 50.0, 20.0
    a = [high, low, low, low, low, low, low]  # the third at RUL 3
    b = [low, low, high, high, low, low, low]  # the third in a row at RUL 0
    never = [high, low, low, high, low, low, high]
    told = lead_time(windows, f32(*a, *b, *never, *[low] * 7), 30)
    assert (told.lives, told.missed, told.leads) == (3, 1, [3.0, 0.0])
    assert (told.shortest, told.median, told.longest) == (0, 1.5, 3)


def test_the_difference_of_two_is_sure_only_as_far_as_the_assets_agree() -> None:
    random = np.random.default_rng(0)
    asset = np.repeat(np.arange(20), 50)
    error = random.normal(0, 10, 1000)
    same = rmse_difference(error, error, asset.tolist())
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = rmse_difference(0.8 * error, error, asset.tolist())
    assert better.value == pytest.approx(-0.2 * np.sqrt(np.mean(error**2)))
    assert better.low < better.value < better.high < 0
    # All that an asset's windows have in common counts once, not fifty times.
    common = np.repeat(random.normal(0, 10, 20), 50)
    whole = rmse_difference(common, error, asset.tolist())
    apart = rmse_difference(common, error, list(range(1000)))
    assert whole.high - whole.low > 3 * (apart.high - apart.low)
