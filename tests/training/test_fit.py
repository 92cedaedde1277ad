"""The training loop: what it starts from, what it refuses, and that it gives the same bits twice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edge_rul.core.features import Feature
from edge_rul.errors import DataError
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training import dataset
from edge_rul.training.augment import AugmentSettings, augment
from edge_rul.training.average import Average, EmaSettings
from edge_rul.training.fit import TrainingError, fit, guard_dead_head, teach
from edge_rul.training.prepared import fit_transform, prepare
from edge_rul.training.progress import Lines, Silent
from edge_rul.training.run import Run
from edge_rul.training.schedule import OneCycleSettings, PlateauSettings
from edge_rul.training.settings import EarlyStoppingSettings, HeldOutSettings, TrainingSettings
from edge_rul.training.table import split
from edge_rul.training.teachers import DistilSettings, PerceptronSettings, TreeSettings
from edge_rul.training.windows import Windows, full_windows


class Data(NamedTuple):
    training: Windows
    validation: Windows


@pytest.fixture
def data(engines: Path, settings: TrainingSettings) -> Data:
    table = dataset.load(settings.dataset, engines, "train", [i.name for i in settings.inputs])
    parts = split(table, settings.calibration.share, settings.calibration.seed)
    return Data(*(full_windows(part, settings.window) for part in parts))


def test_two_runs_give_the_same_bits(data: Data, settings: TrainingSettings) -> None:
    first, second = (fit(data.training, data.validation, settings, Silent()) for _ in range(2))
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    assert first.epochs == second.epochs
    third = fit(data.training, data.validation, msgspec.structs.replace(settings, seed=1), Silent())
    assert third.epochs != first.epochs


def test_training_learns_and_starts_from_the_labels_mean(data: Data, settings: TrainingSettings) -> None:
    recipe = msgspec.structs.replace(settings.recipe, epochs=6)
    done = fit(data.training, data.validation, msgspec.structs.replace(settings, recipe=recipe), Silent())
    assert len(done.epochs) == 6
    labels = np.minimum(data.validation.table.rul[data.validation.last], settings.rul.max)
    assert done.epochs[-1].validation is not None
    assert done.epochs[-1].validation.rmse < 0.8 * labels.std()
    # An input that is constant in training normalises to 0.
    assert done.transform.normaliser.std[3] == 0


def test_a_dead_head_stops_the_run(data: Data, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_rul.model.rul_head.RULHead.set_final_bias", lambda head, value: kill(head))
    with pytest.raises(TrainingError, match=r"before the first step: it answers 0 for all of \d+ training windows"):
        fit(data.training, data.validation, settings, Silent())


def test_a_head_that_dies_on_the_way_stops_the_run(data: Data, settings: TrainingSettings) -> None:
    class Killer(Silent):
        def step(self, epoch: int, step: int, loss: float) -> None:
            if epoch == 2:
                kill(model.rul_head)

    models: list[DualTaskModel] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_rul.training.run.DualTaskModel", lambda *a: models.append(DualTaskModel(*a)) or models[0])
        model = Later(models)
        with pytest.raises(TrainingError, match="after epoch 2"):
            fit(data.training, data.validation, settings, Killer())


class Later:
    """The model that `fit` will have made by the time that a step is reported."""

    def __init__(self, models: list[DualTaskModel]) -> None:
        self.models = models

    @property
    def rul_head(self) -> nn.Module:
        return self.models[0].rul_head


def kill(head: nn.Module) -> None:
    """Make the head's last ReLU answer 0 whatever comes in."""
    last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(-1.0)


def test_the_guard_leaves_a_living_model_as_it_was() -> None:
    model = DualTaskModel(4, 8, 2, 8, 3).train()
    model.rul_head.set_final_bias(60.0)
    guard_dead_head(model, torch.randn(5, 10, 4), "now")
    assert model.training


def test_a_loss_that_is_no_number_stops_the_run(data: Data, settings: TrainingSettings) -> None:
    recipe = msgspec.structs.replace(settings.recipe, schedule=OneCycleSettings(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"the loss is|answers 0 for all"):
        fit(data.training, data.validation, msgspec.structs.replace(settings, recipe=recipe), Silent())


def test_too_few_windows_are_refused(data: Data, settings: TrainingSettings) -> None:
    recipe = msgspec.structs.replace(settings.recipe, batch=1000)
    for validation in (data.validation, None):
        with pytest.raises(
            DataError, match=r"train: \d+ windows to learn from: expected two batches of 1000\n  hint: more"
        ):
            fit(data.training, validation, msgspec.structs.replace(settings, recipe=recipe), Silent())


def test_validation_assets_without_a_window_are_named(data: Data, settings: TrainingSettings) -> None:
    none = full_windows(data.validation.table, 100)
    names = ", ".join(none.table.assets)
    with pytest.raises(
        DataError, match=rf"train: validation: its assets \({names}\) have no full window of 100 readings"
    ):
        fit(data.training, none, settings, Silent())


@pytest.mark.parametrize("by", ["recipe.early_stopping", "recipe.schedule"])
def test_what_watches_the_validation_needs_an_asset_that_failed(
    by: str, data: Data, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_rul.training.fit.Run", lambda *_: pytest.fail("training began"))
    watching = {"early_stopping": EarlyStoppingSettings(2)} if "early" in by else {"schedule": PlateauSettings()}
    chosen = msgspec.structs.replace(
        settings,
        recipe=msgspec.structs.replace(settings.recipe, **watching),
        validation=HeldOutSettings(),
    )
    table, nothing = data.validation.table, np.zeros(len(data.validation.table), np.float32)
    watched = msgspec.structs.replace(table, is_lower_bound=np.ones(len(table), np.bool_), rul=nothing)
    judged = full_windows(watched, settings.window)
    with pytest.raises(DataError, match=rf"train: validation: none of its assets \(.*\) was seen to fail.*{by}"):
        fit(data.training, judged, chosen, Silent())


def test_hes_start_reaches_the_network(data: Data, settings: TrainingSettings) -> None:
    """From the funnel on; the encoder is drawn by torch either way."""
    learn = prepare(data.training, settings, fit_transform(data.training.table, settings))
    he = msgspec.structs.replace(settings, model=msgspec.structs.replace(settings.model, start="he"))
    drawn, other = (Run(learn, chosen, 10).model.state_dict() for chosen in (settings, he))
    changed = {name for name in drawn if not torch.equal(drawn[name], other[name])}
    assert any(name.startswith("rul_head") for name in changed)
    assert not any(name.startswith("lstm") for name in changed)


def test_the_number_of_teachers_is_told(data: Data, settings: TrainingSettings) -> None:
    said: list[str] = []
    shown = Silent()
    shown.say = said.append  # type: ignore[method-assign]
    distil = DistilSettings([PerceptronSettings(members=3, width=4, epochs=1), TreeSettings()])
    teach(distil, prepare(data.training, settings, fit_transform(data.training.table, settings)), 0, shown)
    assert said[:2] == ["fitting 4 teachers", "teacher 1 of 4 is fitted"] and len(said) == 5


def test_a_change_in_time_needs_times(data: Data, settings: TrainingSettings) -> None:
    per_hour = msgspec.structs.replace(settings, features=[Feature("rate", "T24", change="hour")])
    with pytest.raises(DataError, match="feature rate: is a change in time, and the data set has no times"):
        fit_transform(data.training.table, per_hour)


def test_the_moving_average_by_hand() -> None:
    source = nn.BatchNorm1d(1)
    average = Average(source, EmaSettings(0.15), 2)
    with torch.no_grad():
        source.weight.fill_(11.0)
        source.running_mean.fill_(1.0)  # type: ignore[union-attr]
        source.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    average.update(source)  # d = min(0.15, 1/10): 1 + 0.9 * (11 - 1) = 10
    assert average.model.weight.item() == pytest.approx(10.0)
    assert average.model.running_mean.item() == pytest.approx(0.9)  # type: ignore[union-attr]
    assert average.model.num_batches_tracked.item() == 7  # type: ignore[union-attr]
    average.update(source)  # d = min(0.15, 2/11) = 0.15: 10 + 0.85 * (11 - 10) = 10.85
    assert average.model.weight.item() == pytest.approx(10.85)
    assert source.weight.item() == 11.0


def test_augmentation_moves_levels_and_drops_whole_sensors() -> None:
    x = torch.ones(200, 10, 4)
    offset = augment(x, AugmentSettings(offset=0.15), torch.Generator().manual_seed(0))
    assert torch.equal(offset, offset[:, :1].expand_as(offset))  # constant over the window
    assert (offset[:, 0] - 1).std().item() == pytest.approx(0.15, rel=0.1)
    noise = augment(x, AugmentSettings(noise=0.2), torch.Generator().manual_seed(0))
    assert (noise - 1).std().item() == pytest.approx(0.2, rel=0.05)
    dropped = augment(x, AugmentSettings(sensor_dropout=0.1), torch.Generator().manual_seed(0))
    gone = (dropped == 0).all(dim=1)  # (200, 4)
    assert torch.equal(dropped == 0, gone[:, None].expand_as(dropped))
    assert gone.float().mean().item() == pytest.approx(0.1, abs=0.04)
    assert torch.equal(augment(x, AugmentSettings(), torch.Generator()), x)


def test_some_windows_are_moved_far_and_most_stay_close() -> None:
    x = torch.zeros(4000, 10, 14)
    settings = AugmentSettings(offset=0.3, ramp=0.4, spread=0.6)
    size = augment(x, settings, torch.Generator().manual_seed(0))[:, [0, -1]].square().mean(dim=(1, 2)).sqrt()  # (B,)
    # At the ends offset and ramp make 0.5; one factor a window is log-normal: its logarithm deviates by 0.6.
    assert size.log().mean().exp().item() == pytest.approx(0.5, rel=0.05)
    assert size.log().std().item() == pytest.approx(0.6, rel=0.1)


def test_plain_lines_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(epochs=2, steps=3, interval=0) as shown:
        shown.step(1, 1, 2345.678)
        shown.epoch(1, {"loss": 12.0, "validation rmse": 13.456789})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1/2  step 1/3  loss 2346"
    assert lines[1].startswith("epoch 1/2  loss 12  validation rmse 13.46  0 s")
