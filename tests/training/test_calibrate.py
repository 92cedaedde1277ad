"""Calibration: what the intervals hold on assets that they were not made from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator

from edge_rul.core.normalise import Array
from edge_rul.training.calibrate import IntervalSettings, calibrate, held
from edge_rul.training.windows import Labels

CAP = 125.0


def answers(random: Generator, n: int = 4000) -> tuple[Array, Labels]:
    """Predicted RUL, and labels that it misses by more the larger they are, more often upwards than downwards."""
    true = np.minimum(random.uniform(0, 220, n), CAP)
    error = random.gamma(2.0, 1.0, n) * (1 + true / 20) - random.normal(2, 1, n)
    rul = np.clip(true + error, 0, 130).astype(np.float32)
    return rul, Labels(true.astype(np.float32), np.zeros(n, np.bool_), np.zeros(n, np.int64))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_the_level_holds_on_others_below_the_cap(level: float) -> None:
    table = calibrate(*answers(np.random.default_rng(0)), CAP, IntervalSettings(level=level))
    assert table is not None and table.level == level
    rul, true = answers(np.random.default_rng(1))
    inside, width = held(table, rul, true.rul, CAP)
    below = true.rul < CAP
    assert abs(inside[below].mean() - level) < 0.03
    assert inside.mean() >= inside[below].mean() - 0.01
    assert 0 < width.mean() < CAP


def test_an_interval_is_as_wide_as_its_place_needs_and_not_even() -> None:
    """One width for all would be too wide near failure. The answers here are too high, so it reaches further down."""
    table = calibrate(*answers(np.random.default_rng(0)), CAP, IntervalSettings())
    assert table is not None
    assert table.below[0] < 0.5 * max(table.below)
    assert sum(table.below) > 2 * sum(table.above)


def test_fewer_may_fail_earlier_than_told_where_that_costs_more() -> None:
    rul, true = answers(np.random.default_rng(0))
    shares = []
    for late in (0.1, 0.9):
        table = calibrate(rul, true, CAP, IntervalSettings(late=late))
        assert table is not None
        low, _ = table.bounds(rul, CAP)
        shares.append(float((true.rul < low).mean()))
    assert shares[0] < 0.03 < shares[1]


def test_lives_that_were_not_seen_to_fail_tell_nothing() -> None:
    rul, true = answers(np.random.default_rng(0))
    wrong = np.arange(len(rul)) % 2 == 0
    spoilt = Labels(np.where(wrong, 0, true.rul).astype(np.float32), wrong, true.health)
    alone = Labels(true.rul[~wrong], wrong[~wrong], true.health[~wrong])
    assert calibrate(rul, spoilt, CAP, IntervalSettings()) == calibrate(rul[~wrong], alone, CAP, IntervalSettings())
    assert calibrate(rul, Labels(true.rul, ~(wrong & False), true.health), CAP, IntervalSettings()) is None


def test_few_windows_and_equal_answers_still_make_a_table() -> None:
    """A network that says the same of everything, and a handful of windows."""
    for n in (1, 7, 300):
        true = Labels(np.linspace(0, CAP, n, dtype=np.float32), np.zeros(n, np.bool_), np.zeros(n, np.int64))
        table = calibrate(np.full(n, 60, np.float32), true, CAP, IntervalSettings())
        assert table is not None and len(table.at) == 1
        inside, _ = held(table, np.full(n, 60, np.float32), true.rul, CAP)
        assert inside[true.rul < CAP].mean() >= 0.9
