"""Folds pooled: the figures are those of one table with one limit, and each failure is told by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pool_folds
import pytest

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.bundle import Rul
from edge_rul.core.normalise import Array
from edge_rul.errors import ConfigError
from edge_rul.training.detection import DetectionSettings, detect
from edge_rul.training.disks import DisksSettings
from edge_rul.training.evaluate import Judged
from edge_rul.training.table import table_of_lives
from edge_rul.training.windows import Windows, full_windows, labels

DETECTION = DetectionSettings(horizon=3, false_alarms=[0.01, 0.5])
LEFT = np.arange(9, -1, -1, dtype=np.float32)  # ten days, to the last one


def drives(*names: str) -> Windows:
    """Ten days each; those that begin with f fail."""
    asset = np.repeat(names, 10)
    table = table_of_lives(
        asset=asset,
        life=np.zeros(len(asset), np.int64),
        cycle=np.tile(np.arange(10), len(names)),
        inputs=np.zeros((len(asset), 1), np.float32),
        failed=np.char.startswith(asset, "f"),
        files={},
        groups={},
    )
    return full_windows(table, 1)


@pytest.fixture
def bundle(tmp_path: Path) -> bundles.Bundle:
    parts = bundle_parts(classes=("good", "bad"))
    dataset = DisksSettings(files=["*.csv"], seconds_per_cycle=86400, detection=DETECTION)
    classes = [bundles.HealthClass("good", 3), bundles.HealthClass("bad")]
    parts["fields"] |= {"rul": Rul("days", 60), "training": {"dataset": dataset}, "classes": classes}
    return bundles.write(tmp_path / "bundle", **parts)


def fold(bundle: bundles.Bundle, windows: Windows, rul: Array, mean: float) -> pool_folds.Fold:
    true = labels(windows, 60, bundle.manifest.classes)
    logits = np.tile(np.array([[0.0, 1.0]], np.float32), (len(rul), 1))
    trees = {"last value, slope": np.full(len(rul), 5, np.float32)}
    return pool_folds.Fold(bundle, Judged("all", windows, true, rul, logits, trees), mean)  # type: ignore[arg-type]


def test_folds_are_judged_as_one_with_one_limit(bundle: bundles.Bundle) -> None:
    """fa is told two days ahead; fb, whose fold answers higher, only where a false alarm is allowed."""
    first, second = drives("fa", "ha"), drives("fb", "hb")
    low = np.concatenate([np.where(LEFT <= 2, 10, 50), np.full(10, 50)]).astype(np.float32)
    high = np.concatenate([np.where(LEFT == 1, 40, 60), np.where(LEFT == 8, 30, 60)]).astype(np.float32)
    pooled = pool_folds.pool([fold(bundle, first, low, 4.0), fold(bundle, second, high, 6.0)])
    assert (pooled.lives, pooled.windows) == (4, 40)
    assert pooled.detection == detect(
        drives("fa", "ha", "fb", "hb"), np.concatenate([low, high]), DETECTION, "days", 86400
    )
    assert [p.found for p in pooled.detection.points] == [1, 2]  # type: ignore[union-attr]
    assert [(f.asset, f.windows, f.told) for f in pooled.failures] == [("fa", 10, [2, 2]), ("fb", 10, [None, 1])]
    assert pooled.failures[1].rmse == pytest.approx(np.sqrt(np.mean((high[:10] - LEFT) ** 2)))
    # The mean of each fold's own training: 4 and 6, of RUL 9 to 0 in each; RUL is known of the two that failed.
    errors = np.concatenate([4 - LEFT, 6 - LEFT])
    assert pooled.mean_rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert pooled.trees["last value, slope"].rmse == pytest.approx(np.sqrt(np.mean((5 - LEFT) ** 2)))
    assert "days ahead: not told, 1.0" in pool_folds.as_text(pooled, each=True)


def test_a_life_that_two_bundles_judge_is_refused(bundle: bundles.Bundle) -> None:
    one = fold(bundle, drives("fa"), LEFT, 4.0)
    with pytest.raises(ConfigError, match="fa is in the test of two; expected folds"):
        pool_folds.pool([one, one])
