"""Teachers: small models that see a window as a level and a slope of each feature, and teach the network.

Fitted to labels alone, a network of millions of weights learns the engines that it has seen by heart; a perceptron on
two numbers a feature does not. What such teachers answer for windows moved about (see `augment`) is a target without
the noise of single lives, and as much of it as there are steps. Only the network ships.

Owns the kinds of teacher, their fit, and the targets that they give. Must not know lives, files or the network.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from edge_rul.training.losses.tasks import SCALE, Targets
from edge_rul.training.tree import Features, Tree, describe

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

TREE_SEES: Features = "line's end, slope, mean"


class Teacher(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, C) windows as the network gets them, on the CPU -> (B,) RUL on the training scale."""


class TreeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tree", tag_field="kind"):
    """The yardstick of evaluation. weight: of its answer among the teachers'."""

    weight: Positive = 1.0

    def fit(self, x: Tensor, rul: Tensor, seed: int) -> Teacher:
        tree = Tree(TREE_SEES, describe(x.numpy(), TREE_SEES), rul.numpy())
        return lambda x: torch.from_numpy(tree.predict(describe(x.numpy(), TREE_SEES)))


class PerceptronSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="perceptron", tag_field="kind"):
    """The mean of networks with two hidden layers, each from another start.

    weight:        of the mean's answer among the teachers'
    members:       how many networks
    width:         of a hidden layer
    epochs, batch: passes over the windows, and windows a step
    learning_rate: the peak of one cycle, with weight_decay by AdamW
    noise:         deviation of noise on its inputs, each of which has deviation 1
    """

    weight: Positive = 1.0
    members: Count = 5
    width: Count = 128
    epochs: Count = 20
    batch: Count = 256
    learning_rate: Positive = 0.002
    weight_decay: NotNegative = 0.01
    noise: NotNegative = 0.15

    def fit(self, x: Tensor, rul: Tensor, seed: int) -> Teacher:
        lines = lines_of(x)  # (N, 2C)
        mean, std = lines.mean(dim=0), lines.std(dim=0).clamp_min(1e-6)  # (2C,)
        z = (lines - mean) / std  # (N, 2C)
        with torch.random.fork_rng(devices=[]):  # what the network draws must not depend on its teachers
            members = [self._member(z, rul, 1000 * seed + i) for i in range(self.members)]

        @torch.no_grad()
        def answer(x: Tensor) -> Tensor:
            z = (lines_of(x) - mean) / std  # (B, 2C)
            return torch.stack([m(z)[:, 0] for m in members]).mean(dim=0)  # (B,)

        return answer

    def _member(self, z: Tensor, rul: Tensor, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(z.shape[1], self.width),
            nn.GELU(),
            nn.Linear(self.width, self.width),
            nn.GELU(),
            nn.Linear(self.width, 1),
        )
        nn.init.constant_(net[-1].bias, float(rul.mean()))  # type: ignore[arg-type]
        batch = min(self.batch, len(z))
        steps = len(z) // batch
        optimiser = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=steps * self.epochs + 1, pct_start=0.2
        )
        for _ in range(self.epochs):
            for select in torch.randperm(len(z))[: steps * batch].view(steps, batch):  # (batch,)
                x = z[select] + torch.randn(batch, z.shape[1]) * self.noise  # (batch, 2C)
                error = (net(x)[:, 0] - rul[select]).square().mean()
                optimiser.zero_grad()
                error.backward()
                optimiser.step()
                cycle.step()
        return net.eval()


TeacherSettings = TreeSettings | PerceptronSettings


class DistilSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """share: of the RUL target that is the teachers' answer; the rest is the label. 1 leaves the labels to the teachers
    and to the health head."""

    teachers: Annotated[list[TeacherSettings], Meta(min_length=1)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def fit(self, x: Tensor, targets: Targets, seed: int) -> Teachers:
        """x: (N, T, C) the training windows and their targets, on the CPU. Lives not seen to their end teach nothing,
        where the label is only a bound."""
        known = ~targets.is_lower_bound  # (N,)
        x, rul = x[known], targets.rul[known]
        return Teachers([(t.weight, t.fit(x, rul, seed)) for t in self.teachers], self.share)


class Teachers:
    """Several teachers as one."""

    def __init__(self, teachers: list[tuple[float, Teacher]], share: float) -> None:
        self._teachers = teachers
        self._share = share

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B,) the weighted mean of their answers, on the training scale."""
        weights = sum(weight for weight, _ in self._teachers)
        mean = sum((weight * teacher(x) for weight, teacher in self._teachers), x.new_zeros(len(x))) / weights  # (B,)
        return mean.clamp(0, SCALE)

    def targets(self, x: Tensor, labels: Targets) -> Targets:
        """What the network is to answer for the windows x (B, T, C).

        Where the label is a bound, the teachers' answer counts as far as it passes the bound, and as an exact one.
        """
        taught = self(x.cpu()).to(labels.rul.device)  # (B,)
        taught = torch.where(labels.is_lower_bound, torch.maximum(taught, labels.rul), taught)
        mixed = torch.where(labels.is_lower_bound, taught, torch.lerp(labels.rul, taught, self._share))  # (B,)
        return Targets(mixed, torch.zeros_like(labels.is_lower_bound), labels.health)


def lines_of(x: Tensor) -> Tensor:
    """(B, T, C) -> (B, 2C): the mean of each feature over the window, and the slope of its least-squares line."""
    steps = torch.arange(x.shape[1], dtype=x.dtype) - (x.shape[1] - 1) / 2  # (T,) around 0
    slope = torch.einsum("btc,t->bc", x, steps / max(1.0, float(steps @ steps)))  # (B, C)
    return torch.cat([x.mean(dim=1), slope], dim=1)
