"""AMNL: windows near the end of life count more, and the tasks count the same.

Owns the reference book's asymmetric multi-task loss in both of its editions. Knows only the tasks' errors.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from edge_rul.training.losses.tasks import Loss

BETA = 0.99


class AmnlSettings(msgspec.Struct, frozen=True, tag="amnl", tag_field="name", forbid_unknown_fields=True):
    """normalise: divide each error by its moving average first, as the older edition does and the name
    ("normalised") says, so that both are near 1. Without, the squared error in the hundreds leaves the cross-entropy
    below 1 next to no say."""

    normalise: bool = True

    def build(self) -> Loss:
        return Amnl(self)


class Amnl(Loss):
    """loss = 0.5 * E_rul + 0.5 * E_class, with E_rul the mean of (1 + clip(1 - y / 125, 0, 1)) * (rul - y)^2.

    With `normalise`, E_i is divided by a_i / (1 - 0.99^t) where a_i = 0.99 a_i + 0.01 E_i at step t = 1, 2, ...: the
    bias-corrected moving average of what the error has been, this step's included. It is a constant to the gradient.
    """

    average: Tensor
    steps: Tensor

    def __init__(self, settings: AmnlSettings) -> None:
        super().__init__("amnl")
        self.normalise = settings.normalise
        self.register_buffer("average", torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        if not self.normalise:
            return 0.5 * errors.sum()
        self.steps += 1
        self.average.lerp_(errors.detach(), 1 - BETA)  # (2,)
        level = self.average / (1 - BETA ** self.steps.item())  # (2,)
        return 0.5 * (errors / level.clamp(min=torch.finfo(level.dtype).tiny)).sum()
