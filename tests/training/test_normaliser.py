"""How much each feature tells in each operating condition, found again in readings that were made so."""

from __future__ import annotations

import numpy as np
import pytest

from edge_rul.training.normaliser import BELIEF, NOISE, loadings

MADE = np.array([[0.9, 0.0, 0.3], [0.6, 0.8, 0.3], [-0.5, 0.8, 0.3]])  # (K, C)


def made(condition: np.ndarray, lives: int, random: np.random.Generator) -> np.ndarray:
    """(N, 3) readings of equally long lives: what lies behind a feature stays for a life, and noise is drawn anew."""
    behind = np.repeat(random.normal(size=(lives, 3)), len(condition) // lives, axis=0)  # (N, C)
    a = MADE[condition]  # (N, C)
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
