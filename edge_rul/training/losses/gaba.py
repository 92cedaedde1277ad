"""GABA and GRACE: the task that pulls the shared backbone harder gets the smaller weight.

Owns the weights by gradient norms of the reference book. Knows the tasks' errors and their norms.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from edge_rul.training.losses.tasks import Loss, SampleWeights


class GabaSettings(msgspec.Struct, frozen=True, tag="gaba", tag_field="name", forbid_unknown_fields=True):
    """beta: of the weights' moving average. warm_up: steps with equal weights. floor: least weight, before both are
    divided by their sum. Costs two backward passes a step."""

    beta: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    warm_up: Annotated[int, Meta(ge=0)] = 100
    floor: Annotated[float, Meta(ge=0, lt=0.5)] = 0.05

    def build(self) -> Loss:
        return Gaba(self, "none")


class GraceSettings(GabaSettings, frozen=True, tag="grace", tag_field="name", forbid_unknown_fields=True):
    """GRACE: AMNL's sample weights inside, GABA's task weights outside. Settings as GABA's."""

    def build(self) -> Loss:
        return Gaba(self, "amnl")


class Gaba(Loss):
    """loss = sum over the K = 2 tasks of lambda_i * E_i.

    With g_i the norm of task i's gradient on the shared parameters and S their sum, the target is
    (S - g_i) / ((K - 1) * S): the other task's share. lambda_i follows it, lambda_i = beta * lambda_i + (1 - beta) *
    target, from 1/2; it is used after `warm_up` steps, not below `floor`, and the two are divided by their sum.
    """

    needs_norms = True
    average: Tensor
    steps: Tensor

    def __init__(self, settings: GabaSettings, sample_weights: SampleWeights) -> None:
        super().__init__(sample_weights)
        self.settings = settings
        self.register_buffer("average", torch.full((2,), 0.5))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        assert norms is not None
        total = norms.sum()  # ()
        if total > 0:  # two gradients of 0 say nothing
            self.average.lerp_(norms.flip(0) / total, 1 - self.settings.beta)  # (2,)
        self.steps += 1
        if self.steps <= self.settings.warm_up:
            return 0.5 * errors.sum()
        weights = self.average.clamp(min=self.settings.floor)  # (2,)
        return (weights / weights.sum() * errors).sum()
