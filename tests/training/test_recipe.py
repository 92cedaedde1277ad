"""What the recipe's names stand for, against values worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from training.test_run_directory import configure

from edge_rul.errors import ConfigError
from edge_rul.model.health_head import HealthHead
from edge_rul.training import dataset, device, fit
from edge_rul.training.average import Average, AverageSettings, EmaSettings, UniformSettings
from edge_rul.training.commands import train_command
from edge_rul.training.metrics import Scores
from edge_rul.training.optimiser import (
    AdamWSettings,
    Float32Muon,
    MuonSettings,
    NAdamSettings,
    OptimiserSettings,
    SgdSettings,
    Together,
)
from edge_rul.training.progress import Silent
from edge_rul.training.schedule import ConstantSettings, CosineSettings, PlateauSettings, ScheduleSettings
from edge_rul.training.settings import load_settings
from edge_rul.training.windows import full_windows


def rates(settings: ScheduleSettings, epochs: int, rmse: list[float] | None = None) -> list[float]:
    """The learning rate of each of 4 steps an epoch."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = settings.build(optimiser, 4, epochs)
    seen = []
    for epoch in range(epochs):
        for _ in range(4):
            seen.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        schedule.epoch(rmse[epoch] if rmse else None)
    return seen


def test_the_rate_warms_up_in_a_line_and_stays() -> None:
    seen = rates(ConstantSettings(learning_rate=1.0, warmup_epochs=1, start=0.2), 2)
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    assert rates(ConstantSettings(learning_rate=1.0, warmup_epochs=0), 1) == [1.0] * 4


def test_the_rate_falls_along_half_a_cosine() -> None:
    seen = rates(CosineSettings(learning_rate=2.0, warmup_epochs=1, start=0.5, end=0.0), 2)
    assert seen[0] == 1.0 and seen[4] == 2.0
    assert seen[6] == pytest.approx(1.0), "half of it after half of the rest"


def test_the_rate_is_halved_when_the_validation_stands_still() -> None:
    settings = PlateauSettings(learning_rate=1.0, warmup_epochs=0, patience=1, least=0.3)
    seen = rates(settings, 8, rmse=[9.0, 8.0, 8.5, 8.2, 8.1, 8.3, 8.3, 8.3])[::4]
    # Two epochs without a lower RMSE than 8.0 halve it; 0.25 would be below the least.
    assert seen == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.3, 0.3]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (UniformSettings(last=0.5), (3.0 + 4.0) / 2),
        (UniformSettings(last=1.0), (1.0 + 2.0 + 3.0 + 4.0) / 4),
        (EmaSettings(decay=0.0), 4.0),
        # d = min(0.15, (1 + t) / (10 + t)): 0.1, 0.15, 0.15, 0.15, beginning at the source's 0.
        (EmaSettings(decay=0.15), 4 * 0.85 + 0.15 * (3 * 0.85 + 0.15 * (2 * 0.85 + 0.15 * 0.9))),
    ],
)
def test_the_average_of_four_steps(settings: AverageSettings, expected: float) -> None:
    source = nn.Linear(1, 1, bias=False)
    weight = source.weight
    with torch.no_grad():
        weight.zero_()
        average = Average(source, settings, 4)
        for step in (1.0, 2.0, 3.0, 4.0):
            weight.fill_(step)
            average.update(source)
    assert average.model.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings", [AdamWSettings(0.1), NAdamSettings(0.1), SgdSettings(0.1, momentum=0.0), MuonSettings(0.1)]
)
def test_a_losss_own_parameters_do_not_decay(settings: OptimiserSettings) -> None:
    model, loss = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    optimiser = settings.build(model, loss, 0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
        loss.weight.fill_(1.0)
    for parameter in (model.weight, loss.weight):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert model.weight.item() == pytest.approx(0.95)
    assert loss.weight.item() == 1.0


def test_muon_moves_a_matrix_equally_along_all_directions_and_the_rest_as_adamw_does() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 1))
    wide, narrow = model[0], model[1]
    settings = MuonSettings(weight_decay=0.0)
    optimiser = settings.build(model, nn.Identity(), 0.01)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    strengths = torch.logspace(-2, 2, 16)  # of the gradient along its 16 directions
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(i)))[0] for i in (1, 2))
    wide.weight.grad = left @ torch.diag(strengths) @ right
    for p in (wide.bias, narrow.weight, narrow.bias):
        p.grad = torch.full_like(p, 3.0)
    optimiser.step()

    step = before["0.weight"] - wide.weight
    # Five steps of Newton and Schulz take strengths that differ by a hundred to between 0.7 and 1.2.
    along = torch.diag(left.T @ step @ right.T)
    assert (along > 0).all()
    assert along[8:].max() < 2 * along[8:].min(), "those above a hundredth of the strongest"
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.3), "as large as AdamW's"
    for name in ("0.bias", "1.weight", "1.bias"):
        moved = before[name] - model.get_parameter(name)
        assert torch.allclose(moved, torch.full_like(moved, 0.01), rtol=1e-3), f"{name}: AdamW's first step"


@pytest.mark.parametrize("shape", [(16, 16), (24, 9), (9, 24)])
def test_muon_in_float32_is_torchs_to_bfloat16s_precision(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bfloat16 is emulated; two steps, so that momentum, decay and Nesterov's look ahead are in them."""
    random = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(3, *shape, generator=random)
    moved = []
    for emulated in (False, True):
        monkeypatch.setattr(device, "emulates_bfloat16", lambda _, emulated=emulated: emulated)
        model = nn.Linear(*reversed(shape), bias=False)
        with torch.no_grad():
            model.weight.copy_(start)
        optimiser = MuonSettings(weight_decay=0.1, momentum=0.9).build(model, nn.Identity(), 0.01)
        assert isinstance(optimiser, Together)
        assert [type(part) for part in optimiser.parts] == [Float32Muon if emulated else torch.optim.Muon]
        for gradient in gradients:
            model.weight.grad = gradient.clone()
            optimiser.step()
        moved.append((model.weight - start).detach())
    ours, torchs = moved[1], moved[0]
    assert not torch.equal(ours, torchs)
    assert (ours - torchs).norm() < 0.02 * torchs.norm()


def test_only_a_cpu_that_emulates_bfloat16_is_spared_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is asked, not measured: two runs on one processor must not differ."""
    monkeypatch.setattr(device, "bfloat16_slowdown", lambda: pytest.fail("a stopwatch"))
    for there, supported in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda there=there: there)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported, raising=True
        )
        assert device.emulates_bfloat16(torch.device("cpu")) is not (there and supported)
        assert not device.emulates_bfloat16(torch.device("cuda"))


def test_a_run_tells_that_muon_goes_by_float32(
    config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "emulates_bfloat16", lambda _: True)
    configure(config, "  optimiser: {name: muon}\n  epochs: 1\n  windows_per_epoch: 64")
    train_command(config, engines, tmp_path / "bundle")
    assert "this processor emulates bfloat16: muon's steps are found in float32" in capsys.readouterr().err


def test_early_stopping_ends_the_run_and_ships_the_best_epoch(
    config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation figures are made up, so that the second epoch is the best."""
    configure(config, "  early_stopping: {patience: 2}\n  epochs: 9")
    made_up = iter([5.0, 3.0, 4.0, 4.5])
    seen: list[dict[str, torch.Tensor]] = []
    predict, score = fit.predict, fit.score

    def seeing(model: nn.Module, prepared: object) -> object:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return predict(model, prepared)  # type: ignore[arg-type]

    def making_up(answers: object, prepared: object) -> Scores:
        return msgspec.structs.replace(score(answers, prepared), rmse=next(made_up))  # type: ignore[arg-type]

    fitted: list[fit.Fitted] = []
    whole = fit.fit

    def keeping(*args: object) -> fit.Fitted:
        fitted.append(whole(*args))  # type: ignore[arg-type]
        return fitted[0]

    monkeypatch.setattr(fit, "predict", seeing)
    monkeypatch.setattr(fit, "score", making_up)
    monkeypatch.setattr(fit, "fit", keeping)
    train_command(config, engines, tmp_path / "bundle")
    assert len(fitted[0].epochs) == 4
    for name, tensor in fitted[0].model.state_dict().items():
        assert torch.equal(tensor, seen[1][name]), name


def test_windows_per_epoch_bounds_the_steps(config: Path, engines: Path, tmp_path: Path) -> None:
    configure(config, "  windows_per_epoch: 70\n  log_every: 1\n  batch: 32")
    train_command(config, engines, tmp_path / "bundle", run_dir=tmp_path / "run")
    assert len((tmp_path / "run" / "steps.csv").read_text().splitlines()) == 1 + 4 * 2


def test_a_gpu_that_is_asked_for_and_absent_is_a_mistake_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose("auto") == device.choose("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"recipe\.device: is cuda, and torch sees no GPU"):
        device.choose("cuda")


def test_a_gpu_is_taken_where_there_is_one_and_computes_alike_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert device.choose("cpu") == torch.device("cpu")
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_bfloat16_is_of_the_networks_pass_and_not_of_what_it_learns_by(config: Path, engines: Path) -> None:
    """Another rounding of the same course: weights, averages and figures are float32's."""
    settings = load_settings(config)
    table = dataset.load(settings.dataset, engines, "train", [i.name for i in settings.inputs])
    windows = full_windows(table, settings.window)
    seen: set[tuple[bool, torch.dtype]] = set()  # whether in training, and of what the network's answers are

    def look(module: nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(module, HealthHead):
            seen.add((module.training, out.dtype))

    done = []
    for precision in ("float32", "bfloat16"):
        recipe = msgspec.structs.replace(settings.recipe, precision=precision, windows_per_epoch=64, epochs=1)
        hook = nn.modules.module.register_module_forward_hook(look)
        done.append(fit.fit(windows, windows, msgspec.structs.replace(settings, recipe=recipe), Silent()))
        hook.remove()
    assert seen == {(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)}
    exact, rounded = done
    assert {t.dtype for t in rounded.model.parameters()} == {torch.float32}
    assert exact.epochs[0].loss != rounded.epochs[0].loss == pytest.approx(exact.epochs[0].loss, rel=0.05)


def test_who_watches_a_plateau_needs_validation_assets(config: Path) -> None:
    config.write_text(config.read_text().replace("recipe:\n", "recipe:\n  early_stopping: {patience: 2}\n"))
    with pytest.raises(ConfigError, match="watch the validation RMSE, and no assets are held out"):
        load_settings(config)
