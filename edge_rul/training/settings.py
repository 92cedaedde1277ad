"""The training configuration.

Owns its shape and what one key says of another. Everything that decides how good a model becomes stands here and
nothing in code; an unknown key is an error. Must not read data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_rul.bundle import HealthClass, Rul
from edge_rul.core.features import Feature, Features
from edge_rul.core.smooth import Smoothing
from edge_rul.errors import ConfigError, DataError
from edge_rul.training.augment import AugmentSettings
from edge_rul.training.average import AverageSettings, EmaSettings
from edge_rul.training.calibrate import IntervalSettings
from edge_rul.training.clean import Rule
from edge_rul.training.dataset import DatasetSettings
from edge_rul.training.device import Device, Precision
from edge_rul.training.losses import LossSettings
from edge_rul.training.normaliser import NormaliserSettings, ZScoreSettings
from edge_rul.training.optimiser import OptimiserSettings
from edge_rul.training.parts import FoldsSplit, Seed, in_order
from edge_rul.training.run_to_failure import TableSettings
from edge_rul.training.schedule import PlateauSettings, ScheduleSettings
from edge_rul.training.table import Table, split
from edge_rul.training.teachers import DistilSettings
from edge_rul.training.transfer import TransferSettings
from edge_rul.yaml_file import load_yaml

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]


class InputSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number of a reading, by the data set's name for it.

    unit:     "-" where it has none
    valid:    [low, high]; a value beyond is an error of the sensor, and as good as missing
    missing:  a reading without it is rejected, or the value before stands in: hold; dataset.rows.missing where left out
    max_hold: readings in a row for which it may be held in a window; None sets no limit
    """

    name: Annotated[str, Meta(min_length=1)]
    unit: str
    description: str = ""
    valid: tuple[float, float] | None = None
    missing: Literal["reject", "hold"] | None = None
    max_hold: Annotated[int, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.valid is not None and not self.valid[0] < self.valid[1]:
            raise ValueError(f"valid of {self.name} is {list(self.valid)}, expected [low, high] with low below high")
        if self.max_hold is not None and self.missing != "hold":
            raise ValueError(f"max_hold of {self.name} is set, expected `missing: hold` with it")


class HeldOutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whole assets that are never fitted, not by the normaliser either.

    share: of the assets, drawn by `seed`. fold: in place of a share, the one asset of this number in the order of their
    names, from 0; for data with few assets. `edge-rul train --fold K` leaves out another.
    """

    share: Share = 0.2
    seed: Seed = 0
    fold: Annotated[int, Meta(ge=0)] | None = None

    def split(self, table: Table, key: str) -> tuple[Table, Table]:
        """(the others, held out). key: the configuration's for it. Raises DataError when none would be left to learn
        from, or there is no such fold."""
        if self.fold is None:
            return split(table, self.share, self.seed, key)
        assets = in_order(table.assets)
        if len(assets) < 2 or self.fold >= len(assets):
            problem = f"asset {self.fold} cannot be left out, counted from 0; there are {len(assets)}"
            raise DataError("split", f"{key}.fold", problem, hint="at least one must be left to learn from")
        return table.of([a for a in assets if a != assets[self.fold]]), table.of([assets[self.fold]])


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """DualTaskModel's widths; the defaults are the published model's. dropout: a factor on its rates, in training.
    start: the weights to begin with, as torch draws them or, from the funnel on, by He (`DualTaskModel.draw_he`)."""

    lstm_hidden: Count = 256
    num_heads: Count = 8
    shared_dim: Count = 32
    dropout: Annotated[float, Meta(ge=0, le=3)] = 1.0
    start: Literal["torch", "he"] = "torch"

    def __post_init__(self) -> None:
        if 2 * self.lstm_hidden % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, expected a divisor of 2 * lstm_hidden = {2 * self.lstm_hidden}"
            )


class EarlyStoppingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End after `patience` epochs without a lower validation RMSE, and ship the best epoch's average."""

    patience: Count


class RecipeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the network is fitted.

    epochs:            passes over the training windows, at most
    batch:             windows a step
    average:           of the weights over the steps: the model that ships
    distil:            small models fitted first, whose answers the network learns in place of the labels
    windows_per_epoch: how many of the training windows an epoch draws, in whole batches; all where it is left out
    early_stopping:    needs validation assets
    precision:         bfloat16 runs the network under autocast; the weights, the loss and all evaluation stay float32
    device:            auto takes a CUDA GPU where there is one
    transfer:          how tensors that --init-from took over begin to move
    log_every:         steps from one measurement of the tasks' gradient norms to the next, where the loss needs none
    """

    epochs: Count
    batch: Annotated[int, Meta(ge=2)]
    optimiser: OptimiserSettings
    schedule: ScheduleSettings
    average: AverageSettings = EmaSettings()
    distil: DistilSettings | None = None
    windows_per_epoch: Count | None = None
    early_stopping: EarlyStoppingSettings | None = None
    precision: Precision = "float32"
    device: Device = "auto"
    augment: AugmentSettings = AugmentSettings()
    transfer: TransferSettings = TransferSettings()
    log_every: Count = 50

    def __post_init__(self) -> None:
        drawn = self.windows_per_epoch
        if drawn is not None and drawn // self.batch * self.epochs < 2:
            least = f"batch, which is {self.batch}" if self.epochs > 1 else f"twice batch, {self.batch}, in one epoch"
            raise ValueError(f"windows_per_epoch is {drawn}, expected at least {least}")

    @property
    def watched_by(self) -> str:
        """The key that watches the validation RMSE; empty where none does."""
        if self.early_stopping is not None:
            return "recipe.early_stopping"
        return "recipe.schedule: {name: plateau}" if isinstance(self.schedule, PlateauSettings) else ""


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. window, stride: in readings. rul.max caps the labels; classes are told by RUL
    thresholds, or named by the data set.

    features:    what the model sees of the inputs, by name or declared; by default each input that is no setting of the
                 normaliser's
    smooth:      windows along time, after the normaliser

    calibration: assets that decide nothing about the network: its intervals and its held-out figures come from them
    validation:  out of the others, for choosing: early stopping, a schedule that watches a plateau, a search. A final
                 run leaves it out and learns from them too
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9_]+$")]
    description: str
    dataset: DatasetSettings
    inputs: Annotated[list[InputSettings], Meta(min_length=1)]
    window: Count
    rul: Rul
    classes: Annotated[list[HealthClass], Meta(min_length=2)]
    loss: LossSettings
    recipe: RecipeSettings
    stride: Count = 1
    calibration: HeldOutSettings = HeldOutSettings()
    validation: HeldOutSettings | None = None
    model: ModelSettings = ModelSettings()
    interval: IntervalSettings = IntervalSettings()
    features: Annotated[list[str | Feature], Meta(min_length=1)] | None = None
    normaliser: NormaliserSettings = ZScoreSettings()
    smooth: Smoothing | None = None
    seed: Seed = 0

    @property
    def seen(self) -> list[Feature]:
        """What the model sees, in its order."""
        given = self.features
        if given is None:
            given = [i.name for i in self.inputs if i.name not in self.normaliser.settings]
        return [Feature(f, f) if isinstance(f, str) else f for f in given]

    def __post_init__(self) -> None:
        for name in ("rul", "classes", "loss", "recipe", "model", "normaliser", "smooth"):
            for problem in _not_finite(getattr(self, name), name):
                raise ValueError(f"{problem}, expected a finite number")
        if self.rul.max <= 0:
            raise ValueError(f"rul.max is {self.rul.max:g}, expected a number above 0")
        if self.validation is None and self.recipe.watched_by:
            raise ValueError(
                "recipe.early_stopping and a plateau schedule watch the validation RMSE, and no assets are held out: "
                "expected validation: {share: ..., seed: ...}"
            )
        if self.normaliser.loadings and self.smooth is None:
            raise ValueError(
                "normaliser.loadings is true, and weighs readings in a line: expected smooth: {kind: line}"
            )
        if self.normaliser.loadings and (changes := [f.name for f in self.seen if f.change is not None]):
            problem = f"normaliser.loadings is true, and features has changes ({', '.join(changes)})"
            raise ValueError(f"{problem}: expected none, as the noise of a change is that of two readings")
        names = [i.name for i in self.inputs]
        _refuse_twice(names, "inputs name a sensor twice")
        if isinstance(self.dataset, TableSettings) and (unknown := set(self.dataset.columns) - set(names)):
            problem = f"dataset.columns names {', '.join(sorted(unknown))}; the inputs are {', '.join(names)}"
            raise ValueError(problem)
        self._check_features(names)
        self._check_classes()

    def _check_classes(self) -> None:
        names = [c.name for c in self.classes]
        _refuse_twice(names, "classes have a name twice")
        above = [c.above for c in self.classes]
        if self.dataset.names_health:
            if any(a is not None for a in above):
                raise ValueError(f"classes are above {above}, expected no limits where dataset.health names the class")
            return
        limits = [a for a in above[:-1] if a is not None]
        if above[-1] is not None or len(limits) != len(above) - 1:
            raise ValueError(f"classes are above {above}, expected a limit for each but the last, which takes the rest")
        if limits != sorted(set(limits), reverse=True) or not 0 <= limits[-1] <= limits[0] < self.rul.max:
            raise ValueError(f"classes are above {limits}, expected falling limits from 0 to below rul.max")

    @property
    def rules(self) -> list[Rule]:
        """What becomes of each input's missing values. A range that is given is for finding them, and so no error."""
        rows = self.dataset.rows.rule
        return [
            Rule(i.name, i.valid, i.missing or ("reject" if i.valid and rows == "error" else rows), i.max_hold)
            for i in self.inputs
        ]

    def _check_features(self, inputs: list[str]) -> None:
        if not self.seen:
            raise ValueError("normaliser.by names all inputs, and none is left to see: expected another, or features")
        Features(self.seen, inputs)  # ValueError where an input is not there
        names = [f.name for f in self.seen]
        _refuse_twice(names, "features name one twice")
        if unknown := set(self.normaliser.settings) - set(inputs):
            raise ValueError(f"normaliser.by names {', '.join(sorted(unknown))}; the inputs are {', '.join(inputs)}")
        valid = {i.name: i.valid for i in self.inputs}
        for feature in self.seen:
            least = {"log": 0.0, "log1p": -1.0, None: None}[feature.log]
            found = valid[feature.of]
            if least is not None and (found is None or found[0] <= least):
                given = "not given" if found is None else list(found)
                raise ValueError(
                    f"feature {feature.name} is the {feature.log} of {feature.of}, whose valid range is {given}; "
                    f"expected valid: [low, high] with low above {least:g}"
                )


def _refuse_twice(names: list[str], problem: str) -> None:
    """ValueError where a name is there more than once."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{problem}: {', '.join(sorted(twice))}")


def _not_finite(value: object, key: str) -> Iterator[str]:
    """What is infinite or NaN in a setting: YAML has a number for both, and `at least 0` lets the first pass."""
    if isinstance(value, msgspec.Struct):
        for name, below in msgspec.structs.asdict(value).items():
            yield from _not_finite(below, f"{key}.{name}")
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from _not_finite(below, f"{key}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} is {value}"


def load_settings(path: Path) -> TrainingSettings:
    """Raises ConfigError with file:line, dotted key, what was found and what was expected."""
    return load_yaml(path, TrainingSettings)


def with_fold(settings: TrainingSettings, fold: int) -> TrainingSettings:
    """The settings with another fold as the test, or where there is a test already, another asset left out.

    Raises ConfigError where the configuration knows no folds, or not so many.
    """
    if isinstance(by := settings.dataset.split, FoldsSplit):
        try:
            chosen = msgspec.structs.replace(by, fold=fold)
        except ValueError as e:
            raise ConfigError("train", f"--fold {fold}", f"dataset.split: {e}") from None
        return msgspec.structs.replace(settings, dataset=msgspec.structs.replace(settings.dataset, split=chosen))
    if settings.calibration.fold is None:
        problem = "the configuration has no folds: expected dataset.split: {by: folds}, or calibration: {fold: 0}"
        raise ConfigError("train", f"--fold {fold}", problem)
    return msgspec.structs.replace(settings, calibration=msgspec.structs.replace(settings.calibration, fold=fold))


def with_seed(settings: TrainingSettings, seed: int) -> TrainingSettings:
    """The settings with another start of the network, and other assets kept for calibration."""
    calibration = msgspec.structs.replace(settings.calibration, seed=seed)
    return msgspec.structs.replace(settings, seed=seed, calibration=calibration)
