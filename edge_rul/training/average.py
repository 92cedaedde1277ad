"""The average of the weights over the steps, which is the model that ships.

Owns the kinds of average. Must not know data or losses.
"""

from __future__ import annotations

import copy
from typing import Annotated, Generic, TypeVar

import msgspec
import torch
from msgspec import Meta
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class EmaSettings(msgspec.Struct, frozen=True, tag="ema", tag_field="name", forbid_unknown_fields=True):
    """An exponential moving average. decay: 0 keeps the last step's weights."""

    decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99

    def share(self, step: int, total: int) -> float:
        """With the ramp (1 + step) / (10 + step) the first steps forget the initial weights, which would be a large
        part of a short run's average."""
        return 1 - min(self.decay, (1 + step) / (10 + step))


class UniformSettings(msgspec.Struct, frozen=True, tag="uniform", tag_field="name", forbid_unknown_fields=True):
    """The plain mean over the last steps, as in Izmailov et al.: Averaging Weights Leads to Wider Optima and Better
    Generalization, arXiv 1803.05407. last: those steps' share of all."""

    last: Annotated[float, Meta(gt=0, le=1)] = 0.5

    def share(self, step: int, total: int) -> float:
        first = total - max(1, round(self.last * total))
        return 1 / (step - first + 1) if step > first else 1.0


AverageSettings = EmaSettings | UniformSettings


class Average(Generic[Model]):
    """model: a copy in eval mode whose weights are the average of those of `source` at each of `total` steps.

    After a step, counted from 0, average += share * (weights - average), where the settings tell the share.
    BatchNorm's running statistics are averaged likewise, its counters copied.
    """

    def __init__(self, source: Model, settings: AverageSettings, total: int) -> None:
        self.model = copy.deepcopy(source).eval()
        self.model.requires_grad_(False)
        self.settings = settings
        self.total = total
        self.steps = 0

    @torch.no_grad()
    def update(self, source: Model) -> None:
        share = self.settings.share(self.steps, self.total)
        self.steps += 1
        for average, current in zip(self.model.state_dict().values(), source.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(current, share)
            else:
                average.copy_(current)
