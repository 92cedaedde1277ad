"""Health classes that the data names, such as the race of a bearing that is damaged: from a column to the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_rul import bundle as bundles
from edge_rul.errors import ConfigError, DataError
from edge_rul.training import lives
from edge_rul.training.commands import train_command
from edge_rul.training.report import evaluate
from edge_rul.training.report_text import as_text
from edge_rul.training.settings import load_settings
from edge_rul.training.windows import UNKNOWN, full_windows, labels

WINDOW = 4
CONFIG = """
name: bearings
description: synthetic bearings with labels
dataset:
  {format: table, file: bearings.csv, asset: bearing, cycle: n, health: race, split: {by: assets, test: [B6, B7]}}
inputs: [{name: h, unit: g}, {name: v, unit: g}]
window: 4
rul: {unit: cycles, max: 20}
classes: [{name: OK}, {name: inner race}, {name: outer race}]
calibration: {share: 0.34, seed: 0}
model: {lstm_hidden: 8, num_heads: 2, shared_dim: 8, dropout: 0.0}
loss: {name: fixed, class_weight: 100.0}
recipe:
  epochs: 12
  batch: 16
  optimiser: {name: adamw}
  average: {name: ema, decay: 0.5}
  schedule: {name: onecycle, learning_rate: 0.01}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Eight bearings of 30 snapshots. From 15 on the inner race shows in h or the outer one in v; 15 has no label."""
    random, rows = np.random.default_rng(0), ["bearing,n,h,v,race"]
    for b in range(8):
        for n in range(30):
            damage = np.array([b % 2, 1 - b % 2]) * 5.0 * (n >= 15) + random.normal(0, 0.1, 2)  # (2,) h, v
            race = "OK" if n < 15 else "" if n == 15 else ("outer race", "inner race")[b % 2]
            rows.append(f"B{b},{n},{damage[0]:.3f},{damage[1]:.3f},{race}")
    (tmp_path / "bearings.csv").write_text("\n".join(rows))
    path = tmp_path / "bearings.yaml"
    path.write_text(CONFIG)
    return path


def test_a_model_learns_classes_that_the_data_names(config: Path) -> None:
    assert train_command(config, config.parent, config.parent / "bundle") == 0
    bundle = bundles.load(config.parent / "bundle")
    assert [(c.name, c.above) for c in bundle.manifest.classes] == [
        (n, None) for n in ("OK", "inner race", "outer race")
    ]
    report = evaluate(bundle, config.parent)
    assert report.test is not None and (report.accuracy or 0) > 0.9
    # Of B6 and B7, 27 windows each, and one of them without a label.
    assert np.sum(report.test.confusion, axis=1).tolist() == [24, 14, 14]
    # A RUL names no race, and no limit of it warns.
    assert [s.macro_f1 for s in report.test.trees.values()] == [None, None]
    assert report.lead_time is None
    assert "macro F1" in as_text(report)


def test_a_label_is_that_of_a_windows_last_reading(config: Path) -> None:
    settings = load_settings(config)
    windows = full_windows(lives.read(settings, config.parent).every, WINDOW)
    health = labels(windows, 20, settings.classes).health[windows.table.asset[windows.last] == "B1"]
    assert health.tolist() == [0] * 12 + [UNKNOWN] + [1] * 14


def test_a_name_that_is_no_class_is_told_with_its_place(config: Path) -> None:
    table = config.parent / "bearings.csv"
    table.write_text(table.read_text().replace("inner race", "cage", 1))
    settings = load_settings(config)
    windows = full_windows(lives.read(settings, config.parent).every, WINDOW)
    with pytest.raises(DataError, match=r"cycle 16 of B1: its health is 'cage', expected one of OK, inner race, outer"):
        labels(windows, 20, settings.classes)


def test_a_limit_beside_a_name_is_refused(config: Path) -> None:
    config.write_text(config.read_text().replace("{name: OK}", "{name: OK, above: 15}"))
    with pytest.raises(ConfigError, match=r"expected no limits where dataset\.health names the class"):
        load_settings(config)
