"""The two tasks' errors, and how a loss turns them into one gradient.

Owns the targets, the error of each task over a batch, the weights of samples, the tasks' gradient norms on the shared
backbone, and what a loss has to say. Must not know how any one loss weighs the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 125.0  # every RUL is trained as rul / max_rul * SCALE, so that one recipe serves cycles, flights and seconds
SampleWeights = Literal["none", "amnl"]


class Targets(NamedTuple):
    """rul (B,) float32 on the training scale; is_lower_bound (B,) bool; health (B,) int64, -1 where unknown."""

    rul: Tensor
    is_lower_bound: Tensor
    health: Tensor


class Parameters(NamedTuple):
    """A network's parameters by who trains them: shared by both tasks, the RUL head's, the health head's."""

    shared: Sequence[nn.Parameter]
    rul_head: Sequence[nn.Parameter]
    health_head: Sequence[nn.Parameter]


class Loss(nn.Module):
    """Weighs the two tasks. Its own parameters, if it has any, are trained with the network's; buffers are its state.

    needs_norms:    whether `combine` wants the tasks' gradient norms at every step
    sample_weights: of the windows within the RUL error, see `rul_error`
    """

    needs_norms = False

    def __init__(self, sample_weights: SampleWeights = "none") -> None:
        super().__init__()
        self.sample_weights: SampleWeights = sample_weights

    def errors(self, rul: Tensor, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """(RUL error, class error), each (), of a batch's rul (B,) and logits (B, C)."""
        return rul_error(rul, targets, self.sample_weights), class_error(logits, targets)

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        """The loss () of the errors (2,), RUL first. norms (2,): of each error's gradient on the shared parameters.

        Called once a step. The task weights are the derivatives by the errors: what the weights are made of, but for
        the loss's own parameters, has to be detached.
        """
        raise NotImplementedError

    def backward(
        self, rul_error: Tensor, class_error: Tensor, parameters: Parameters, *, measure: bool = False
    ) -> dict[str, float]:
        """Put the weighed gradient into every parameter's `.grad`; answer what is worth logging.

        That is loss, rul_error, class_error, rul_weight, class_weight, and rul_norm and class_norm where the loss
        needs them or they are to be measured. The weights come from the errors as numbers of their own, so that the
        network is walked backwards once, or once a task where norms are wanted: their gradients are then added up,
        and there is neither a second graph nor a third pass.
        """
        by_task: list[tuple[Tensor, ...]] = []
        norms = None
        if self.needs_norms or measure:
            shared = len(parameters.shared)
            for error, head, keep in (
                (rul_error, parameters.rul_head, True),
                (class_error, parameters.health_head, False),
            ):
                by_task.append(
                    torch.autograd.grad(error, [*parameters.shared, *head], retain_graph=keep, materialize_grads=True)
                )
            norms = torch.stack([nn.utils.get_total_norm(g[:shared]) for g in by_task])  # (2,)

        errors = torch.stack([rul_error.detach(), class_error.detach()]).requires_grad_()  # (2,)
        loss = self.combine(errors, norms)  # ()
        loss.backward()  # type: ignore[no-untyped-call]
        weights = errors.grad
        assert weights is not None
        if by_task:
            _add_up(parameters, by_task, weights)
        else:
            torch.autograd.backward([rul_error, class_error], [weights[0], weights[1]])
        names = ("loss", "rul_error", "class_error", "rul_weight", "class_weight", "rul_norm", "class_norm")
        values = [loss.detach()[None], errors.detach(), weights, *([] if norms is None else [norms])]
        return dict(zip(names, torch.cat(values).tolist(), strict=False))


def _add_up(parameters: Parameters, by_task: Sequence[Sequence[Tensor]], weights: Tensor) -> None:
    """Weight times gradient, summed over the tasks on the shared parameters, into `.grad`."""
    shared = len(parameters.shared)
    for i, parameter in enumerate(parameters.shared):
        _accumulate(parameter, weights[0] * by_task[0][i] + weights[1] * by_task[1][i])
    for weight, gradients, head in zip(weights, by_task, (parameters.rul_head, parameters.health_head), strict=True):
        for parameter, gradient in zip(head, gradients[shared:], strict=True):
            _accumulate(parameter, weight * gradient)


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def rul_error(rul: Tensor, targets: Targets, sample_weights: SampleWeights) -> Tensor:
    """Mean of w * (rul - target)^2 over the batch: () from (B,).

    A target that is a lower bound costs nothing where the prediction lies above it. w is 1, or AMNL's
    1 + clip(1 - y / 125, 0, 1), which counts a window near the end of life up to twice (the reference book's AMNL;
    the mean is the plain one, not divided by the weights' sum).
    """
    residual = rul - targets.rul  # (B,)
    residual = residual.masked_fill(targets.is_lower_bound & (residual > 0), 0.0)  # (B,)
    return weighed(residual.square(), targets.rul, sample_weights).mean()


def weighed(squared: Tensor, rul: Tensor, sample_weights: SampleWeights) -> Tensor:
    """Squared residuals times w of their targets: (..., B) of (..., B)."""
    return squared * (1 + (1 - rul / SCALE).clamp(0, 1)) if sample_weights == "amnl" else squared


def class_error(logits: Tensor, targets: Targets) -> Tensor:
    """Mean cross-entropy over the windows whose class is known: () from (B, C); 0 where none is."""
    known = (targets.health >= 0).sum().clamp(min=1)  # ()
    return F.cross_entropy(logits, targets.health, ignore_index=-1, reduction="sum") / known
