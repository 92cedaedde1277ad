"""Several folds in one picture: only where failures are told ahead, which one limit does for all of them."""

from __future__ import annotations

from pathlib import Path

import gallery
import numpy as np
import pytest

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.errors import ConfigError
from edge_rul.training.detection import DetectionSettings
from edge_rul.training.disks import DisksSettings
from edge_rul.training.table import table_of_lives
from edge_rul.training.windows import full_windows


def answers(path: Path, name: str, detection: DetectionSettings | None) -> gallery.Answers:
    """Three windows of a drive that fails."""
    parts = bundle_parts()
    parts["fields"] |= {"training": {"dataset": DisksSettings(files=["*.csv"], detection=detection)}}
    bundle = bundles.write(path / name, **parts)
    table = table_of_lives(
        asset=np.repeat([name], 3),
        life=np.zeros(3, np.int64),
        cycle=np.arange(3),
        inputs=np.zeros((3, 1), np.float32),
        failed=np.ones(3, np.bool_),
        files={},
        groups={},
    )
    rul = np.array([len(name), 1, 0], np.float32)
    return gallery.Answers(bundle, full_windows(table, 1), rul, np.array([True, False, False]))


def test_folds_are_drawn_together_where_failures_are_told_ahead(tmp_path: Path) -> None:
    folds = [answers(tmp_path, name, DetectionSettings(horizon=1)) for name in ("a", "bb")]
    shown = gallery.together(folds)
    assert [asset for asset, _, _ in shown.windows.keys()] == ["a"] * 3 + ["bb"] * 3  # noqa: SIM118
    assert shown.rul.tolist() == [1, 1, 0, 2, 1, 0]
    assert shown.outside.tolist() == [True, False, False] * 2


def test_bundles_with_intervals_of_their_own_are_not_drawn_together(tmp_path: Path) -> None:
    folds = [answers(tmp_path, name, None) for name in ("a", "bb")]
    assert gallery.together(folds[:1]) is folds[0]
    with pytest.raises(ConfigError, match="2 bundles in one picture; expected one"):
        gallery.together(folds)
