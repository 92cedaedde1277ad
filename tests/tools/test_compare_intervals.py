"""Which kind of interval is the tighter, on windows where the answer is known."""

from __future__ import annotations

from pathlib import Path

import compare_intervals
import numpy as np

from edge_rul import bundle as bundles


def test_a_regressors_ends_are_moved_until_they_hold_the_level() -> None:
    true = np.linspace(0, 99, 500, dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=500).astype(np.float32) * 5
    fold = np.arange(500) % compare_intervals.FOLDS
    # Ends that are much too close, and ends that are much too far apart: both come to 9 of 10.
    for reach in (1, 40):
        ends = (true + noise - reach, true + noise + reach)
        low, high = compare_intervals.by_regressor(ends, true, fold, 100.0, 0.9)
        inside = (low <= true) & (true <= high)
        assert 0.85 < inside.mean() < 0.95
        assert 14 < (high - low)[100:].mean() < 18, "1.645 deviations of 5 to either side"


def test_what_ships_is_the_tighter_of_the_two(data_dir: Path) -> None:
    bundle = bundles.load(Path(__file__).parents[2] / "bundles" / "cmapss_fd001")
    rows = compare_intervals.compare(bundle, data_dir / "cmapss")
    assert {r["level"] for r in rows} == set(compare_intervals.LEVELS)
    for ours, other in zip(rows[::2], rows[1::2], strict=True):
        assert (ours["kind"], other["kind"]) == ("by predicted RUL", "quantile regressor")
        assert abs(ours["held_below_cap"] - other["held_below_cap"]) < 0.02, "of equal coverage"
        assert ours["width_below_cap"] < other["width_below_cap"]
