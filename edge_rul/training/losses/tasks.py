"""The two tasks' errors, before any loss weighs them.

Owns the targets, the error of each task over a batch, the weights of samples, and what a loss has to offer. Must not
know how tasks are weighed against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 125.0  # every RUL is trained as rul / max_rul * SCALE, so that one recipe serves cycles, flights and seconds
SampleWeights = Literal["none", "amnl"]


class Targets(NamedTuple):
    """rul (B,) float32 on the training scale; is_lower_bound (B,) bool; health (B,) int64, -1 where unknown."""

    rul: Tensor
    is_lower_bound: Tensor
    health: Tensor


class Loss(nn.Module):
    """Weighs the tasks. Parameters of its own, if it has any, are trained with the network's."""

    def errors(self, rul: Tensor, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """(RUL error, class error), each (), of a batch's rul (B,) and logits (B, C)."""
        raise NotImplementedError

    def backward(self, rul_error: Tensor, class_error: Tensor, shared: Sequence[nn.Parameter]) -> dict[str, float]:
        """Add the weighed gradient to every parameter's `.grad`; answer what is worth logging, "loss" among it.

        shared: the backbone's parameters, for losses that weigh by the tasks' gradients there.
        """
        raise NotImplementedError


def rul_error(rul: Tensor, targets: Targets, sample_weights: SampleWeights) -> Tensor:
    """Mean of w * (rul - target)^2 over the batch: () from (B,).

    A target that is a lower bound costs nothing where the prediction lies above it. w is 1, or AMNL's
    1 + clip(1 - y / 125, 0, 1), which counts a window near the end of life up to twice (the reference book's AMNL;
    the mean is the plain one, not divided by the weights' sum).
    """
    residual = rul - targets.rul  # (B,)
    residual = residual.masked_fill(targets.is_lower_bound & (residual > 0), 0.0)  # (B,)
    squared = residual.square()  # (B,)
    if sample_weights == "amnl":
        squared = squared * (1 + (1 - targets.rul / SCALE).clamp(0, 1))  # (B,)
    return squared.mean()


def class_error(logits: Tensor, targets: Targets) -> Tensor:
    """Mean cross-entropy over the windows whose class is known: () from (B, C); 0 where none is."""
    known = (targets.health >= 0).sum().clamp(min=1)  # ()
    return F.cross_entropy(logits, targets.health, ignore_index=-1, reduction="sum") / known
