"""Fixed weights: RUL error + class_weight * class error.

Owns the baseline that the reference starts from (class_weight 0.1 there). Knows only the tasks' errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from torch import Tensor, nn

from edge_rul.training.losses.tasks import Loss, SampleWeights, Targets, class_error, rul_error


class FixedSettings(msgspec.Struct, frozen=True, tag="fixed", tag_field="name", forbid_unknown_fields=True):
    """class_weight: of the cross-entropy against the squared error. sample_weights: see `tasks.rul_error`."""

    class_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    sample_weights: SampleWeights = "none"

    def build(self) -> Loss:
        return Fixed(self)


class Fixed(Loss):
    """loss = mean(w * (rul - y)^2) + class_weight * cross-entropy."""

    def __init__(self, settings: FixedSettings) -> None:
        super().__init__()
        self.settings = settings

    def errors(self, rul: Tensor, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        return rul_error(rul, targets, self.settings.sample_weights), class_error(logits, targets)

    def backward(self, rul_error: Tensor, class_error: Tensor, shared: Sequence[nn.Parameter]) -> dict[str, float]:
        loss = rul_error + self.settings.class_weight * class_error  # ()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.item(), "rul_error": rul_error.item(), "class_error": class_error.item()}
