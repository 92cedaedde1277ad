"""How a gradient becomes a step.

Owns the optimisers that the configuration may name, and what they share: weight decay, for the network only, and the
limit on the gradient. Must not know data, losses or the learning rate's course.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from edge_rul.training import device as devices

NotNegative = Annotated[float, Meta(ge=0)]
Group = dict[str, Any]
Beta = Annotated[float, Meta(ge=0, lt=1)]


class _Settings(msgspec.Struct, frozen=True, tag_field="name", forbid_unknown_fields=True):
    """weight_decay: decoupled from the gradient, but for sgd. clip: largest norm of the gradient, 0 for no limit."""

    weight_decay: NotNegative = 0.01
    clip: NotNegative = 1.0

    def build(self, model: nn.Module, loss: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        """An optimiser of the network's parameters and of the loss's own, which do not decay."""
        groups: list[Group] = [
            {"params": list(model.parameters()), "weight_decay": self.weight_decay},
            {"params": list(loss.parameters()), "weight_decay": 0.0},
        ]
        return self._build([g for g in groups if g["params"]], learning_rate)

    def _build(self, groups: list[Group], learning_rate: float) -> torch.optim.Optimizer:
        raise NotImplementedError


class AdamWSettings(_Settings, frozen=True, tag="adamw", forbid_unknown_fields=True):
    """Loshchilov and Hutter: Decoupled Weight Decay Regularization, arXiv 1711.05101."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999

    def _build(self, groups: list[Group], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(self.beta1, self.beta2))


class NAdamSettings(_Settings, frozen=True, tag="nadam", forbid_unknown_fields=True):
    """Adam with Nesterov's momentum: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999

    def _build(self, groups: list[Group], learning_rate: float) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.NAdam(groups, lr=learning_rate, betas=betas, decoupled_weight_decay=True)


class SgdSettings(_Settings, frozen=True, tag="sgd", forbid_unknown_fields=True):
    """Stochastic gradient descent with Nesterov's momentum, where there is any."""

    momentum: Beta = 0.9

    def _build(self, groups: list[Group], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=learning_rate, momentum=self.momentum, nesterov=self.momentum > 0)


class MuonSettings(AdamWSettings, frozen=True, tag="muon", forbid_unknown_fields=True):
    """The step of a matrix is the orthogonal one nearest to its momentum, so that it goes along rare directions as far
    as along common ones: Jordan et al., Muon, 2024. It is scaled to the size of AdamW's by Liu et al., arXiv
    2502.16982, so that both go by one learning rate: what is no matrix, or one of a few rows, goes by AdamW. The
    orthogonal one is found in bfloat16, as torch has it, but in float32 on a CPU that emulates bfloat16."""

    momentum: Beta = 0.95

    def _build(self, groups: list[Group], learning_rate: float) -> torch.optim.Optimizer:
        parts: list[torch.optim.Optimizer] = []
        if own := _only(groups, matrices=True):
            kind = Float32Muon if devices.emulates_bfloat16(own[0]["params"][0].device) else torch.optim.Muon
            parts.append(kind(own, learning_rate, momentum=self.momentum, adjust_lr_fn="match_rms_adamw"))
        if own := _only(groups, matrices=False):
            parts.append(super()._build(own, learning_rate))
        return Together(parts)


def _only(groups: list[Group], *, matrices: bool) -> list[Group]:
    """The groups with those of their parameters that are matrices of 8 rows or more, or with the others."""
    picked = [[p for p in g["params"] if (p.ndim == 2 and p.shape[0] >= 8) is matrices] for g in groups]
    return [{**g, "params": own} for g, own in zip(groups, picked, strict=True) if own]


class Float32Muon(torch.optim.Muon):
    """torch's Muon with the size of AdamW's step, whose products of matrices are in float32: torch takes bfloat16 for
    them whatever the weights are, which is tens of times slower where the processor has no instructions for it."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
                average.lerp_(p.grad, 1 - momentum)
                along = p.grad.lerp(average, momentum)  # Nesterov's
                step = orthogonal(along, group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(step, alpha=-rate * 0.2 * math.sqrt(max(p.shape)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Near to the orthogonal matrix that is nearest, by Newton and Schulz: (R, C) of (R, C), in its own precision."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # (r, c), r <= c
    x = x / x.norm().clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.T  # (r, r)
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Together(torch.optim.Optimizer):
    """Optimisers of different parameters as one: their groups one after another, one state, and steps in turn."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts look at what this one holds, which schedules change and checkpoints replace."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


OptimiserSettings = AdamWSettings | NAdamSettings | SgdSettings | MuonSettings
