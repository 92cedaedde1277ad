"""Detection against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.training.detection import DetectionSettings, auc, detect, wilson
from edge_rul.training.table import table_of_lives
from edge_rul.training.windows import Windows, full_windows

# Two drives that fail, three that do not; ten days each, a window a day.
ASSETS = ("fa", "fb", "ha", "hb", "hc")


def drives() -> Windows:
    asset = np.repeat(ASSETS, 10)
    table = table_of_lives(
        asset=asset,
        life=np.zeros(50, np.int64),
        cycle=np.tile(np.arange(10), 5),
        inputs=np.zeros((50, 1), np.float32),
        failed=np.char.startswith(asset, "f"),
        files={},
        groups={},
    )
    return full_windows(table, 1)


def answers(**low: dict[int, float]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Predictions of 60, but for those given by drive and day."""
    rul = np.full(50, 60, np.float32)
    for name, days in low.items():
        for day, value in days.items():
            rul[10 * ASSETS.index(name) + day] = value
    return rul


def test_a_failure_is_found_where_an_alarm_comes_within_the_horizon() -> None:
    """fa is found three days ahead; fb only long before, which is a false alarm and no find."""
    rul = answers(fa={6: 20, 7: 20}, fb={1: 10}, ha={0: 30}, hb={1: 40, 2: 35}, hc={3: 25, 9: 1})
    settings = DetectionSettings(horizon=3, false_alarms=[0.3, 0.4, 0.7], of="lives")
    found = detect(drives(), rul, settings, "days", 86400)
    # Near: RUL 0 to 3 of the two that fail. Far: 6 days of each of the five; hc's last day is neither.
    assert (found.near, found.far, found.exposure_days) == (8, 30, 30)
    none, one, two = found.points
    assert (none.false_alarms, none.far) == (0, 3)
    assert 20 <= none.limit < 25
    assert (none.found, none.failures, none.lead) == (1, 2, 3)
    assert (one.false_alarms, two.false_alarms) == (1, 2)
    assert one.limit < 30 and two.limit < 35
    # fb's alarm on day 1 and hc's on day 3, in 30 days of exposure.
    assert one.episodes_a_month == pytest.approx(2 * 30.4375 / 30)


def test_shares_of_windows_where_all_assets_fail() -> None:
    rul = answers(fa={0: 5, 1: 5, 8: 4}, fb={0: 6, 9: 50})
    settings = DetectionSettings(horizon=3, false_alarms=[0.1], of="windows")
    point = detect(drives(), rul, settings, "days", None).points[0]
    assert (point.false_alarms, point.far) == (3, 30)
    assert (point.found, point.lead, point.episodes_a_month) == (2, 0.5, None)


def test_the_area_under_the_curve_counts_pairs() -> None:
    near, far = np.array([3, 2, 2], np.float32), np.array([1, 2, 4, 0], np.float32)
    pairs = [1.0 if n > f else 0.5 if n == f else 0.0 for n in near for f in far]
    assert auc(near, far) == pytest.approx(np.mean(pairs))


@given(st.integers(0, 50), st.integers(1, 50))
def test_the_interval_of_a_share_holds_the_share(hits: int, more: int) -> None:
    low, high = wilson(hits, hits + more)
    assert 0 <= low <= hits / (hits + more) <= high <= 1
    # 8 of 10, as in Newcombe (1998): 0.490 to 0.943.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
