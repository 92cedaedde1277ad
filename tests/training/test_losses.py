"""The losses against cases computed by hand."""

from __future__ import annotations

from math import log
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.fit import by_task
from edge_rul.training.losses import LossSettings
from edge_rul.training.losses.tasks import Loss, Parameters, Targets, class_error, rul_error

NAMES = ("fixed", "uncertainty", "amnl", "gaba", "grace", "gradnorm")


def build(name: str, **settings: Any) -> Loss:
    chosen: Any = msgspec.convert({"name": name, **settings}, LossSettings)
    loss: Loss = chosen.build()
    return loss


def targets(rul: list[float], bound: list[bool] | None = None, health: list[int] | None = None) -> Targets:
    n = len(rul)
    return Targets(torch.tensor(rul), torch.tensor(bound or [False] * n), torch.tensor(health or [0] * n))


class Toy:
    """A shared parameter of two numbers and a head of one for each task; errors that are linear in them.

    rul = 3 a0 + 4 a1 + b, class = 6 a0 + 8 a1 + 2 c: gradients of norm 5 and 10 on the shared (a0, a1).
    """

    def __init__(self) -> None:
        self.a = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.b, self.c = nn.Parameter(torch.tensor(13.0)), nn.Parameter(torch.tensor(-2.0))
        self.parameters = Parameters([self.a], [self.b], [self.c])

    def step(self, loss: Loss, *, measure: bool = False, factors: tuple[float, float] = (1, 1)) -> dict[str, float]:
        """One backward pass from rul error 20 and class error 10, each times its factor."""
        for p in (self.a, self.b, self.c, *loss.parameters()):
            p.grad = None
        rul = factors[0] * (self.a @ torch.tensor([3.0, 4.0]) + self.b)  # 20
        health = factors[1] * (self.a @ torch.tensor([6.0, 8.0]) + 2 * self.c)  # 10
        return loss.backward(rul, health, self.parameters, measure=measure)

    def gradients(self) -> list[float]:
        """Of a0, a1, b, c."""
        assert self.a.grad is not None and self.b.grad is not None and self.c.grad is not None
        return [*self.a.grad.tolist(), self.b.grad.item(), self.c.grad.item()]


def test_squared_error_and_amnl_weights() -> None:
    predicted, wanted = torch.tensor([120.0, 60.0, 4.0]), targets([125.0, 62.5, 0.0])
    assert rul_error(predicted, wanted, "none").item() == pytest.approx((25 + 6.25 + 16) / 3)
    # w = 1 + clip(1 - y / 125, 0, 1): 1, 1.5, 2; the plain mean, not divided by their sum.
    assert rul_error(predicted, wanted, "amnl").item() == pytest.approx((25 + 1.5 * 6.25 + 2 * 16) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_respects_lower_bounds_and_unknown_classes(name: str) -> None:
    """Above its bound a prediction costs nothing and is not pulled; a class of -1 teaches nothing."""
    rul = torch.tensor([40.0, 90.0, 60.0], requires_grad=True)
    logits = torch.zeros(3, 3, requires_grad=True)
    wanted = targets([125.0, 50.0, 62.0], [False, True, True], [0, -1, 2])
    errors = build(name).errors(rul, logits, wanted)
    by_rul = torch.autograd.grad(errors[0], rul)[0]
    by_logits = torch.autograd.grad(errors[1], logits)[0]
    assert by_rul[1] == 0
    assert (by_rul[[0, 2]] < 0).all()  # both below what they should be
    assert (by_logits[1] == 0).all()
    assert (by_logits[[0, 2]] != 0).all()
    assert errors[1].item() == pytest.approx(log(3))


def test_a_lower_bound_costs_only_below_it() -> None:
    wanted = targets([50.0, 50.0], bound=[True, True])
    assert rul_error(torch.tensor([40.0, 90.0]), wanted, "none").item() == pytest.approx(100 / 2)


def test_unknown_classes_do_not_count() -> None:
    logits = torch.zeros(3, 3)
    assert class_error(logits, targets([1.0] * 3, health=[0, -1, 2])).item() == pytest.approx(log(3))
    assert class_error(logits, targets([1.0] * 3, health=[-1, -1, -1])).item() == 0


def test_fixed_weights() -> None:
    toy = Toy()
    figures = toy.step(build("fixed", class_weight=0.1))
    assert figures == pytest.approx(
        {"loss": 21, "rul_error": 20, "class_error": 10, "rul_weight": 1, "class_weight": 0.1}
    )
    assert toy.gradients() == pytest.approx([3.6, 4.8, 1, 0.2])


def test_uncertainty_by_hand() -> None:
    """exp(-s) L + s, with the gradient 1 - exp(-s) L for s."""
    toy, loss = Toy(), build("uncertainty", rul_start=log(4), class_start=0.0)
    figures = toy.step(loss)
    assert figures["loss"] == pytest.approx(20 / 4 + log(4) + 10)
    assert (figures["rul_weight"], figures["class_weight"]) == (pytest.approx(1 / 4), 1)
    assert toy.gradients() == pytest.approx([3 / 4 + 6, 1 + 8, 1 / 4, 2])
    assert loss.s.grad.tolist() == pytest.approx([1 - 20 / 4, 1 - 10])  # type: ignore[union-attr]


def test_amnl_by_hand() -> None:
    toy = Toy()
    plain = toy.step(build("amnl", normalise=False))
    assert (plain["loss"], plain["rul_weight"]) == (pytest.approx(15), 0.5)
    loss = build("amnl", normalise=True)
    first = toy.step(loss)  # the average is the error itself
    assert (first["loss"], first["rul_weight"], first["class_weight"]) == pytest.approx((1, 0.5 / 20, 0.5 / 10))
    second = toy.step(loss, factors=(0.5, 1))
    # a = 0.99 * 0.01 * 20 + 0.01 * 10 = 0.298, and 1 - 0.99^2 = 0.0199
    level = 0.298 / 0.0199
    assert second["rul_weight"] == pytest.approx(0.5 / level, rel=1e-5)
    assert second["loss"] == pytest.approx(0.5 * 10 / level + 0.5, rel=1e-5)
    # The average is a constant to the gradient: b's is weight times 0.5.
    assert toy.gradients()[2] == pytest.approx(0.5 * 0.5 / level, rel=1e-5)


@pytest.mark.parametrize("name", ["gaba", "grace"])
def test_gaba_by_hand(name: str) -> None:
    """Norms 5 and 10: the targets are the other's share, 2/3 and 1/3."""
    toy, loss = Toy(), build(name, beta=0.5, warm_up=1, floor=0.4)
    first = toy.step(loss)  # warm-up: equal weights, while the average already moves to 1/2 + (2/3 - 1/2) / 2
    assert (first["rul_weight"], first["class_weight"]) == (0.5, 0.5)
    assert (first["rul_norm"], first["class_norm"]) == pytest.approx((5, 10))
    assert toy.gradients() == pytest.approx([4.5, 6, 0.5, 1])
    second = toy.step(loss)  # 0.625 and 0.375, raised to the floor of 0.4, over their sum of 1.025
    assert second["rul_weight"] == pytest.approx(0.625 / 1.025)
    assert second["class_weight"] == pytest.approx(0.4 / 1.025)
    assert second["loss"] == pytest.approx((0.625 * 20 + 0.4 * 10) / 1.025)
    assert toy.gradients() == pytest.approx(
        [(0.625 * 3 + 0.4 * 6) / 1.025, (0.625 * 4 + 0.4 * 8) / 1.025, 0.625 / 1.025, 2 * 0.4 / 1.025]
    )
    assert loss.sample_weights == ("amnl" if name == "grace" else "none")


def test_gaba_keeps_its_weights_where_no_task_has_a_gradient() -> None:
    toy, loss = Toy(), build("gaba", warm_up=0)
    figures = toy.step(loss, factors=(0, 0))
    assert (figures["rul_weight"], figures["class_weight"]) == (0.5, 0.5)
    assert toy.gradients() == [0, 0, 0, 0]


def test_gradnorm_by_hand() -> None:
    toy, loss = Toy(), build("gradnorm", alpha=1.0)
    first = toy.step(loss)
    # Weights 1: norms 5 and 10, mean 7.5, both at their first error: |5 - 7.5| + |10 - 7.5|.
    assert first["loss"] == pytest.approx(20 + 10 + 5)
    assert (first["rul_weight"], first["class_weight"]) == (1, 1)
    assert loss.weights.grad.tolist() == [-5, 10]  # type: ignore[union-attr]  # up for RUL, down for the class
    with torch.no_grad():
        loss.weights.copy_(torch.tensor([3.0, 1.0]))  # scaled to 1.5 and 0.5 before the step
    second = toy.step(loss, factors=(0.5, 1))
    # Norms 2.5 and 10, weighed 3.75 and 5, mean 4.375; ratios 1/2 and 1 over 3/4: targets 2.9167 and 5.8333.
    assert (second["rul_weight"], second["class_weight"]) == (1.5, 0.5)
    assert second["loss"] == pytest.approx(1.5 * 10 + 0.5 * 10 + (3.75 - 4.375 * 2 / 3) + (4.375 * 4 / 3 - 5))
    assert loss.weights.grad.tolist() == [2.5, -10]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_measuring_the_norms_changes_nothing_but_the_log(name: str) -> None:
    """On the real network: two passes added up give the gradient of one pass through the weighed sum."""
    torch.manual_seed(0)
    model = DualTaskModel(4, 8, 2, 8, 3).eval()
    model.rul_head.set_final_bias(60.0)
    x, wanted = torch.randn(6, 10, 4), targets([50.0, 20.0, 90.0, 100.0, 3.0, 70.0], health=[1, 2, 0, 0, 2, -1])

    def gradients(measure: bool) -> tuple[dict[str, float], list[Tensor]]:
        model.zero_grad()
        loss = build(name)
        figures = loss.backward(*loss.errors(*model.forward_last(x), wanted), by_task(model), measure=measure)
        return figures, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    measured, one = gradients(True)
    plain, other = gradients(False)
    assert len(one) == len(other) == len(list(model.parameters()))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert {k: v for k, v in measured.items() if k in plain} == pytest.approx(plain)
    # The norms are those of the shared parameters alone, each task's own.
    model.zero_grad()
    rul = build(name).errors(*model.forward_last(x), wanted)[0]
    shared = torch.cat([g.flatten() for g in torch.autograd.grad(rul, by_task(model).shared)])
    assert measured["rul_norm"] == pytest.approx(shared.norm().item(), rel=1e-4)
    weights = torch.tensor([measured["rul_weight"], measured["class_weight"]])
    assert torch.isfinite(weights).all() and (weights > 0).all()


def test_another_name_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.convert({"name": "fixde"}, LossSettings)
