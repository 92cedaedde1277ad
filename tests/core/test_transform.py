"""Features, conditions and smoothing against cases counted by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_rul.core.features import Feature, Features, Readings
from edge_rul.core.normalise import Conditions, ZScore
from edge_rul.core.smooth import Line, smooth
from edge_rul.core.transform import Marks, Transform

NAMES = ["s", "a", "b"]


def readings(values: list[list[float]], elapsed: list[tuple[int, int]]) -> Readings:
    """(T,) readings of one life; elapsed: cycles and milliseconds since the one before."""
    raw = np.array(values, np.float32)
    return Readings(raw, np.concatenate([raw[:1], raw[:-1]]), np.array(elapsed, np.int64))


def test_features_by_hand() -> None:
    declared = [
        Feature("b", "b"),
        Feature("rise", "a", minus="b"),
        Feature("log", "a", log="log1p"),
        Feature("per_cycle", "a", change="cycle"),
        Feature("rise_per_minute", "a", minus="b", change="minute"),
    ]
    # Three cycles and two minutes lie between the last two.
    given = readings([[0, 1, 5], [0, 3, 5], [0, 9, 1]], [(0, 0), (1, 60_000), (3, 120_000)])
    found, unknown = Features(declared, NAMES).apply(given)
    expected = [[5, -4, np.log(2), 0, 0], [5, -2, np.log(4), 2, 2], [1, 8, np.log(10), 2, 5]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert unknown.tolist() == [True, False, False]


def test_a_change_in_time_is_not_known_where_time_does_not_go_on() -> None:
    given = readings([[0, 1, 0], [0, 3, 0]], [(0, 0), (1, 0)])
    for per, change, unknown in (("cycle", 2.0, False), ("second", 0.0, True)):
        found, told = Features([Feature("d", "a", change=per)], NAMES).apply(given)  # type: ignore[arg-type]
        assert (found[1, 0], told[1]) == (change, unknown)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Feature("x", "a", minus="b", log="log"), "log of a difference"),
        (lambda: Features([Feature("x", "c")], NAMES), "feature x is of c; the inputs are s, a, b"),
        (lambda: Features([Feature("x", "a", minus="d")], NAMES), "feature x is of d"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(make: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()  # type: ignore[operator]


def conditions() -> Conditions:
    """At 0 and at 10 by s, told by the second one first; b is constant at 0."""
    settings = np.array([[10], [11], [9], [-1], [1], [0]], np.float32)
    rows = np.array([[4, 1], [6, 2], [8, 3], [50, 7], [52, 7], [54, 7]], np.float32)
    return Conditions.fit(rows, settings, np.array([0, 0, 0, 1, 1, 1]), ["s"], margin=0.5)


def test_conditions_are_numbered_by_their_centroids_and_each_has_its_own_scale() -> None:
    found = conditions()
    assert found.centroids == [[0.0], [10.0]]
    assert found.reach == pytest.approx([1 / found.scale[0]] * 2)
    assert found.mean == [[52, 7], [6, 2]]
    assert found.constant() == [(1, 0)]
    condition, known = found.choose(np.array([[1.4], [-1.6], [8.6], [5], [11.4], [np.inf]], np.float32))
    assert condition.tolist()[:3] == [0, 0, 1]
    assert known.tolist() == [True, False, True, False, True, False]
    z = found.apply(np.array([[54, 99], [8, 3]], np.float32), np.array([0, 1]))
    assert z.tolist() == [pytest.approx([1.2247449, 0]), pytest.approx([1.2247449, 1.2247449])]


def transform(**more: object) -> Transform:
    features = [Feature("a", "a"), Feature("b", "b")]
    return Transform(NAMES, low=[-1, 0, 0], high=[11, 60, 9], features=features, window=3, **more)  # type: ignore[arg-type]


def test_a_reading_in_no_condition_gives_way_to_the_one_before_it_and_is_marked() -> None:
    here, there, nowhere = [0.0, 54.0, 7.0], [10.0, 4.0, 2.0], [5.0, 54.0, 3.0]
    windows = np.array(
        [[here, nowhere, there], [nowhere, nowhere, there], [nowhere, nowhere, nowhere], [here, there, here]],
        np.float32,
    )
    done = transform(normaliser=conditions()).apply(Readings(windows))
    high, low = 1.2247449, -1.2247449
    expected = [[high, high, low], [low, low, low], [0, 0, 0], [high, low, high]]
    np.testing.assert_allclose(done.x[..., 0], expected, rtol=1e-6)
    assert [m.unknown_condition for m in done.marks] == [1, 2, 3, 0]
    assert done.marks[3] == Marks()


def test_a_reading_in_no_condition_counts_for_nothing_where_readings_are_weighed() -> None:
    here, nowhere = [0.0, 54.0, 7.0], [5.0, 54.0, 3.0]
    otherwise = [5.5, -3e38, 3e38]  # which no float32 can hold once it is normalised
    windows = np.array([[here, nowhere, here], [here, otherwise, here], [nowhere] * 3], np.float32)
    weighed = msgspec.structs.replace(conditions(), loading=[[0.5, 0.0], [0.9, 0.6]])
    done = transform(normaliser=weighed, smoothing=Line()).apply(Readings(windows))
    np.testing.assert_array_equal(done.x[0], done.x[1])
    assert (done.x[0, :, 0] > 0.3).all(), "two readings beyond the mean, less what one could be by chance"
    assert not done.x[2].any()
    assert [m.unknown_condition for m in done.marks] == [1, 1, 3]


@pytest.mark.parametrize(
    ("loading", "problem"),
    [
        ([[0.5, 0.5]], "does not fit 2 conditions of 2 features"),
        ([[0.5, 0.5], [0.5]], "does not fit 2 conditions of 2 features"),
        ([[0.5, 0.5], [0.5, 1.0]], "between -1 and 1"),
        ([[0.5, 0.5], [0.5, float("nan")]], "between -1 and 1"),
    ],
)
def test_loadings_that_cannot_be_are_refused(loading: list[list[float]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        msgspec.structs.replace(conditions(), loading=loading)


def test_inputs_beyond_training_are_named_by_the_last_reading() -> None:
    windows = np.array([[[0, 99, 5]] * 2 + [[0, 50, 12]]], np.float32)
    (marks,) = transform(normaliser=ZScore([0, 0], [1, 1])).apply(Readings(windows)).marks
    assert marks == Marks(outside=["b"])


def test_a_batch_of_no_window() -> None:
    for more in ({"normaliser": ZScore([0, 0], [1, 1])}, {"normaliser": conditions(), "smoothing": Line()}):
        empty = transform(**more)
        assert empty.apply(empty.gather([])).x.shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("normaliser", "problem"),
    [
        (ZScore([0], [1]), "normaliser for 1, there are 2 features"),
        (Conditions(["t"], [1], [[0]], [1], 1, [[0, 0]], [[1, 1]]), "normaliser.by names t; the inputs are s, a, b"),
    ],
)
def test_a_normaliser_for_other_features_is_refused(normaliser: ZScore | Conditions, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        transform(normaliser=normaliser)


@pytest.mark.parametrize("T", [1, 2, 30])
def test_a_line_is_the_least_squares_line(T: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, T, 3)).astype(np.float32)
    found = smooth(Line().matrix(T), x)
    for window, smoothed in zip(x, found, strict=True):
        steps = np.arange(T)
        fitted = np.stack([np.polyval(np.polyfit(steps, c, min(1, T - 1)), steps) for c in window.T], axis=1)
        np.testing.assert_allclose(smoothed, fitted, atol=1e-5)
    np.testing.assert_allclose(smooth(Line().matrix(T), found), found, atol=1e-5)  # a line stays


def test_a_window_is_smoothed_to_the_same_bits_whatever_is_beside_it() -> None:
    x = np.random.default_rng(0).normal(size=(32, 30, 14)).astype(np.float32)
    together = smooth(Line().matrix(30), x)
    for i in range(len(x)):
        np.testing.assert_array_equal(smooth(Line().matrix(30), x[i : i + 1])[0], together[i])
