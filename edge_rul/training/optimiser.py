"""How a gradient becomes a step.

Owns the optimisers that the configuration may name, and what they share: weight decay, for the network only, and the
limit on the gradient. Must not know data, losses or the learning rate's course.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import nn

NotNegative = Annotated[float, Meta(ge=0)]
Beta = Annotated[float, Meta(ge=0, lt=1)]


class _Settings(msgspec.Struct, frozen=True, tag_field="name", forbid_unknown_fields=True):
    """weight_decay: decoupled from the gradient, but for sgd. clip: largest norm of the gradient, 0 for no limit."""

    weight_decay: NotNegative = 0.01
    clip: NotNegative = 1.0

    def build(self, model: nn.Module, loss: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """An optimiser of the network's parameters and of the loss's own, which do not decay."""
        groups = [
            {"params": list(model.parameters()), "weight_decay": self.weight_decay},
            {"params": list(loss.parameters()), "weight_decay": 0.0},
        ]
        return self._build([g for g in groups if g["params"]], learning_rate)

    def _build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        raise NotImplementedError


class AdamWSettings(_Settings, frozen=True, tag="adamw", forbid_unknown_fields=True):
    """Loshchilov and Hutter: Decoupled Weight Decay Regularization, arXiv 1711.05101."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999

    def _build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(self.beta1, self.beta2))


class NAdamSettings(_Settings, frozen=True, tag="nadam", forbid_unknown_fields=True):
    """Adam with Nesterov's momentum: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999

    def _build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.NAdam(groups, lr=learning_rate, betas=betas, decoupled_weight_decay=True)


class SgdSettings(_Settings, frozen=True, tag="sgd", forbid_unknown_fields=True):
    """Stochastic gradient descent with Nesterov's momentum, where there is any."""

    momentum: Beta = 0.9

    def _build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=learning_rate, momentum=self.momentum, nesterov=self.momentum > 0)


OptimiserSettings = AdamWSettings | NAdamSettings | SgdSettings
