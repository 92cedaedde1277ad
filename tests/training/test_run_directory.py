"""What a run leaves behind, and that one which was broken off goes on to the same bits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from edge_rul import bundle as bundles
from edge_rul.cli import main
from edge_rul.errors import EXIT_USAGE, ConfigError, DataError
from edge_rul.training import checkpoint, progress
from edge_rul.training.commands import train_command
from edge_rul.training.progress import Silent
from edge_rul.training.run import State

EPOCHS = 4
# Each has a state of its own to carry over the break.
RECIPES = {
    "adamw, onecycle, ema": "",
    "sgd, plateau, uniform": """
  optimiser: {name: sgd}
  schedule: {name: plateau, learning_rate: 0.0001, warmup_epochs: 0.5, patience: 0}
  average: {name: uniform, last: 0.9}
  early_stopping: {patience: 3}
""",
    "nadam, cosine, gradnorm": """
loss: {name: gradnorm}
  optimiser: {name: nadam}
  schedule: {name: cosine, learning_rate: 0.001, warmup_epochs: 1}
""",
    "adamw, constant": """
  schedule: {name: constant, learning_rate: 0.001, warmup_epochs: 0}
""",
    "muon, onecycle": """
  optimiser: {name: muon}
""",
    "teachers": """
  distil: {teachers: [{kind: perceptron, members: 2, width: 8, epochs: 2}, {kind: tree}]}
  augment: {noise: 0.1, offset: 0.2, ramp: 0.2, spread: 0.5}
""",
    "muon from He's start, and perceptrons of two kinds": """
model: {lstm_hidden: 8, num_heads: 2, shared_dim: 8, dropout: 0.0, start: he}
  windows_per_epoch: 140
  optimiser: {name: muon, weight_decay: 0.01, clip: 1.0}
  distil:
    teachers:
      - {kind: perceptron, members: 2, width: 8, epochs: 2, depth: 3, bottleneck: 2, windows_per_epoch: 100}
      - {kind: perceptron, members: 1, width: 8, epochs: 2, depth: 2, sample_weights: amnl}
  augment: {offset: 0.35, ramp: 0.45, spread: 0.6}
""",
}


class Broken(Exception):
    """Stands for a power cut."""


class Breaks(Silent):
    """Breaks the run off in the middle of its third epoch."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        if (epoch, step) == (3, 2):
            raise Broken


def configure(config: Path, recipe: str) -> None:
    """The tests' recipe with these keys in place of its own."""
    lines = config.read_text().replace("epochs: 2", f"epochs: {EPOCHS}").splitlines()
    named = {line.split(":")[0] for line in recipe.splitlines() if line.strip()}
    lines = [line for line in lines if line.split(":")[0] not in named]
    at = lines.index("recipe:") + 1
    inner = [line for line in recipe.splitlines() if line.startswith(" ")]
    outer = [line for line in recipe.splitlines() if line and line not in inner]
    text = "\n".join([*lines[:at], *inner, *lines[at:], *outer]) + "\n"
    config.write_text(text + "validation: {share: 0.2, seed: 1}\n")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_that_was_broken_off_goes_on_to_the_same_bits(
    recipe: str, config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(config, recipe)
    whole, broken = tmp_path / "whole-run", tmp_path / "broken-run"
    train_command(config, engines, tmp_path / "whole", run_dir=whole)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "on_stderr", lambda *_: Breaks())
        with pytest.raises(Broken):
            train_command(config, engines, tmp_path / "taken-up", run_dir=broken)
    assert len(rows(broken / "epochs.csv")) == 2
    assert not (tmp_path / "taken-up").exists()
    train_command(config, engines, tmp_path / "taken-up", run_dir=broken, resume=True)

    first, second = (bundles.load(tmp_path / name).manifest for name in ("whole", "taken-up"))
    assert second.files == first.files
    assert second.training["epochs"] == first.training["epochs"]
    for name in ("steps.csv", "epochs.csv"):
        assert (broken / name).read_text() == (whole / name).read_text(), name
    # Norms are logged at each step where the loss needs them, else at the first and at each `log_every`, here the 50th.
    taken = [int(row["step"]) for row in rows(whole / "steps.csv")]
    assert taken == (list(range(1, len(taken) + 1)) if "gradnorm" in recipe else [1])
    assert len(taken) > EPOCHS or "gradnorm" not in recipe


def test_a_run_directory_holds_what_one_asks_of_a_run(config: Path, engines: Path, tmp_path: Path) -> None:
    configure(config, "  log_every: 3")
    directory = tmp_path / "run"
    train_command(config, engines, tmp_path / "bundle", run_dir=directory)
    assert (directory / "configuration.yaml").read_bytes() == config.read_bytes()
    assert json.loads((directory / "environment.json").read_bytes())["packages"]["torch"]
    assert [row["epoch"] for row in rows(directory / "epochs.csv")] == [str(i + 1) for i in range(EPOCHS)]
    assert {"loss", "validation rmse", "macro F1"} <= set(rows(directory / "epochs.csv")[0])
    steps = rows(directory / "steps.csv")
    assert [int(row["step"]) for row in steps][:3] == [1, 3, 6]
    for name in ("rul_norm", "class_norm", "rul_weight", "class_weight", "learning_rate"):
        assert float(steps[-1][name]) >= 0, name
    for name in ("epochs.svg", "tasks.svg"):
        assert "</svg>" in (directory / "plots" / name).read_text()
    assert [p.name for p in directory.glob("*.safetensors")] == [f"checkpoint-{EPOCHS:04d}.safetensors"]


def test_a_checkpoint_takes_away_the_one_before_it_and_what_a_killed_write_left(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f".checkpoint-000{number}.safetensors.0123456789abcdef").write_bytes(b"part")
        checkpoint.write(tmp_path, State({"w": torch.ones(3)}, {}), number)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-0002.safetensors", "checkpoint.json"]


def test_a_run_is_taken_up_only_where_nothing_has_changed(config: Path, engines: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    train_command(config, engines, tmp_path / "first", run_dir=directory)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_command(config, engines, tmp_path / "second", run_dir=directory)
    with (engines / "train_FD001.txt").open("a") as file:
        file.write(" \n")
    with pytest.raises(ConfigError, match=r"data is not what the run began with: train_FD001\.txt was \w+ and is \w+"):
        train_command(config, engines, tmp_path / "second", run_dir=directory, resume=True)
    config.write_text(config.read_text() + "# another word\n")
    with pytest.raises(ConfigError, match="configuration is not what the run began with"):
        train_command(config, engines, tmp_path / "second", run_dir=directory, resume=True)


def test_a_checkpoint_that_is_not_whole_is_refused(config: Path, engines: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    train_command(config, engines, tmp_path / "first", run_dir=directory)
    tensors = next(directory.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is not what checkpoint\.json describes"):
        train_command(config, engines, tmp_path / "second", run_dir=directory, resume=True)
    tensors.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        train_command(config, engines, tmp_path / "second", run_dir=directory, resume=True)
    assert checkpoint.read(tmp_path) is None


def test_a_run_directory_that_cannot_be_written_is_told_before_the_training(
    config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_rul.training.fit.fit", lambda *_: pytest.fail("training began"))
    (tmp_path / "run" / "configuration.yaml").mkdir(parents=True)  # as good as a directory without permission
    for path in (config, config / "run", tmp_path / "run"):
        with pytest.raises(ConfigError, match=rf"train: {path}: cannot be written: .*\n  hint: --run-dir names a dir"):
            train_command(config, engines, tmp_path / "bundle", run_dir=path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_beginning_is_refused(config: Path, engines: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "begun.json").write_bytes(content)
    with pytest.raises(DataError, match=r"resume: .*begun\.json: cannot be read: .*\n  hint: begin again in another"):
        train_command(config, engines, tmp_path / "bundle", run_dir=tmp_path / "run", resume=True)


def test_resume_without_a_directory_is_a_mistake_of_usage(
    config: Path, engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(config), "--data", str(engines), "--out", str(tmp_path / "b"), "--resume"]
    assert main(command) == EXIT_USAGE
    assert "--run-dir, which is not given" in capsys.readouterr().err
