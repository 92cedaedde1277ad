"""Lines in place of windows."""

from __future__ import annotations

import numpy as np
import pytest

from edge_rul.core.smooth import Line, smooth


def windows(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (count, 30, 4)).astype(np.float32)  # (B, T, C)


def test_a_window_becomes_its_least_squares_line() -> None:
    x = windows()
    steps = np.arange(30)
    lines = smooth(Line().matrix(30), x)  # (B, T, C)
    for b, c in ((0, 0), (4, 3)):
        np.testing.assert_allclose(lines[b, :, c], np.polyval(np.polyfit(steps, x[b, :, c], 1), steps), atol=1e-5)
    np.testing.assert_allclose(smooth(Line().matrix(30), lines), lines, atol=1e-5, err_msg="a line stays as it is")


def test_a_steeper_line_turns_about_the_window_s_middle() -> None:
    x = windows()
    plain, steep = (smooth(Line(slope=s).matrix(30), x) for s in (1.0, 4.0))
    middle = x.mean(axis=1, keepdims=True)  # (B, 1, C)
    np.testing.assert_allclose(steep - middle, 4 * (plain - middle), atol=1e-4)


def test_a_window_of_one_reading_is_that_reading() -> None:
    x = windows()[:, :1]
    np.testing.assert_array_equal(smooth(Line(slope=4.0).matrix(1), x), x)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_no_window_depends_on_its_batch(size: int) -> None:
    x = windows(64)
    matrix = Line(slope=4.0).matrix(30)
    whole = smooth(matrix, x)
    parts = np.concatenate([smooth(matrix, x[i : i + size]) for i in range(0, 64, size)])
    np.testing.assert_array_equal(parts, whole)


def loadings(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.9, 0.9, x.shape)  # (B, T, C)


def test_readings_are_weighed_by_what_they_tell() -> None:
    """Against the normal equations of each window and feature, written out."""
    x = windows()
    a = loadings(x)
    lines = Line(slope=4.0).weighted(x, a)  # (B, T, C)
    assert (lines.dtype, lines.flags.c_contiguous) == (np.float32, True)
    u = np.linspace(-1, 1, 30)
    for b, c in ((0, 0), (4, 3)):
        shows = a[b, :, c, None] * np.stack([np.ones(30), u], axis=1)  # (T, 2) what a level and a rise of 1 would show
        precision = 1 / (1 - a[b, :, c] ** 2)  # (T,)
        posterior = np.linalg.inv(np.eye(2) + shows.T @ (precision[:, None] * shows))
        level, rise = posterior @ shows.T @ (precision * x[b, :, c])
        np.testing.assert_allclose(lines[b, :, c], level + 4 * rise * u, rtol=1e-5, atol=1e-5)


def test_the_more_readings_tell_the_closer_the_line_is_to_the_plain_one() -> None:
    x = windows()
    plain = smooth(Line(slope=4.0).matrix(30), x)
    apart = [np.abs(Line(slope=4.0).weighted(x, np.full(x.shape, a)) - plain).max() for a in (0.5, 0.9, 0.9999)]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.01


def test_a_reading_that_tells_nothing_counts_for_nothing() -> None:
    x, other = windows(), windows()
    a = loadings(x)
    a[:, 3] = 0
    a[:, :, 1] = 0
    other[:, 3] = 99
    np.testing.assert_array_equal(Line().weighted(other, a), Line().weighted(x, a))
    assert not Line().weighted(x, a)[..., 1].any(), "a window of nothing else is the training mean"


def test_a_weighed_window_of_one_reading_and_a_batch_of_none() -> None:
    x = windows()[:, :1]
    np.testing.assert_allclose(Line(slope=4.0).weighted(x, np.full(x.shape, 0.9999)), x, rtol=1e-3)
    assert Line().weighted(windows()[:0], np.zeros((0, 30, 4))).shape == (0, 30, 4)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("features", [1, 4])
def test_no_weighed_window_depends_on_its_batch(size: int, features: int) -> None:
    x = windows(64)[..., :features]
    a = loadings(x)
    parts = np.concatenate([Line().weighted(x[i : i + size], a[i : i + size]) for i in range(0, 64, size)])
    np.testing.assert_array_equal(parts, Line().weighted(x, a))
