"""Small models that teach: what they see, what they answer, and what becomes of lives not seen to their end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edge_rul.training.losses.tasks import Targets
from edge_rul.training.teachers import DistilSettings, PerceptronSettings, TeacherSettings, TreeSettings, lines_of

KINDS: dict[str, TeacherSettings] = {"tree": TreeSettings(), "perceptron": PerceptronSettings(members=2, epochs=10)}


def windows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 8, 2) noisy lines, and the RUL that level and slope of the first feature give (N,)."""
    random = torch.Generator().manual_seed(seed)
    level, slope = torch.randn(2, count, 1, 2, generator=random)  # each (N, 1, 2)
    steps = torch.arange(8.0)[:, None] - 3.5  # (8, 1)
    x = level + slope * steps / 8 + 0.01 * torch.randn(count, 8, 2, generator=random)  # (N, 8, 2)
    return x, 60 - 15 * level[:, 0, 0] - 10 * slope[:, 0, 0]


def known(rul: Tensor) -> Targets:
    return Targets(rul, torch.zeros(len(rul), dtype=torch.bool), torch.zeros(len(rul), dtype=torch.int64))


def test_a_line_is_its_mean_and_its_slope() -> None:
    x = torch.stack([2 + 0.5 * torch.arange(5.0), torch.full((5,), 7.0)], dim=1)[None]  # (1, 5, 2)
    torch.testing.assert_close(lines_of(x), torch.tensor([[3.0, 7.0, 0.5, 0.0]]))
    torch.testing.assert_close(lines_of(x[:, :1]), torch.tensor([[2.0, 7.0, 0.0, 0.0]]))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_teacher_learns_what_level_and_slope_tell(settings: TeacherSettings) -> None:
    learnt, life = windows(2000, 0)
    teachers = DistilSettings([settings]).fit(learnt, known(life), seed=0)
    x, rul = windows(500, 1)
    spread = float(rul.std())
    assert float((teachers(x) - rul.clamp(0, 125)).square().mean().sqrt()) < 0.25 * spread


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_teachers_are_the_same_each_time_and_leave_torchs_generator_alone(settings: TeacherSettings) -> None:
    x, rul = windows(300, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = DistilSettings([settings]).fit(x, known(rul), seed=1)(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(DistilSettings([settings]).fit(x, known(rul), seed=1)(x), first)


def test_a_bound_teaches_no_teacher_and_is_raised_to_its_answer() -> None:
    x, rul = windows(400, 0)
    bound = torch.arange(400) % 4 == 0  # (N,)
    labels = Targets(torch.where(bound, torch.tensor(3.0), rul), bound, torch.full((400,), -1))
    teachers = DistilSettings([TreeSettings()]).fit(x, labels, seed=0)
    assert torch.equal(teachers(x), DistilSettings([TreeSettings()]).fit(x[~bound], known(rul[~bound]), seed=0)(x))

    low = Targets(torch.full((400,), 124.0), bound, labels.health)
    taught = teachers.targets(x, low)
    assert torch.equal(taught.rul[bound], torch.full((100,), 124.0)), "a teacher cannot take life away"
    assert torch.equal(taught.rul[~bound], teachers(x)[~bound])
    assert not taught.is_lower_bound.any() and torch.equal(taught.health, low.health)


def test_share_and_weights_mix_labels_and_teachers() -> None:
    x, rul = windows(300, 0)
    tree, perceptron = KINDS.values()
    answers = [DistilSettings([kind]).fit(x, known(rul), seed=0)(x) for kind in (tree, perceptron)]
    both = DistilSettings([TreeSettings(weight=3.0), PerceptronSettings(members=2, epochs=10)], share=0.5)
    mixed = both.fit(x, known(rul), seed=0).targets(x, known(rul)).rul
    inside = (answers[1] > 0) & (answers[1] < 125)
    expected = 0.5 * rul + 0.5 * (0.75 * answers[0] + 0.25 * answers[1])
    torch.testing.assert_close(mixed[inside], expected[inside], rtol=1e-4, atol=1e-3)
