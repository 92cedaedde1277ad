"""GradNorm: weights that let both tasks learn at the same relative rate.

Owns the auxiliary loss of Chen, Badrinarayanan, Lee and Rabinovich: GradNorm, ICML 2018 (arXiv 1711.02257). Knows the
tasks' errors and their norms.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from edge_rul.training.losses.tasks import Loss, SampleWeights

LEAST = 1e-3  # a weight never falls to 0, from where it could not come back


class GradNormSettings(msgspec.Struct, frozen=True, tag="gradnorm", tag_field="name", forbid_unknown_fields=True):
    """alpha: how hard the slower task is pulled; 1.5 is the paper's first choice. Costs two backward passes a step."""

    alpha: Annotated[float, Meta(ge=0)] = 1.5
    sample_weights: SampleWeights = "none"

    def build(self) -> Loss:
        return GradNorm(self)


class GradNorm(Loss):
    """loss = sum over the K = 2 tasks of w_i * E_i, and for the weights alone |w_i * g_i - target_i|, summed.

    target_i = mean(w * g) * r_i^alpha, with r_i = (E_i / E_i(0)) / mean(E / E(0)) and g_i the norm of task i's gradient
    on the shared parameters (the paper takes its last shared layer). The target is a constant to the gradient. Before
    each step the weights are scaled to the sum K. They learn at the network's rate, without weight decay.
    """

    needs_norms = True
    start: Tensor

    def __init__(self, settings: GradNormSettings) -> None:
        super().__init__(settings.sample_weights)
        self.alpha = settings.alpha
        self.weights = nn.Parameter(torch.ones(2))
        self.register_buffer("start", torch.zeros(2))

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        assert norms is not None
        with torch.no_grad():
            self.weights.clamp_(min=LEAST).mul_(2 / self.weights.sum())
            if not self.start.any():
                self.start.copy_(errors)
            ratio = errors / self.start.clamp(min=torch.finfo(errors.dtype).tiny)  # (2,)
            rate = (ratio / ratio.mean()) ** self.alpha  # (2,)
            target = (self.weights * norms).mean() * rate  # (2,)
        auxiliary = (self.weights * norms - target).abs().sum()  # ()
        return (self.weights.detach() * errors).sum() + auxiliary
