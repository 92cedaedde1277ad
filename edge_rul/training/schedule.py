"""The learning rate's course over a run.

Owns the schedules that the configuration may name. All of them are torch's own, stepped once a step; one looks at the
validation RMSE at the end of each epoch too. Must not know data or losses.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Factor = Annotated[float, Meta(gt=0, le=1)]


class Schedule:
    """Sets the optimiser's learning rate. state: what JSON can hold, for a checkpoint."""

    def __init__(self, each_step: LRScheduler, plateau: ReduceLROnPlateau | None = None) -> None:
        self._each_step, self._plateau = each_step, plateau

    def step(self) -> None:
        self._each_step.step()

    def epoch(self, validation_rmse: float | None) -> None:
        if self._plateau is not None and validation_rmse is not None:
            self._plateau.step(validation_rmse)

    def state(self) -> list[dict[str, Any]]:
        return [s.state_dict() for s in (self._each_step, self._plateau) if s is not None]

    def restore(self, state: list[dict[str, Any]]) -> None:
        for schedule, own in zip((self._each_step, self._plateau), state, strict=False):
            assert schedule is not None
            schedule.load_state_dict(own)


class OneCycleSettings(msgspec.Struct, frozen=True, tag="onecycle", tag_field="name", forbid_unknown_fields=True):
    """Smith and Topin, arXiv 1708.07120: up to `learning_rate` over `warmup` of all steps, then down along a cosine.

    start, end: the first and the last rate as a share of the highest. Adam's beta1 or SGD's momentum goes the other
    way, from 0.95 to 0.85 and back; Muon's does not.
    """

    learning_rate: Positive = 0.001
    warmup: Share = 0.2
    start: Share = 0.04
    end: Share = 0.000004

    def build(self, optimiser: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
        total = steps_per_epoch * epochs
        return Schedule(
            OneCycleLR(
                optimiser,
                max_lr=self.learning_rate,
                total_steps=total,
                # A warm-up of exactly one step, or of two steps out of two, would make torch divide by 0.
                pct_start=max(self.warmup, min(2 / total, 0.75)),
                div_factor=1 / self.start,
                final_div_factor=self.start / self.end,
                cycle_momentum=not {"betas", "momentum"}.isdisjoint(optimiser.defaults),
            )
        )


class _Warming(msgspec.Struct, frozen=True, tag_field="name", forbid_unknown_fields=True):
    """warmup_epochs: over which the rate rises in a line from `start` of `learning_rate` to all of it."""

    learning_rate: Positive = 0.001
    warmup_epochs: Annotated[float, Meta(ge=0)] = 1.0
    start: Factor = 0.1

    def _warm_up(self, optimiser: Optimizer, steps: int) -> LRScheduler:
        return LinearLR(optimiser, start_factor=self.start if steps else 1.0, total_iters=steps)

    def _warm_steps(self, steps_per_epoch: int) -> int:
        return round(self.warmup_epochs * steps_per_epoch)


class CosineSettings(_Warming, frozen=True, tag="cosine", forbid_unknown_fields=True):
    """After the warm-up down along half a cosine. end: the last rate as a share of `learning_rate`."""

    end: Annotated[float, Meta(ge=0, le=1)] = 0.001

    def build(self, optimiser: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
        warm = self._warm_steps(steps_per_epoch)
        rest = max(1, steps_per_epoch * epochs - warm)
        fall = CosineAnnealingLR(optimiser, T_max=rest, eta_min=self.end * self.learning_rate)
        if not warm:
            return Schedule(fall)
        return Schedule(SequentialLR(optimiser, [self._warm_up(optimiser, warm), fall], milestones=[warm]))


class ConstantSettings(_Warming, frozen=True, tag="constant", forbid_unknown_fields=True):
    """After the warm-up the same rate to the end: for an average over many steps, `average: {name: uniform}`."""

    def build(self, optimiser: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
        return Schedule(self._warm_up(optimiser, self._warm_steps(steps_per_epoch)))


class PlateauSettings(_Warming, frozen=True, tag="plateau", forbid_unknown_fields=True):
    """The reference's: after the warm-up, 10 epochs long there, the rate is multiplied by `factor` whenever the
    validation RMSE has not fallen for `patience` epochs, down to `least`. Needs validation assets."""

    factor: Share = 0.5
    patience: Annotated[int, Meta(ge=0)] = 30
    least: Annotated[float, Meta(ge=0)] = 0.000005

    def build(self, optimiser: Optimizer, steps_per_epoch: int, epochs: int) -> Schedule:
        plateau = ReduceLROnPlateau(optimiser, factor=self.factor, patience=self.patience, min_lr=self.least)
        return Schedule(self._warm_up(optimiser, self._warm_steps(steps_per_epoch)), plateau)


ScheduleSettings = OneCycleSettings | CosineSettings | ConstantSettings | PlateauSettings
