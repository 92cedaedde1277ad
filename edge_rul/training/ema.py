"""The moving average of the weights, which is the model that ships.

Owns the average and its ramp. Must not know data or losses.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class MovingAverage(Generic[Model]):
    """model: a copy whose weights follow those of `source`, in eval mode.

    After step t, counted from 0, average += (1 - d) * (weights - average) with d = min(decay, (1 + t) / (10 + t)): the
    ramp lets the first steps forget the initial weights, which would be a large part of a short run's average.
    BatchNorm's running statistics are averaged likewise, its counters copied. decay 0 keeps the source's weights.
    """

    def __init__(self, source: Model, decay: float) -> None:
        self.model = copy.deepcopy(source).eval()
        self.model.requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, source: Model) -> None:
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for average, current in zip(self.model.state_dict().values(), source.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - d)
            else:
                average.copy_(current)
