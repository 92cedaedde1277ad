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
