"""Windows as another sensor set would have seen them.

Owns the augmentation of normalised windows in training. Must not know labels, the network or raw units.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class AugmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In units of each sensor's training deviation; 0 leaves a step out.

    noise:          deviation of independent noise on every value
    offset:         deviation of an offset for each sensor that is constant over the window: engines differ by a level
                    that says nothing of their wear, and two fleets' sensors are calibrated differently
    ramp:           deviation of a line for each sensor through the window's middle, at the window's end: engines differ
                    by a pace too
    spread:         deviation of the logarithm of a factor on a window's offsets and ramps: most windows stay close to
                    what was seen, and some go far from it
    sensor_dropout: probability that a sensor reads its training mean for the whole window
    """

    noise: NotNegative = 0.0
    offset: NotNegative = 0.0
    ramp: NotNegative = 0.0
    spread: NotNegative = 0.0
    sensor_dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


def augment(x: Tensor, settings: AugmentSettings, random: torch.Generator) -> Tensor:
    """(B, T, F) normalised windows -> (B, T, F), a new tensor; `random` advances equally for equal shapes and settings.

    The numbers are drawn on the CPU, so that they are the same on every device.
    """
    B, T, F = x.shape
    noise = torch.randn((B, T, F), generator=random) * settings.noise  # (B, T, F)
    offset = torch.randn((B, 1, F), generator=random) * settings.offset  # (B, 1, F)
    ramp = torch.randn((B, 1, F), generator=random) * settings.ramp  # (B, 1, F)
    kept = torch.rand((B, 1, F), generator=random) >= settings.sensor_dropout  # (B, 1, F)
    along = torch.linspace(-1, 1, T)[:, None] if T > 1 else torch.zeros(1, 1)  # (T, 1)
    moved = offset + ramp * along  # (B, T, F)
    if settings.spread:
        moved = moved * torch.exp(torch.randn((B, 1, 1), generator=random) * settings.spread)  # (B, T, F)
    change = (noise + moved).to(x.device)  # (B, T, F)
    return (x + change) * kept.to(x.device)  # (B, T, F)
