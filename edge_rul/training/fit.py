"""The training loop.

Owns the order of a run: steps, epochs, the guard against a dead RUL head, and who is told of them. Must not know data
formats, files or bundles. Two float32 runs with one seed and one number of threads on one machine give the same bits,
and so does a run that was broken off and taken up again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edge_rul.core.transform import Transform
from edge_rul.errors import EXIT_INTERNAL, DataError, EdgeRulError
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training import device as devices
from edge_rul.training.augment import augment
from edge_rul.training.losses.tasks import Parameters, Targets
from edge_rul.training.normaliser import constants
from edge_rul.training.optimiser import MuonSettings
from edge_rul.training.prepared import Prepared, fit_transform, predict, prepare, score
from edge_rul.training.progress import Progress
from edge_rul.training.run import Epoch, Run, State
from edge_rul.training.settings import RecipeSettings, TrainingSettings
from edge_rul.training.table import in_short
from edge_rul.training.teachers import DistilSettings, Teachers
from edge_rul.training.transfer import Start, in_words
from edge_rul.training.windows import Windows

PROBE = 256  # training windows that the dead-head guard looks at
# What an epoch's line tells of the validation windows.
SHOWN = {"validation rmse": "rmse", "bias": "bias", "accuracy": "accuracy", "macro F1": "macro_f1"}


class TrainingError(EdgeRulError):
    """A run that cannot come to anything: its head is dead, or its loss is no number."""

    exit_code = EXIT_INTERNAL


class Fitted(NamedTuple):
    """model: the average that ships, in eval mode, answering on the training scale (see `losses.tasks.SCALE`). taken:
    the tensors that it began with out of `start`."""

    model: DualTaskModel
    transform: Transform
    epochs: list[Epoch]
    start: Start | None
    taken: list[str]


class Record(Protocol):
    """What keeps a run for later."""

    def step(self, figures: dict[str, Any]) -> None: ...

    def epoch(self, figures: dict[str, Any], state: Callable[[], State]) -> None: ...

    def last(self) -> State | None:
        """Where an earlier run broke off, if it is to be taken up again."""


class Unrecorded:
    """Nothing is kept."""

    def step(self, figures: dict[str, Any]) -> None: ...

    def epoch(self, figures: dict[str, Any], state: Callable[[], State]) -> None: ...

    def last(self) -> State | None:
        return None


def steps_per_epoch(windows: Windows, recipe: RecipeSettings) -> int:
    """Whole batches only: BatchNorm does not bear a last batch of one window."""
    return min(len(windows), recipe.windows_per_epoch or len(windows)) // recipe.batch


def fit(
    training: Windows,
    validation: Windows | None,
    settings: TrainingSettings,
    progress: Progress,
    record: Record | None = None,
    start: Start | None = None,
) -> Fitted:
    """Train a DualTaskModel on full windows. The transform is fitted on all readings of `training`'s table.

    record: what keeps the run, and where one is taken up again. start: weights to begin with. The model is the average
    at the end of the last epoch, or of the best where the recipe stops early. Raises TrainingError when the RUL head is
    dead or the loss is not finite, DataError where there are too few windows or no validation RMSE to watch, and
    ConfigError where there is no such device.
    """
    recipe, record = settings.recipe, record or Unrecorded()
    steps = steps_per_epoch(training, recipe)
    if steps * recipe.epochs < 2:
        raise DataError(
            "train",
            f"{len(training)} windows to learn from",
            f"expected two batches of {recipe.batch}",
            hint="more or longer lives are needed, or a smaller recipe.batch or window",
        )
    if validation is not None and not len(validation):
        raise DataError(
            "train",
            "validation",
            f"its assets ({in_short(validation.table.assets)}) have no full window of {validation.length} readings",
            hint="hold out others by validation.seed, share or fold, or take a smaller window",
        )
    torch.use_deterministic_algorithms(True)
    device = devices.choose(recipe.device)
    transform = fit_transform(training.table, settings)
    if constant := constants(transform.normaliser, settings.seen):
        progress.say(f"constant in training, so that nothing is learnt from it: {', '.join(constant)}")
    learn = prepare(training, settings, transform, device)
    judge = None if validation is None else prepare(validation, settings, transform, device)
    if recipe.watched_by and judge is not None and judge.labels.is_lower_bound.all():
        raise DataError(
            "train",
            "validation",
            f"none of its assets ({in_short(judge.windows.table.assets)}) was seen to fail, so that there is no RMSE "
            f"for {recipe.watched_by} to watch",
            hint=f"hold out others by validation.seed, share or fold, or leave {recipe.watched_by} out",
        )
    if device.type == "cpu" and recipe.precision == "bfloat16" and (slower := devices.bfloat16_slowdown()) > 1:
        progress.say(f"bfloat16 is {slower:.0f} times slower than float32 on this processor: set precision to float32")
    if isinstance(recipe.optimiser, MuonSettings) and devices.emulates_bfloat16(device):
        progress.say("this processor emulates bfloat16: muon's steps are found in float32")

    teachers = None if recipe.distil is None else teach(recipe.distil, learn, settings.seed, progress)
    run = Run(learn, settings, steps, start)
    if start is not None:
        progress.say(f"{start.name}: {in_words(run.model, run.taken)}")
    probe = learn.inputs(np.linspace(0, len(training) - 1, min(PROBE, len(training))).astype(np.int64))
    guard_dead_head(run.model, probe, "before the first step")
    if (state := record.last()) is not None:
        run.restore(state)
        progress.say(f"going on after epoch {len(run.done)}")
    for epoch in range(len(run.done) + 1, recipe.epochs + 1):
        if run.stopped:
            progress.say(f"no better epoch since epoch {epoch - 1 - recipe.early_stopping.patience}")  # type: ignore[union-attr]
            break
        loss = _epoch(run, learn, teachers, recipe, steps, epoch, progress, record)
        guard_dead_head(run.model, probe, f"after epoch {epoch}")
        guard_dead_head(run.average.model, probe, f"after epoch {epoch}, average")
        reached = None if judge is None else score(predict(run.average.model, judge), judge)
        run.end_epoch(Epoch(epoch, loss, reached))
        shown = {} if reached is None else dict(zip(SHOWN, operator.attrgetter(*SHOWN.values())(reached), strict=True))
        record.epoch({"epoch": epoch, "loss": loss, **shown}, run.state)
        progress.epoch(epoch, {"loss": loss, **shown})
    return Fitted(run.shipped, transform, run.done, start, run.taken)


def teach(settings: DistilSettings, learn: Prepared, seed: int, progress: Progress) -> Teachers:
    """The teachers, fitted on the training windows. They are fitted anew where a run goes on, to the same bits."""
    progress.say(f"fitting {settings.count} teachers")
    x, targets = learn.batch(np.arange(len(learn.windows)))  # (N, T, C)
    assets = learn.windows.table.asset[learn.windows.last].tolist()
    return settings.fit(x.cpu(), Targets(*(t.cpu() for t in targets)), assets, seed, progress.say)


def _epoch(
    run: Run,
    learn: Prepared,
    teachers: Teachers | None,
    recipe: RecipeSettings,
    steps: int,
    epoch: int,
    progress: Progress,
    record: Record,
) -> float:
    """One epoch; answers the mean loss over its steps."""
    total = 0.0
    parameters = by_task(run.model)
    for step, (x, targets) in enumerate(_batches(learn, teachers, recipe, run.random, steps), 1):
        taken = (epoch - 1) * steps + step
        rate = run.optimiser.param_groups[0]["lr"]
        measure = run.loss.needs_norms or taken % recipe.log_every == 0 or taken == 1
        figures = _step(run, x, targets, parameters, recipe, measure=measure)
        run.schedule.step()
        run.average.update(run.model)
        if not np.isfinite(figures["loss"]):
            raise TrainingError(
                "train",
                f"epoch {epoch}, step {step}",
                f"the loss is {figures['loss']}",
                hint="lower recipe.schedule.learning_rate",
            )
        total += figures["loss"]
        if measure:
            record.step({"step": taken, "epoch": epoch, "learning_rate": rate, **figures})
        progress.step(epoch, step, figures["loss"])
    return total / steps


def _batches(
    learn: Prepared, teachers: Teachers | None, recipe: RecipeSettings, random: torch.Generator, steps: int
) -> Iterator[tuple[Tensor, Targets]]:
    """One epoch: every window at most once, in random order, augmented, and then answered by the teachers."""
    order = torch.randperm(len(learn.windows), generator=random).numpy()
    for select in order[: steps * recipe.batch].reshape(steps, recipe.batch):
        x, targets = learn.batch(select)
        x = augment(x, recipe.augment, random)  # (B, T, F)
        yield x, targets if teachers is None else teachers.targets(x, targets, select)


def _step(
    run: Run, x: Tensor, targets: Targets, parameters: Parameters, recipe: RecipeSettings, *, measure: bool
) -> dict[str, float]:
    run.model.train()
    run.optimiser.zero_grad(set_to_none=True)
    with devices.autocast(run.device, recipe.precision):
        rul, logits = run.model.forward_last(x)  # (B,), (B, C)
    rul_error, class_error = run.loss.errors(rul.float(), logits.float(), targets)  # (), ()
    figures = run.loss.backward(rul_error, class_error, parameters, measure=measure)
    if recipe.optimiser.clip:
        nn.utils.clip_grad_norm_(run.model.parameters(), recipe.optimiser.clip)
    with run.brake.step(len(run.done) + 1):
        run.optimiser.step()
    return figures


def by_task(model: DualTaskModel) -> Parameters:
    """The model's parameters by the tasks that train them."""
    rul, health = list(model.rul_head.parameters()), list(model.health_head.parameters())
    heads = {id(p) for p in (*rul, *health)}
    return Parameters([p for p in model.parameters() if id(p) not in heads], rul, health)


@torch.no_grad()
def guard_dead_head(model: DualTaskModel, probe: Tensor, when: str) -> None:
    """Raises TrainingError if the RUL head answers 0 for every window of `probe` (B, T, F).

    Its last ReLU is then dead: its gradient is 0 too, and no further step would ever change it.
    """
    training = model.training
    rul, _ = model.eval().forward_last(probe)  # (B,)
    model.train(training)
    if not bool((rul > 0).any()):
        raise TrainingError(
            "train",
            f"RUL head, {when}",
            f"it answers 0 for all of {len(probe)} training windows: its last ReLU is dead and will never learn again",
            hint="try another seed or a lower recipe.schedule.learning_rate",
        )
