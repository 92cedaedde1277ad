"""Beginning with another bundle's weights: what is taken over, and how it begins to move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bundles import make_bundle
from edge_rul import bundle as bundles
from edge_rul.errors import BundleError
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.commands import train_command
from edge_rul.training.transfer import Brake, Start, TransferSettings, in_words, read, take_over


def test_all_is_taken_over_but_what_has_another_shape(tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "source", inputs=("a", "b", "c"), classes=("good", "bad"))
    model = DualTaskModel(4, 8, 2, 32, 3)
    start = read(source.path)
    taken = take_over(model, start)
    new = {name for name in model.state_dict() if name not in taken}
    assert new == {"cnn.conv1.weight", "health_head.layers.4.weight", "health_head.layers.4.bias"}
    assert in_words(model, taken).endswith("health_head.layers.4.weight, health_head.layers.4.bias")
    assert all(torch.equal(model.state_dict()[name], start.tensors[name]) for name in taken)


def test_a_bundle_in_another_unit_is_taken_over_on_the_training_scale(tmp_path: Path) -> None:
    """Its head's last Linear holds the factor max_rul / 125."""
    source = make_bundle(tmp_path / "source")
    parts = bundles.load(source.path)
    seconds = read(source.path)
    manifest = (source.path / bundles.MANIFEST).read_text()
    (source.path / bundles.MANIFEST).write_text(manifest.replace('"max": 125.0', '"max": 3600.0'))
    scaled = read(source.path)
    for name, tensor in seconds.tensors.items():
        factor = 125 / 3600 if name in ("rul_head.layers.6.weight", "rul_head.layers.6.bias") else 1.0
        assert torch.allclose(scaled.tensors[name].float(), tensor.float() * factor)
    assert scaled.name == parts.manifest.name


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(BundleError, match="no tensor has the shape"):
        take_over(torch.nn.Linear(2, 2), Start("other", "", {"weight": torch.zeros(3, 3)}))


def test_what_was_taken_over_stands_still_and_then_follows() -> None:
    settings = TransferSettings(frozen=1, warmup=1)
    assert [settings.share(epoch) for epoch in (1, 2, 3, 4)] == [0, 0.5, 1, 1]
    model = torch.nn.Linear(1, 1)
    brake = Brake(model, ["weight"], settings)
    for epoch, moved in ((1, 0.0), (2, 0.5), (3, 1.0)):
        weight, bias = model.weight.item(), model.bias.item()
        with brake.step(epoch), torch.no_grad():
            model.weight += 1
            model.bias += 1
        assert model.weight.item() - weight == pytest.approx(moved)
        assert model.bias.item() - bias == pytest.approx(1.0)  # not taken over


def test_a_run_begins_with_a_bundle_and_its_manifest_says_so(config: Path, engines: Path, tmp_path: Path) -> None:
    """Frozen throughout, all that fits comes out as it went in."""
    train_command(config, engines, tmp_path / "first")
    text = config.read_text().replace(", {name: P2, unit: psia}", "")  # three inputs in place of four
    config.write_text(text.replace("  batch: 32", "  batch: 32\n  transfer: {frozen: 2}"))
    train_command(config, engines, tmp_path / "second", init_from=tmp_path / "first")
    first, second = (load_file(tmp_path / name / bundles.WEIGHTS) for name in ("first", "second"))
    origin = bundles.load(tmp_path / "second").manifest.training["init_from"]
    assert origin["sha256"] == bundles.load(tmp_path / "first").sha256
    assert set(second) - set(origin["tensors"]) == {"cnn.conv1.weight"}
    learnt = [name for name in origin["tensors"] if "running" not in name and "num_batches" not in name]
    assert all(np.allclose(first[name], second[name], atol=1e-6) for name in learnt)
