"""Figures against numbers computed by hand, and against scikit-learn."""

from __future__ import annotations

from math import exp, inf, sqrt

import numpy as np
import pytest
from sklearn.metrics import f1_score

from edge_rul.training.metrics import macro_f1, nasa_score, scores


def test_nasa_score_by_hand() -> None:
    # 13 early: e - 1. 10 late: e - 1. 0: nothing. 26 early: e^2 - 1. Late costs more than early.
    assert nasa_score(np.array([-13.0, 10.0, 0.0, -26.0])) == pytest.approx(2 * (exp(1) - 1) + exp(2) - 1)
    assert nasa_score(np.array([5.0])) == pytest.approx(0.6487212707)
    assert nasa_score(np.array([-5.0])) == pytest.approx(0.4690491938)


def test_errors_in_seconds_are_beyond_the_nasa_score_without_a_warning() -> None:
    with np.errstate(all="raise"):
        assert nasa_score(np.array([-20000.0, 3.0])) == inf


def test_scores_by_hand() -> None:
    found = scores(
        rul=np.array([10, 20, 30], np.float32),
        logits=np.array([[2, 1, 0], [0, 2, 1], [5, 0, 0]], np.float32),
        true_rul=np.array([13, 20, 26], np.float32),
        true_health=np.array([0, 2, -1]),
    )
    assert found.rmse == pytest.approx(sqrt((9 + 0 + 16) / 3))
    assert found.mae == pytest.approx(7 / 3)
    assert found.bias == pytest.approx(1 / 3)
    assert found.nasa_score == pytest.approx(exp(3 / 13) - 1 + exp(0.4) - 1)
    assert found.accuracy == 0.5  # the third window's class is unknown and not counted
    assert found.macro_f1 == pytest.approx(1 / 3)  # class 0: 1; class 1: never right; class 2: never found


def test_macro_f1_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    for classes in (2, 3, 5):
        predicted, true = random.integers(0, classes, 50), random.integers(0, classes, 50)
        assert macro_f1(predicted, true) == pytest.approx(f1_score(true, predicted, average="macro"))
