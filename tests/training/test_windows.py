"""Windows, labels and the split: each against cases counted by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_rul.bundle import HealthClass
from edge_rul.errors import DataError
from edge_rul.training import cmapss
from edge_rul.training.table import Table, split
from edge_rul.training.windows import UNKNOWN, full_windows, labels, last_windows, left_out

CLASSES = [HealthClass("healthy", 80), HealthClass("degrading", 30), HealthClass("critical")]


def table(*lives: tuple[str, int, int], left: int = 0, censored: bool = False) -> Table:
    """(asset, life, readings) each; one input that counts the rows."""
    n = [length for _, _, length in lives]
    return Table(
        asset=np.repeat([asset for asset, _, _ in lives], n),
        life=np.repeat([life for _, life, _ in lives], n).astype(np.int64),
        cycle=np.concatenate([np.arange(1, k + 1) for k in n]),
        inputs=np.arange(sum(n), dtype=np.float32)[:, None],
        rul=np.concatenate([left + np.arange(k - 1, -1, -1) for k in n]).astype(np.float32),
        is_lower_bound=np.full(sum(n), censored),
        files={},
    )


def test_full_windows_lie_within_one_life() -> None:
    windows = full_windows(table(("a", 0, 5), ("a", 1, 4), ("b", 0, 2), ("b", 1, 3)), 3)
    assert windows.raw()[:, :, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7], [6, 7, 8], [11, 12, 13]]
    assert windows.keys() == [("a", 0, 3), ("a", 0, 4), ("a", 0, 5), ("a", 1, 3), ("a", 1, 4), ("b", 1, 3)]
    assert windows.padding.tolist() == [0] * 6


def test_a_stride_keeps_the_end_of_life() -> None:
    windows = full_windows(table(("a", 0, 8)), 3, stride=2)
    assert windows.table.cycle[windows.last].tolist() == [4, 6, 8]


def test_no_life_long_enough_gives_no_window() -> None:
    assert len(full_windows(table(("a", 0, 2)), 3)) == 0


def test_a_short_life_is_padded_by_its_first_reading() -> None:
    windows = last_windows(table(("a", 0, 5), ("b", 0, 2), ("c", 0, 1)), 4)
    assert windows.raw()[:, :, 0].tolist() == [[1, 2, 3, 4], [5, 5, 5, 6], [7, 7, 7, 7]]
    assert windows.padding.tolist() == [0, 2, 3]


def test_a_window_that_holds_a_value_for_too_long_is_left_out() -> None:
    """Of a run that begins before the window only the part within counts, as the daemon cannot know more."""
    held = np.array([0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0], bool)[:, None]
    lives = msgspec.structs.replace(table(("a", 0, 8), ("b", 0, 4)), held=held, max_hold=[1])
    assert full_windows(lives, 3).keys() == [("a", 0, 6), ("a", 0, 7), ("a", 0, 8), ("b", 0, 3), ("b", 0, 4)]
    assert len(full_windows(msgspec.structs.replace(lives, max_hold=[None]), 3)) == 8


def test_lives_that_teach_nothing_or_only_a_bound_are_counted() -> None:
    lives = table(("a", 0, 5), ("a", 1, 2), ("b", 0, 3), ("c", 0, 1))
    counts = {"windows_over_holes_left_out": 0, "windows_held_too_long_left_out": 0}
    assert left_out(lives, 3) == {**counts, "lives_censored": 0, "lives_shorter_than_the_window": 2}
    censored = msgspec.structs.replace(lives, is_lower_bound=np.isin(lives.asset, ["a"]))
    assert left_out(censored, 1) == {**counts, "lives_censored": 2, "lives_shorter_than_the_window": 0}


def test_labels_count_from_the_last_cycle_and_are_capped() -> None:
    windows = full_windows(table(("a", 0, 200)), 30)
    found = labels(windows, 125, CLASSES)
    assert len(found.rul) == 171
    assert found.rul[[0, 45, 46, 170]].tolist() == [125, 125, 124, 0]
    assert found.rul.dtype == np.float32
    assert found.health.dtype == np.int64


@pytest.mark.parametrize(("left", "health"), [(81, 0), (80, 1), (31, 1), (30, 2), (0, 2), (500, 0)])
def test_classes_by_thresholds(left: int, health: int) -> None:
    """healthy > 80 >= degrading > 30 >= critical."""
    windows = last_windows(table(("a", 0, 1), left=left), 1)
    assert labels(windows, 125, CLASSES).health.tolist() == [health]


@pytest.mark.parametrize(("left", "bound", "health"), [(60, True, UNKNOWN), (81, True, 0), (200, False, 0)])
def test_a_life_without_failure_gives_a_lower_bound(left: int, bound: bool, health: int) -> None:
    found = labels(last_windows(table(("a", 0, 1), left=left, censored=True), 1), 125, CLASSES)
    assert found.is_lower_bound.tolist() == [bound]
    assert found.health.tolist() == [health]


def test_the_split_moves_whole_assets() -> None:
    lives = table(*((str(i), life, 5) for i in range(20) for life in range(2)))
    fit, held_out = split(lives, 0.15, seed=1)
    assert len(held_out.assets) == 3
    assert not set(fit.assets) & set(held_out.assets)
    assert len(fit) + len(held_out) == len(lives)
    assert [len(held_out.of([a])) for a in held_out.assets] == [10, 10, 10]
    assert split(lives, 0.15, seed=1)[1].assets == held_out.assets
    assert split(lives, 0.15, seed=2)[1].assets != held_out.assets


def test_a_split_that_leaves_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"validation: 1 of 1 held out \(a\) leave none to learn from\n  hint: whole assets"
    ):
        split(table(("a", 0, 5)), 0.5, 0, "validation")


def test_windows_of_the_real_files(data_dir: Path) -> None:
    train = cmapss.load(data_dir / "cmapss", "FD001", "train", ["T24"])
    assert len(full_windows(train, 30)) == 20631 - 100 * 29
    test = cmapss.load(data_dir / "cmapss", "FD001", "test", ["T24"])
    assert len(full_windows(test, 30)) == 10196
    assert last_windows(test, 30).padding.max() == 0
    # FD002's test set holds engines shorter than a window.
    short = last_windows(cmapss.load(data_dir / "cmapss", "FD002", "test", ["T24"]), 30)
    assert len(short) == 259
    assert (short.padding > 0).sum() == sum(1 for n in np.bincount(short.table.asset.astype(int))[1:] if n < 30) > 0
