"""Fixed weights: RUL error + class_weight * class error.

Owns the baseline that the reference starts from (class_weight 0.1 there). Knows only the tasks' errors.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from torch import Tensor

from edge_rul.training.losses.tasks import Loss, SampleWeights


class FixedSettings(msgspec.Struct, frozen=True, tag="fixed", tag_field="name", forbid_unknown_fields=True):
    """class_weight: of the cross-entropy against the squared error. sample_weights: see `tasks.rul_error`."""

    class_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    sample_weights: SampleWeights = "none"

    def build(self) -> Loss:
        return Fixed(self)


class Fixed(Loss):
    """loss = mean(w * (rul - y)^2) + class_weight * cross-entropy."""

    def __init__(self, settings: FixedSettings) -> None:
        super().__init__(settings.sample_weights)
        self.class_weight = settings.class_weight

    def combine(self, errors: Tensor, norms: Tensor | None) -> Tensor:
        return errors[0] + self.class_weight * errors[1]
