"""A small run-to-failure data set in C-MAPSS's format, and a tiny model's configuration for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_rul.training.cmapss import COLUMNS
from edge_rul.training.settings import TrainingSettings, load_settings

CONFIG = """
name: tiny
description: synthetic engines
dataset: {format: cmapss, subset: FD001}
inputs: [{name: T24, unit: °R}, {name: T30, unit: °R}, {name: Ps30, unit: psia}, {name: P2, unit: psia}]
window: 10
rul: {unit: cycles, max: 40}
classes: [{name: healthy, above: 25}, {name: degrading, above: 10}, {name: critical}]
calibration: {share: 0.25, seed: 3}
model: {lstm_hidden: 8, num_heads: 2, shared_dim: 8}
loss: {name: fixed, class_weight: 1.0, sample_weights: amnl}
recipe:
  epochs: 2
  batch: 32
  optimiser: {name: adamw}
  schedule: {name: onecycle, learning_rate: 0.005}
  average: {name: ema, decay: 0.9}
  augment: {noise: 0.2, offset: 0.15, sensor_dropout: 0.1}
"""
LIVES = (48, 61, 40, 55, 37, 66, 52, 45)
TEST_LIVES = ((30, 12), (7, 40), (21, 0))  # rows seen, RUL after the last; the second is shorter than the window


def readings(unit: int, rows: int, life: int, random: np.random.Generator) -> list[str]:
    """Lines of one engine whose sensors drift as it wears; P2 (column 7 of the 26 numbers, from 0) never moves."""
    wear = np.linspace(0, rows / life, rows)[:, None] ** 2  # (rows, 1)
    values = 500 + 10 * wear + random.normal(0, 1, (rows, len(COLUMNS)))  # (rows, 24)
    values[:, COLUMNS.index("P2")] = 14.62
    return [
        f"{unit} {cycle} " + " ".join(f"{v:.4f}" for v in row) + "  " for cycle, row in enumerate(values.tolist(), 1)
    ]


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A directory with train_, test_ and RUL_FD001.txt of a few synthetic engines, for the test to alter."""
    return make_engines(tmp_path / "engines")


@pytest.fixture(scope="module")
def same_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for reading only."""
    return make_engines(tmp_path_factory.mktemp("data") / "engines")


def make_engines(directory: Path) -> Path:
    directory.mkdir()
    random = np.random.default_rng(0)
    train = [line for unit, life in enumerate(LIVES, 1) for line in readings(unit, life, life, random)]
    test = [
        line for unit, (seen, left) in enumerate(TEST_LIVES, 1) for line in readings(unit, seen, seen + left, random)
    ]
    (directory / "train_FD001.txt").write_text("\n".join(train) + "\n")
    (directory / "test_FD001.txt").write_text("\n".join(test) + "\n")
    (directory / "RUL_FD001.txt").write_text("".join(f"{left} \n" for _, left in TEST_LIVES))
    return directory


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def settings(config: Path) -> TrainingSettings:
    return load_settings(config)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Training asks torch for determinism; other tests find it as it was."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it costs seconds the first time
        torch.use_deterministic_algorithms(deterministic)
