"""How much each feature tells in each operating condition, found again in readings that were made so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_rul.core.normalise import Conditions
from edge_rul.training.normaliser import BELIEF, NOISE, ConditionSettings, fit_normaliser, loadings
from edge_rul.training.prepared import fit_transform
from edge_rul.training.settings import load_settings
from edge_rul.training.table import Table

MADE = np.array([[0.9, 0.0, 0.3], [0.6, 0.8, 0.3], [-0.5, 0.8, 0.3]])  # (K, C)


def made(condition: np.ndarray, lives: int, random: np.random.Generator, by: np.ndarray = MADE) -> np.ndarray:
    """(N, C) readings of equally long lives: what lies behind a feature stays for a life, and noise is drawn anew."""
    behind = np.repeat(random.normal(size=(lives, by.shape[1])), len(condition) // lives, axis=0)  # (N, C)
    a = by[condition]  # (N, C)
    noise = random.normal(size=a.shape) * np.sqrt(1 - a**2)
    return (a * behind + noise).astype(np.float32)


def follows(lives: int, length: int) -> np.ndarray:
    return np.arange(lives * length) % length > 0


def test_loadings_are_found_again() -> None:
    random = np.random.default_rng(0)
    condition = random.integers(0, 3, 2000 * 20)
    found = loadings(made(condition, 2000, random), condition, follows(2000, 20), 3)
    np.testing.assert_allclose(found, MADE, atol=0.04)


def test_where_no_life_changes_its_condition_each_tells_by_itself() -> None:
    """But for the sign, which then nothing shows."""
    random = np.random.default_rng(0)
    condition = np.repeat(np.arange(3000) % 3, 20)
    found = loadings(made(condition, 3000, random), condition, follows(3000, 20), 3)
    np.testing.assert_allclose(found, np.abs(MADE), atol=0.1)


@pytest.mark.parametrize("opposed", [[0.9, -0.9], [0.9, 0.9, -0.9, -0.9], [0.9, 0.9, 0.9, -0.8, -0.8, -0.8]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_conditions_may_tell_opposite_things(opposed: list[float], seed: int) -> None:
    """As many as do not, so that all together tell nothing."""
    random = np.random.default_rng(seed)
    by = np.array(opposed)[:, None]  # (K, 1)
    condition = random.integers(0, len(by), 2000 * 20)
    found = loadings(made(condition, 2000, random, by), condition, follows(2000, 20), len(by))
    np.testing.assert_allclose(found * np.sign(found[0]), by, atol=0.05)


def test_one_condition_is_one() -> None:
    random = np.random.default_rng(0)
    condition = np.ones(2000 * 20, np.int64)
    found = loadings(made(condition, 2000, random), np.zeros_like(condition), follows(2000, 20), 1)
    np.testing.assert_allclose(found, MADE[1:2], atol=0.03)


def test_a_condition_that_was_hardly_seen_tells_what_all_do() -> None:
    random = np.random.default_rng(0)
    condition = np.r_[np.ones(2000 * 20 - 1, np.int64), 0]  # one reading, at the end of a life
    z = made(condition, 2000, random)
    found = loadings(z, condition, follows(2000, 20), 3)
    np.testing.assert_allclose(found[2], found[1], atol=0.005, err_msg="of which there is none")
    moved = np.abs(found[0] - found[1])  # by the one pair against BELIEF others
    assert (moved < np.abs(z[-2] * z[-1] - found[1] ** 2) / (BELIEF * found[1])).all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_feature_without_noise_or_without_anything(level: float) -> None:
    random = np.random.default_rng(0)
    z = np.full((400, 1), level, np.float32) * np.repeat(random.choice([-1.0, 1.0], 20), 20)[:, None]
    found = loadings(z.astype(np.float32), np.arange(400) % 2, follows(20, 20), 2)
    np.testing.assert_allclose(found, level * np.sqrt(1 - NOISE), rtol=1e-12)


def test_lives_of_one_reading_tell_nothing() -> None:
    found = loadings(np.ones((5, 2), np.float32), np.zeros(5, np.int64), np.zeros(5, np.bool_), 1)
    assert not found.any()


def settings_of(condition: np.ndarray) -> np.ndarray:
    return condition[:, None].astype(np.float32) * 10


def test_what_is_constant_in_a_condition_tells_nothing_there() -> None:
    random = np.random.default_rng(0)
    condition = random.integers(0, 2, 400 * 20)
    raw = made(condition, 400, random, np.array([[0.9], [0.9]]))
    raw[condition == 1] = 7
    chosen = ConditionSettings(by=["s"], count=2, loadings=True)
    found = fit_normaliser(chosen, raw, settings_of(condition), follows(400, 20), 0)
    assert isinstance(found, Conditions)
    assert found.loading is not None
    assert found.loading[0][0] > 0.5
    assert found.loading[1] == [0.0]


def test_a_value_that_is_held_is_no_second_witness(config: Path) -> None:
    """Noise that is held half of the time lasts, and yet tells nothing."""
    random = np.random.default_rng(0)
    n, held = 400 * 20, random.random(400 * 20) < 0.5
    raw = random.normal(size=(n, 4)).astype(np.float32)
    raw[:, 3] = random.integers(0, 2, n) * 10  # P2, by which the conditions are told
    for row in np.flatnonzero(held & follows(400, 20)):
        raw[row, 0] = raw[row - 1, 0]
    config.write_text(
        config.read_text()
        + "normaliser: {kind: conditions, by: [P2], count: 2, loadings: true}\nsmooth: {kind: line}\n"
    )
    table = Table(
        asset=np.repeat(np.arange(400), 20).astype(np.str_),
        life=np.zeros(n, np.int64),
        cycle=np.tile(np.arange(20), 400),
        inputs=raw,
        rul=np.zeros(n, np.float32),
        is_lower_bound=np.zeros(n, np.bool_),
        files={},
        held=np.stack([held & follows(400, 20)] + [np.zeros(n, np.bool_)] * 3, axis=1),
    )
    found = fit_transform(table, load_settings(config)).normaliser
    assert isinstance(found, Conditions)
    assert found.loading is not None
    assert np.abs(found.loading).max() < 0.2
