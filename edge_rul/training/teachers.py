"""Teachers: small models that see a window as a level and a slope of each feature, and teach the network.

Fitted to labels alone, a network of millions of weights learns the engines that it has seen by heart; a perceptron on
two numbers a feature does not. What such teachers answer for windows moved about (see `augment`) is a target without
the noise of single lives, and as much of it as there are steps. Only the network ships.

Owns the kinds of teacher, their fit, and the targets that they give. Must not know lives, files or the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from edge_rul.errors import DataError
from edge_rul.training.losses.tasks import SCALE, SampleWeights, Targets, weighed
from edge_rul.training.table import Index
from edge_rul.training.tree import Features, Tree, describe

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

TREE_SEES: Features = "line's end, slope, mean"
LEAST = 2  # windows to fit a teacher on
PROBE = 256  # of them, for which it is asked once


class Teacher(Protocol):
    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, C) windows as the network gets them, on the CPU -> (B,) RUL on the training scale."""


class TreeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tree", tag_field="kind"):
    """The yardstick of evaluation. weight: of its answer among the teachers'."""

    weight: Positive = 1.0

    @property
    def count(self) -> int:
        return 1

    def fit(self, x: Tensor, rul: Tensor, seed: int, fitted: Callable[[], None]) -> Teacher:
        """Fitted on windows x (N, T, C) and their RUL (N,); `fitted` is called as each of `count` models is."""
        tree = Tree(TREE_SEES, describe(x.numpy(), TREE_SEES), rul.numpy())
        fitted()
        return lambda x: torch.from_numpy(tree.predict(describe(x.numpy(), TREE_SEES)))


class PerceptronSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="perceptron", tag_field="kind"):
    """The mean of networks, each from another start.

    The start and the order of the windows follow from the seed and a network's number. Those of one number in two
    entries of one shape have them in common, and differ by what else is set.

    weight:            of the mean's answer among the teachers'
    members:           how many networks
    depth, width:      how many hidden layers, and of how many units
    bottleneck:        so many weighted sums of the inputs are all that the first hidden layer sees; 0: it sees the
                       inputs. Sensors that wear moves together are taken together, whatever each one's noise.
    epochs, batch:     passes over the windows, and windows a step
    windows_per_epoch: how many of the windows a pass draws; all where it is left out
    learning_rate:     the peak of one cycle, with weight_decay by AdamW
    noise:             deviation of noise on its inputs, each of which has deviation 1
    sample_weights:    of the windows within the squared error, see `losses.tasks.rul_error`
    """

    weight: Positive = 1.0
    members: Count = 5
    depth: Count = 2
    width: Count = 128
    bottleneck: Annotated[int, Meta(ge=0)] = 0
    epochs: Count = 20
    windows_per_epoch: Count | None = None
    batch: Count = 256
    learning_rate: Positive = 0.002
    weight_decay: NotNegative = 0.01
    noise: NotNegative = 0.15
    sample_weights: SampleWeights = "none"

    @property
    def count(self) -> int:
        return self.members

    def fit(self, x: Tensor, rul: Tensor, seed: int, fitted: Callable[[], None]) -> Teacher:
        """As `TreeSettings.fit`."""
        lines = lines_of(x)  # (N, 2C)
        mean, std = lines.mean(dim=0), lines.std(dim=0).clamp_min(1e-6)  # (2C,)
        z = (lines - mean) / std  # (N, 2C)
        with torch.random.fork_rng(devices=[]):  # what the network draws must not depend on its teachers
            members = []
            for i in range(self.members):
                members.append(self._member(z, rul, 1000 * seed + i))
                fitted()

        @torch.no_grad()
        def answer(x: Tensor) -> Tensor:
            z = (lines_of(x) - mean) / std  # (B, 2C)
            return torch.stack([m(z)[:, 0] for m in members]).mean(dim=0)  # (B,)

        return answer

    def _member(self, z: Tensor, rul: Tensor, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(z.shape[1], self.bottleneck)] if self.bottleneck else []
        seen = self.bottleneck or z.shape[1]
        for _ in range(self.depth):
            layers += [nn.Linear(seen, self.width), nn.GELU()]
            seen = self.width
        last = nn.Linear(seen, 1)
        nn.init.constant_(last.bias, float(rul.mean()))
        net = nn.Sequential(*layers, last)
        drawn = min(len(z), self.windows_per_epoch or len(z))
        batch = min(self.batch, drawn)
        steps = drawn // batch
        optimiser = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=steps * self.epochs + 1, pct_start=0.2
        )
        for _ in range(self.epochs):
            for select in torch.randperm(len(z))[: steps * batch].view(steps, batch):  # (batch,)
                x = z[select] + torch.randn(batch, z.shape[1]) * self.noise  # (batch, 2C)
                error = weighed((net(x)[:, 0] - rul[select]).square(), rul[select], self.sample_weights).mean()
                optimiser.zero_grad()
                error.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                cycle.step()
        return net.eval()


TeacherSettings = TreeSettings | PerceptronSettings


class DistilSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """share: of the RUL target that is the teachers' answer; the rest is the label. 1 leaves the labels to the teachers
    and to the health head.
    folds: the assets are dealt into so many, and a window is answered by teachers that were fitted on the other folds,
    so that none answers for a life that it has seen. 0: one set of teachers, fitted on all."""

    teachers: Annotated[list[TeacherSettings], Meta(min_length=1)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    folds: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("folds is 1, expected 0 for none, or at least 2: one fold leaves no assets to learn from")
        for (i, a), (j, b) in itertools.combinations(enumerate(self.teachers), 2):
            if msgspec.structs.replace(a, weight=1.0) == msgspec.structs.replace(b, weight=1.0):
                problem = f"teachers[{i}] and teachers[{j}] differ in nothing but weight, so that they answer alike"
                raise ValueError(f"{problem}: expected one of them, whose weight does that")

    @property
    def count(self) -> int:
        """How many models are fitted in all."""
        return max(1, self.folds) * sum(t.count for t in self.teachers)

    def fit(
        self,
        x: Tensor,
        targets: Targets,
        assets: Sequence[str],
        seed: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> Teachers:
        """x: (N, T, C) the training windows, their targets and whose they are, on the CPU. Lives not seen to their end
        teach nothing, where the label is only a bound. say: told of each model as it is fitted. Raises DataError when
        there are fewer assets than folds, too few windows to learn from, or a teacher that learnt no numbers."""
        known = ~targets.is_lower_bound  # (N,)
        fold = fold_of(assets, self.folds, seed)  # (N,)
        number = itertools.count(1)
        sets = []
        for k in range(max(1, self.folds)):
            learnt = known & (fold != k) if self.folds else known  # (N,)
            if (found := int(learnt.sum())) < LEAST:
                left = f"fold {k} leaves" if self.folds else "there are"
                problem = f"{left} {found} windows of lives that failed, expected at least {LEAST} for its teachers"
                hint = "teachers learn from lives that end in failure: more of them are needed, or recipe.distil: null"
                raise DataError("train", "recipe.distil", problem, hint=hint)
            own, rul = x[learnt], targets.rul[learnt]  # (n, T, C), (n,)
            teachers: list[tuple[float, Teacher]] = []
            for i, settings in enumerate(self.teachers):
                teacher = settings.fit(own, rul, seed, lambda: say(f"teacher {next(number)} of {self.count} is fitted"))
                if not teacher(own[:PROBE]).isfinite().all():
                    problem = "its answers are not finite after it was fitted"
                    raise DataError("train", f"recipe.distil.teachers[{i}]", problem, hint="lower its learning_rate")
                teachers.append((settings.weight, teacher))
            sets.append(teachers)
        return Teachers(sets, fold, self.share)


def fold_of(assets: Sequence[str], folds: int, seed: int) -> Tensor:
    """(N,) the fold of each window by its asset; folds differ by one asset at most. 0 where there are none."""
    if not folds:
        return torch.zeros(len(assets), dtype=torch.int64)
    names = sorted(set(assets))
    if len(names) < folds:
        raise DataError("train", f"{len(names)} assets to learn from", f"recipe.distil.folds is {folds}")
    dealt = {names[i]: n % folds for n, i in enumerate(np.random.default_rng(seed).permutation(len(names)).tolist())}
    return torch.tensor([dealt[a] for a in assets])


class Teachers:
    """Several teachers as one. sets: of each fold, those that have not seen it. fold: (N,) of the training windows."""

    def __init__(self, sets: list[list[tuple[float, Teacher]]], fold: Tensor, share: float) -> None:
        self._sets = sets
        self._fold = fold
        self._share = share

    def __call__(self, x: Tensor, fold: Tensor) -> Tensor:
        """(B, T, C), (B,) -> (B,) the weighted mean of what each window's set answers, on the training scale."""
        out = x.new_zeros(len(x))  # (B,)
        for k, teachers in enumerate(self._sets):
            own = fold == k  # (B,)
            if own.any():
                total = sum((weight * teacher(x[own]) for weight, teacher in teachers), x.new_zeros(()))  # (b,)
                out[own] = total / sum(weight for weight, _ in teachers)
        return out.clamp(0, SCALE)

    def targets(self, x: Tensor, labels: Targets, select: Index) -> Targets:
        """What the network is to answer for x (B, T, C), the training windows of numbers `select`, moved about.

        Where the label is a bound, the teachers' answer counts as far as it passes the bound, and as an exact one.
        """
        taught = self(x.cpu(), self._fold[torch.from_numpy(select)]).to(labels.rul.device)  # (B,)
        taught = torch.where(labels.is_lower_bound, torch.maximum(taught, labels.rul), taught)
        mixed = torch.where(labels.is_lower_bound, taught, torch.lerp(labels.rul, taught, self._share))  # (B,)
        return Targets(mixed, torch.zeros_like(labels.is_lower_bound), labels.health)


def lines_of(x: Tensor) -> Tensor:
    """(B, T, C) -> (B, 2C): the mean of each feature over the window, and the slope of its least-squares line."""
    steps = torch.arange(x.shape[1], dtype=x.dtype) - (x.shape[1] - 1) / 2  # (T,) around 0
    slope = torch.einsum("btc,t->bc", x, steps / max(1.0, float(steps @ steps)))  # (B, C)
    return torch.cat([x.mean(dim=1), slope], dim=1)
