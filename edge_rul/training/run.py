"""One network on its way: everything that changes from one step to the next.

Owns that state, its beginning, and its way into a checkpoint and back: a run that goes on from its state gives the bits
that it would have given without the break. Must not know files, or in which order steps are taken.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.average import Average
from edge_rul.training.metrics import Scores
from edge_rul.training.prepared import Prepared
from edge_rul.training.settings import TrainingSettings
from edge_rul.training.transfer import Brake, Start, take_over


class Epoch(msgspec.Struct, frozen=True):
    """epoch: counted from 1. loss: mean over its steps. validation: of the average, in the RUL's unit, where assets are
    held out for validation."""

    epoch: int
    loss: float
    validation: Scores | None


class State(NamedTuple):
    """A run between two epochs. tensors: by name, on the CPU. plain: what JSON holds."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


class Run:
    """model, loss, optimiser, schedule and average at a step; `random` draws order and augmentation, while dropout has
    torch's own generator. taken: the tensors that were taken over, which the brake holds back. done: the epochs so far.
    best: the average of the best of them, where that one ships."""

    def __init__(
        self, learn: Prepared, settings: TrainingSettings, steps_per_epoch: int, start: Start | None = None
    ) -> None:
        """Everything that is random follows from the settings' seed. start: weights to begin with, where they fit."""
        recipe, widths, device = settings.recipe, settings.model, learn.rows.device
        torch.manual_seed(settings.seed)
        self.random = torch.Generator().manual_seed(settings.seed)
        self.model = DualTaskModel(
            learn.rows.shape[1],
            widths.lstm_hidden,
            widths.num_heads,
            widths.shared_dim,
            len(settings.classes),
            widths.dropout,
        )
        if widths.start == "he":
            self.model.draw_he()
        self.model.rul_head.set_final_bias(float(learn.labels.rul.mean()) * learn.scale)
        self.taken = [] if start is None else take_over(self.model, start)
        self.model.to(device)
        self.brake = Brake(self.model, self.taken, recipe.transfer)
        self.loss = settings.loss.build().to(device)
        self.optimiser = recipe.optimiser.build(self.model, self.loss, recipe.schedule.learning_rate)
        self.schedule = recipe.schedule.build(self.optimiser, steps_per_epoch, recipe.epochs)
        self.average = Average(self.model, recipe.average, steps_per_epoch * recipe.epochs)
        self.device = device
        self.done: list[Epoch] = []
        self.best: DualTaskModel | None = None
        self._patience = None if recipe.early_stopping is None else recipe.early_stopping.patience

    def end_epoch(self, epoch: Epoch) -> None:
        """Take note of the epoch, keep the average if it is the best so far, and let the schedule see the figures."""
        rmse = None if epoch.validation is None else epoch.validation.rmse
        if self._patience is not None and (not self.done or rmse == min(_rmses([*self.done, epoch]))):
            self.best = copy.deepcopy(self.average.model)
        self.done.append(epoch)
        self.schedule.epoch(rmse)

    @property
    def stopped(self) -> bool:
        """Whether no epoch of the last `patience` was better than the best before them."""
        rmses = _rmses(self.done)
        return self._patience is not None and bool(rmses) and len(rmses) - 1 - rmses.index(min(rmses)) >= self._patience

    @property
    def shipped(self) -> DualTaskModel:
        """The model to keep, in eval mode on the CPU."""
        return (self.average.model if self.best is None else self.best).cpu().eval()

    def state(self) -> State:
        tensors = {"random/order": self.random.get_state(), "random/torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        for name, module in self._modules():
            tensors |= {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
        optimiser = self.optimiser.state_dict()
        for index, own in optimiser["state"].items():
            tensors |= {f"optimiser/{index}/{key}": t for key, t in own.items() if isinstance(t, Tensor)}
        plain = {
            "optimiser": optimiser["param_groups"],
            "schedule": self.schedule.state(),
            "average_steps": self.average.steps,
            "best": self.best is not None,
            "epochs": msgspec.to_builtins(self.done),
        }
        return State({name: t.detach().cpu().clone() for name, t in tensors.items()}, plain)

    def restore(self, state: State) -> None:
        """Go on where `state` was taken, under the same settings and data."""
        tensors, plain = state
        self.best = copy.deepcopy(self.average.model) if plain["best"] else None
        for name, module in self._modules():
            module.load_state_dict(_below(tensors, name))
        own: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(tensors, "optimiser").items():
            index, _, name = key.partition("/")
            own.setdefault(int(index), {})[name] = tensor
        groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in plain["optimiser"]]
        self.optimiser.load_state_dict({"state": own, "param_groups": groups})
        self.schedule.restore(plain["schedule"])
        self.average.steps = plain["average_steps"]
        self.done = msgspec.convert(plain["epochs"], list[Epoch])
        self.random.set_state(tensors["random/order"])
        torch.set_rng_state(tensors["random/torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)

    def _modules(self) -> list[tuple[str, torch.nn.Module]]:
        modules: list[tuple[str, torch.nn.Module]] = [
            ("model", self.model),
            ("loss", self.loss),
            ("average", self.average.model),
        ]
        return modules if self.best is None else [*modules, ("best", self.best)]


def _rmses(epochs: list[Epoch]) -> list[float]:
    return [e.validation.rmse for e in epochs if e.validation is not None]


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: t for key, t in tensors.items() if key.startswith(f"{name}/")}
