"""The losses against cases computed by hand."""

from __future__ import annotations

from math import log

import msgspec
import pytest
import torch
from torch import nn

from edge_rul.training.losses import LossSettings
from edge_rul.training.losses.tasks import Targets, class_error, rul_error


def targets(rul: list[float], bound: list[bool] | None = None, health: list[int] | None = None) -> Targets:
    n = len(rul)
    return Targets(torch.tensor(rul), torch.tensor(bound or [False] * n), torch.tensor(health or [0] * n))


def test_squared_error_and_amnl_weights() -> None:
    predicted, wanted = torch.tensor([120.0, 60.0, 4.0]), targets([125.0, 62.5, 0.0])
    assert rul_error(predicted, wanted, "none").item() == pytest.approx((25 + 6.25 + 16) / 3)
    # w = 1 + clip(1 - y / 125, 0, 1): 1, 1.5, 2; the plain mean, not divided by their sum.
    assert rul_error(predicted, wanted, "amnl").item() == pytest.approx((25 + 1.5 * 6.25 + 2 * 16) / 3)


def test_a_lower_bound_costs_only_below_it() -> None:
    wanted = targets([50.0, 50.0], bound=[True, True])
    assert rul_error(torch.tensor([40.0, 90.0]), wanted, "none").item() == pytest.approx(100 / 2)


def test_unknown_classes_do_not_count() -> None:
    logits = torch.zeros(3, 3)
    assert class_error(logits, targets([1.0] * 3, health=[0, -1, 2])).item() == pytest.approx(log(3))
    assert class_error(logits, targets([1.0] * 3, health=[-1, -1, -1])).item() == 0


def test_fixed_weights() -> None:
    loss = msgspec.convert({"name": "fixed", "class_weight": 0.1}, LossSettings).build()
    a, b = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(5.0))
    figures = loss.backward(a**2, b * 2, [])
    assert figures == {"loss": pytest.approx(9 + 0.1 * 10), "rul_error": 9, "class_error": 10}
    assert a.grad is not None and b.grad is not None
    assert (a.grad.item(), b.grad.item()) == (6, pytest.approx(0.2))


def test_another_name_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.convert({"name": "fixde"}, LossSettings)
