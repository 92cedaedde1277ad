"""Uncertainty weighting: each task by how noisy it has turned out to be.

Owns the learned weights of Kendall, Gal and Cipolla: Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018
(arXiv 1705.07115), in the form with s = log sigma^2 and without the factor 1/2. Knows only the tasks' errors.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from edge_rul.training.losses.tasks import Loss, SampleWeights


class UncertaintySettings(msgspec.Struct, frozen=True, tag="uncertainty", tag_field="name", forbid_unknown_fields=True):
    """rul_start, class_start: where s of each task starts. The best s is the log of the error, so that about 5.5 for a
    squared error in the hundreds saves the thousands of steps that it takes to learn it from 0."""

    rul_start: float = 0.0
    class_start: float = 0.0
    sample_weights: SampleWeights = "none"

    def build(self) -> Loss:
        return Uncertainty(self)


class Uncertainty(Loss):
    """loss = sum over tasks of exp(-s_i) * L_i + s_i, where s_i is learned with the network."""

    def __init__(self, settings: UncertaintySettings) -> None:
        super().__init__(settings.sample_weights)
        self.s = nn.Parameter(torch.tensor([settings.rul_start, settings.class_start]))  # (2,)

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        return ((-self.s).exp() * errors + self.s).sum()
