"""Small models that teach: what they see, what they answer, and what becomes of lives not seen to their end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_rul.errors import DataError
from edge_rul.training.losses.tasks import Targets
from edge_rul.training.teachers import (
    DistilSettings,
    PerceptronSettings,
    Teachers,
    TeacherSettings,
    TreeSettings,
    fold_of,
    lines_of,
)

KINDS: dict[str, TeacherSettings] = {
    "tree": TreeSettings(),
    "perceptron": PerceptronSettings(members=2, epochs=10),
    "deep perceptron": PerceptronSettings(members=2, depth=4, bottleneck=2, epochs=30, sample_weights="amnl"),
}


def windows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 8, 2) noisy lines, and the RUL that level and slope of the first feature give (N,)."""
    random = torch.Generator().manual_seed(seed)
    level, slope = torch.randn(2, count, 1, 2, generator=random)  # each (N, 1, 2)
    steps = torch.arange(8.0)[:, None] - 3.5  # (8, 1)
    x = level + slope * steps / 8 + 0.01 * torch.randn(count, 8, 2, generator=random)  # (N, 8, 2)
    return x, 60 - 15 * level[:, 0, 0] - 10 * slope[:, 0, 0]


ONE = ["one"] * 2000  # the asset of each window, where it does not matter


def taught(settings: DistilSettings, x: Tensor, targets: Targets, seed: int = 0) -> Teachers:
    return settings.fit(x, targets, ONE[: len(x)], seed)


def answers(teachers: Teachers, x: Tensor) -> Tensor:
    return teachers(x, torch.zeros(len(x), dtype=torch.int64))


def known(rul: Tensor) -> Targets:
    return Targets(rul, torch.zeros(len(rul), dtype=torch.bool), torch.zeros(len(rul), dtype=torch.int64))


def test_a_line_is_its_mean_and_its_slope() -> None:
    x = torch.stack([2 + 0.5 * torch.arange(5.0), torch.full((5,), 7.0)], dim=1)[None]  # (1, 5, 2)
    torch.testing.assert_close(lines_of(x), torch.tensor([[3.0, 7.0, 0.5, 0.0]]))
    torch.testing.assert_close(lines_of(x[:, :1]), torch.tensor([[2.0, 7.0, 0.0, 0.0]]))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_teacher_learns_what_level_and_slope_tell(settings: TeacherSettings) -> None:
    learnt, life = windows(2000, 0)
    teachers = taught(DistilSettings([settings]), learnt, known(life))
    x, rul = windows(500, 1)
    spread = float(rul.std())
    assert float((answers(teachers, x) - rul.clamp(0, 125)).square().mean().sqrt()) < 0.25 * spread


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_teachers_are_the_same_each_time_and_leave_torchs_generator_alone(settings: TeacherSettings) -> None:
    x, rul = windows(300, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = answers(taught(DistilSettings([settings]), x, known(rul), seed=1), x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(answers(taught(DistilSettings([settings]), x, known(rul), seed=1), x), first)


def test_a_bound_teaches_no_teacher_and_is_raised_to_its_answer() -> None:
    x, rul = windows(400, 0)
    bound = torch.arange(400) % 4 == 0  # (N,)
    labels = Targets(torch.where(bound, torch.tensor(3.0), rul), bound, torch.full((400,), -1))
    teachers = taught(DistilSettings([TreeSettings()]), x, labels)
    of_known = taught(DistilSettings([TreeSettings()]), x[~bound], known(rul[~bound]))
    assert torch.equal(answers(teachers, x), answers(of_known, x))

    low = Targets(torch.full((400,), 124.0), bound, labels.health)
    targets = teachers.targets(x, low, np.arange(400))
    assert torch.equal(targets.rul[bound], torch.full((100,), 124.0)), "a teacher cannot take life away"
    assert torch.equal(targets.rul[~bound], answers(teachers, x)[~bound])
    assert not targets.is_lower_bound.any() and torch.equal(targets.health, low.health)


def test_share_and_weights_mix_labels_and_teachers() -> None:
    x, rul = windows(300, 0)
    tree, perceptron, _ = KINDS.values()
    each = [answers(taught(DistilSettings([kind]), x, known(rul)), x) for kind in (tree, perceptron)]
    both = DistilSettings([TreeSettings(weight=3.0), PerceptronSettings(members=2, epochs=10)], share=0.5)
    mixed = taught(both, x, known(rul)).targets(x, known(rul), np.arange(300)).rul
    inside = (each[1] > 0) & (each[1] < 125)
    expected = 0.5 * rul + 0.5 * (0.75 * each[0] + 0.25 * each[1])
    torch.testing.assert_close(mixed[inside], expected[inside], rtol=1e-4, atol=1e-3)


def test_out_of_fold_no_teacher_answers_for_an_asset_that_it_has_seen() -> None:
    x, rul = windows(400, 0)
    assets = [f"engine-{i % 10}" for i in range(400)]
    settings = DistilSettings([PerceptronSettings(members=1, epochs=2)], folds=3)
    fold = fold_of(assets, 3, seed=2)
    assert sorted(fold[:10].bincount().tolist()) == [3, 3, 4], "dealt by asset, as evenly as they go"
    assert torch.equal(fold[:10].repeat(40), fold)

    teachers = settings.fit(x, known(rul), assets, seed=2)
    select = np.array([5, 3, 250])
    moved = x[select] + 0.5
    before = teachers.targets(moved, known(rul[select]), select).rul
    # Whatever the labels of their own fold are, the answers stay; those of another fold change them.
    own = fold == fold[5]
    for lied, changed in ((own, False), (~own, True)):
        others = settings.fit(x, known(torch.where(lied, 60.0, rul)), assets, seed=2)
        answer = others.targets(moved[:1], known(rul[select[:1]]), select[:1]).rul
        assert torch.equal(answer, before[:1]) != changed


def test_folds_need_assets_and_are_never_one() -> None:
    x, rul = windows(20, 0)
    with pytest.raises(DataError, match=r"2 assets to learn from: recipe\.distil\.folds is 3"):
        DistilSettings([TreeSettings()], folds=3).fit(x, known(rul), ["a", "b"] * 10, seed=0)
    with pytest.raises(ValueError, match="folds is 1, expected 0 for none, or at least 2"):
        DistilSettings([TreeSettings()], folds=1)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_teachers_need_windows_of_lives_that_failed(settings: TeacherSettings) -> None:
    x, rul = windows(20, 0)
    for failed in (0, 1):
        labels = Targets(rul, torch.arange(20) >= failed, torch.zeros(20, dtype=torch.int64))
        with pytest.raises(
            DataError, match=rf"recipe\.distil: there are {failed} windows of lives that failed.*least 2"
        ):
            taught(DistilSettings([settings]), x, labels)
    # Of two assets one has failed: the fold that leaves it out has no one to learn from.
    assets = ["watched", "failed"] * 10
    labels = Targets(rul, torch.tensor([a == "watched" for a in assets]), torch.zeros(20, dtype=torch.int64))
    with pytest.raises(DataError, match=r"fold \d leaves 0 windows of lives that failed"):
        DistilSettings([settings], folds=2).fit(x, labels, assets, seed=0)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_two_windows_of_known_rul_are_enough_for_a_teacher(settings: TeacherSettings) -> None:
    x, rul = windows(2, 0)
    assert answers(taught(DistilSettings([settings]), x, known(rul)), x).isfinite().all()


def test_a_teacher_that_learns_no_numbers_is_named() -> None:
    x, rul = windows(300, 0)
    wild = PerceptronSettings(members=1, epochs=3, learning_rate=1e30)
    with pytest.raises(DataError, match=r"recipe\.distil\.teachers\[1\]: its answers are not finite"):
        taught(DistilSettings([TreeSettings(), wild]), x, known(rul))


def test_each_model_is_told_as_it_is_fitted() -> None:
    x, rul = windows(60, 0)
    settings = DistilSettings([PerceptronSettings(members=2, epochs=1), TreeSettings()], folds=3)
    said: list[str] = []
    settings.fit(x, known(rul), [f"engine-{i % 6}" for i in range(60)], 0, said.append)
    assert said == [f"teacher {n} of 9 is fitted" for n in range(1, 10)] and settings.count == 9


def test_networks_of_one_number_begin_alike_in_two_entries() -> None:
    """So that two of one shape differ by what is set, and not by chance."""
    x, rul = windows(60, 0)
    begun: list[Tensor] = []
    init = torch.optim.AdamW.__init__

    def seeing(self: torch.optim.AdamW, params: Iterable[Tensor], **rest: float) -> None:
        own = list(params)
        begun.append(own[0].detach().clone())
        init(self, own, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "__init__", seeing)
        entries = [PerceptronSettings(members=2, epochs=1, sample_weights=w) for w in ("none", "amnl")]
        taught(DistilSettings([*entries]), x, known(rul))
    first, second, again, other = begun
    assert torch.equal(first, again) and torch.equal(second, other) and not torch.equal(first, second)


def test_a_pass_of_fewer_windows_takes_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: (taken.append(1), step(*a, **k))[1])
    x, rul = windows(300, 0)
    for drawn, steps in ((None, 9), (250, 6), (20, 3), (1000, 9)):
        perceptron = PerceptronSettings(members=1, epochs=3, batch=100, windows_per_epoch=drawn)
        taken.clear()
        taught(DistilSettings([perceptron]), x, known(rul))
        assert len(taken) == steps, drawn
