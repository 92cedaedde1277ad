"""The training loop.

Owns one run: steps, the schedule, the moving average, the guard against a dead RUL head, and the figures of the
validation windows. Must not know data formats, files or bundles. Two float32 runs with one seed and one number of
threads on one machine give the same bits.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edge_rul.core.normalise import Array, ZScore
from edge_rul.errors import EXIT_INTERNAL, DataError, EdgeRulError
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.augment import augment
from edge_rul.training.ema import MovingAverage
from edge_rul.training.losses.tasks import SCALE, Loss, Parameters, Targets
from edge_rul.training.metrics import Scores, scores
from edge_rul.training.progress import Progress
from edge_rul.training.settings import RecipeSettings, TrainingSettings
from edge_rul.training.windows import Labels, Windows, labels

PROBE = 256  # training windows that the dead-head guard looks at
EVALUATION_BATCH = 256
# What an epoch's line tells of the validation windows.
SHOWN = {"validation rmse": "rmse", "bias": "bias", "accuracy": "accuracy", "macro F1": "macro_f1"}


class TrainingError(EdgeRulError):
    """A run that cannot come to anything: its head is dead, or its loss is no number."""

    exit_code = EXIT_INTERNAL


class Epoch(msgspec.Struct, frozen=True):
    """epoch: counted from 1. loss: mean over its steps. validation: of the moving average, in the RUL's unit, where
    assets are held out for validation."""

    epoch: int
    loss: float
    validation: Scores | None


class Fitted(NamedTuple):
    """model: the moving average, in eval mode, answering on the training scale (see `losses.tasks.SCALE`)."""

    model: DualTaskModel
    normaliser: ZScore
    epochs: list[Epoch]


class Prepared(NamedTuple):
    """Windows ready for the network. rows: (N, F) the table's readings normalised. scale: of labels in training."""

    rows: Tensor
    windows: Windows
    labels: Labels
    scale: float

    def batch(self, select: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Tensor, Targets]:
        """The selected windows (B, T, F) and their targets."""
        x = self.rows[torch.from_numpy(self.windows.rows(select))]  # (B, T, F)
        chosen = self.labels
        return x, Targets(
            torch.from_numpy(chosen.rul[select] * np.float32(self.scale)),
            torch.from_numpy(chosen.is_lower_bound[select]),
            torch.from_numpy(chosen.health[select]),
        )


def prepare(windows: Windows, settings: TrainingSettings, normaliser: ZScore) -> Prepared:
    """Label and normalise the windows' table."""
    rows = torch.from_numpy(normaliser.apply(windows.table.inputs))  # (N, F)
    return Prepared(rows, windows, labels(windows, settings.rul.max, settings.classes), SCALE / settings.rul.max)


def steps_per_epoch(windows: Windows, recipe: RecipeSettings) -> int:
    """Whole batches only: BatchNorm does not bear a last batch of one window."""
    return len(windows) // recipe.batch


def fit(training: Windows, validation: Windows | None, settings: TrainingSettings, progress: Progress) -> Fitted:
    """Train a DualTaskModel on full windows. The normaliser is fitted on all readings of `training`'s table.

    The model is the average at the end of the last epoch. Raises TrainingError when the RUL head is dead or the loss is
    not finite, and DataError where there are too few windows.
    """
    recipe = settings.recipe
    steps = steps_per_epoch(training, recipe)
    if steps * recipe.epochs < 2 or (validation is not None and not len(validation)):
        raise DataError(
            "train",
            f"{len(training)} windows to learn from, {'none' if validation is None else len(validation)} to validate",
            f"expected two batches of {recipe.batch}, and windows of the assets that are held out",
            hint="more or longer lives are needed, or a smaller recipe.batch or window",
        )
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    random = torch.Generator().manual_seed(settings.seed)  # of order and augmentation; dropout has torch's own
    normaliser = ZScore.fit(training.table.inputs)
    learn = prepare(training, settings, normaliser)
    judge = None if validation is None else prepare(validation, settings, normaliser)

    widths = settings.model
    model = DualTaskModel(
        len(settings.inputs), widths.lstm_hidden, widths.num_heads, widths.shared_dim, len(settings.classes)
    )
    model.rul_head.set_final_bias(float(learn.labels.rul.mean()) * learn.scale)
    probe = learn.batch(np.linspace(0, len(training) - 1, min(PROBE, len(training))).astype(np.int64))[0]
    guard_dead_head(model, probe, "before the first step")

    loss = settings.loss.build()
    everything = [*model.parameters(), *loss.parameters()]
    optimiser = torch.optim.AdamW(
        everything, lr=recipe.schedule.learning_rate, weight_decay=recipe.optimiser.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.schedule.learning_rate,
        total_steps=recipe.epochs * steps,
        # A warm-up of exactly one step would make torch divide by 0.
        pct_start=max(recipe.schedule.warmup, 2 / (steps * recipe.epochs)),
        div_factor=1 / recipe.schedule.start,
        final_div_factor=recipe.schedule.start / recipe.schedule.end,
    )
    average = MovingAverage(model, recipe.ema)
    if recipe.precision == "bfloat16" and (slower := bfloat16_slowdown()) > 1:
        progress.say(f"bfloat16 is {slower:.0f} times slower than float32 on this processor: set precision to float32")

    done = []
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for step, (x, targets) in enumerate(_batches(learn, recipe, random, steps), 1):
            figures = _step(model, loss, x, targets, settings, optimiser)
            schedule.step()
            average.update(model)
            if not np.isfinite(figures["loss"]):
                raise TrainingError(
                    "train",
                    f"epoch {epoch}, step {step}",
                    f"the loss is {figures['loss']}",
                    hint="lower recipe.schedule.learning_rate",
                )
            total += figures["loss"]
            progress.step(epoch, step, figures["loss"])
        guard_dead_head(model, probe, f"after epoch {epoch}")
        guard_dead_head(average.model, probe, f"after epoch {epoch}, moving average")
        reached = None if judge is None else score(average.model, judge)
        done.append(Epoch(epoch, total / steps, reached))
        shown = {} if reached is None else dict(zip(SHOWN, operator.attrgetter(*SHOWN.values())(reached), strict=True))
        progress.epoch(epoch, {"loss": total / steps, **shown})
    return Fitted(average.model, normaliser, done)


def _batches(
    learn: Prepared, recipe: RecipeSettings, random: torch.Generator, steps: int
) -> Iterator[tuple[Tensor, Targets]]:
    """One epoch: every window at most once, in random order, augmented."""
    order = torch.randperm(len(learn.windows), generator=random).numpy()
    for select in order[: steps * recipe.batch].reshape(steps, recipe.batch):
        x, targets = learn.batch(select)
        yield augment(x, recipe.augment, random), targets


def _step(
    model: DualTaskModel,
    loss: Loss,
    x: Tensor,
    targets: Targets,
    settings: TrainingSettings,
    optimiser: torch.optim.Optimizer,
) -> dict[str, float]:
    recipe = settings.recipe
    model.train()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        rul, logits = model.forward_last(x)  # (B,), (B, C)
    rul_error, class_error = loss.errors(rul.float(), logits.float(), targets)  # (), ()
    figures = loss.backward(rul_error, class_error, by_task(model))
    if recipe.optimiser.clip:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimiser.clip)
    optimiser.step()
    return figures


def by_task(model: DualTaskModel) -> Parameters:
    """The model's parameters by the tasks that train them."""
    rul, health = list(model.rul_head.parameters()), list(model.health_head.parameters())
    heads = {id(p) for p in (*rul, *health)}
    return Parameters([p for p in model.parameters() if id(p) not in heads], rul, health)


@torch.no_grad()
def predict(model: DualTaskModel, prepared: Prepared) -> tuple[Array, Array]:
    """rul (N,) on the training scale and logits (N, C) of all windows, in eval mode and float32."""
    model.eval()
    ruls, logits = [], []
    for begin in range(0, len(prepared.windows), EVALUATION_BATCH):
        select = np.arange(begin, min(begin + EVALUATION_BATCH, len(prepared.windows)))
        r, c = model.forward_last(prepared.batch(select)[0])  # (B,), (B, C)
        ruls.append(r.numpy())
        logits.append(c.numpy())
    return np.concatenate(ruls), np.concatenate(logits)


def score(model: DualTaskModel, prepared: Prepared) -> Scores:
    """Figures over all windows, in the RUL's unit."""
    rul, logits = predict(model, prepared)
    return scores(rul / np.float32(prepared.scale), logits, prepared.labels.rul, prepared.labels.health)


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


def bfloat16_slowdown() -> float:
    """How many times longer than in float32 a matrix product takes in bfloat16 on this processor.

    Above 1 the processor lacks bfloat16 instructions and emulates them.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, dtype=dtype)
        run: Callable[[], Tensor] = lambda: a @ a  # noqa: E731
        run()
        begun = time.perf_counter()
        for _ in range(5):
            run()
        return time.perf_counter() - begun

    return seconds(torch.bfloat16) / seconds(torch.float32)
