"""The training configuration: the shipped one loads, and what cannot be right is refused with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_rul.errors import ConfigError
from edge_rul.training.cmapss import COLUMNS
from edge_rul.training.settings import load_settings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("cmapss_fd*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_shipped_configuration_loads(path: Path) -> None:
    settings = load_settings(path)
    assert settings.name == path.stem
    assert (len(settings.seen), settings.window, settings.rul.max) == (14, 30, 125)
    assert {i.name for i in settings.inputs} <= set(COLUMNS)
    assert all(i.unit and i.description for i in settings.inputs)
    assert [(c.name, c.above) for c in settings.classes] == [("healthy", 80), ("degrading", 30), ("critical", None)]


def test_the_shipped_configurations_share_one_recipe() -> None:
    """They differ in the data and in how it is normalised, and in nothing that was chosen for one of them."""
    first, *others = [load_settings(path) for path in CONFIGS]
    for other in others:
        conditions = other.dataset.subset in ("FD002", "FD004")
        same = {
            "name": first.name,
            "description": first.description,
            "dataset": first.dataset,
            **({"inputs": first.inputs, "normaliser": first.normaliser} if conditions else {}),
        }
        assert other.inputs[3 * conditions :] == first.inputs
        assert msgspec.structs.replace(other, **same) == first


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("window: 10", "window: 10\nwindw: 3", "windw", "unknown key"),
        ("{name: adamw}", "{name: adamw, momentum: 1}", "recipe.optimiser.momentum", "unknown key"),
        ("{name: onecycle, learning_rate", "{name: onecycle, lr", "recipe.schedule.lr", "unknown key"),
        ("name: fixed", "name: fixde", "loss.name", "fixde"),
        ("window: 10", "window: 0", "window", "0"),
        ("batch: 32", "batch: many", "recipe.batch", "'many'"),
        ("format: cmapss", "format: csv", "dataset.format", "expected one of: "),
        ("num_heads: 2", "num_heads: 3", "model", "num_heads is 3, expected a divisor of 2 * lstm_hidden = 16"),
        ("{name: critical}", "{name: critical, above: 1}", "", "which takes the rest"),
        ("above: 10", "above: 30", "", "expected falling limits"),
        ("above: 25", "above: 45", "", "expected falling limits"),
        ("{name: T30", "{name: T24", "", "inputs name a sensor twice: T24"),
    ],
)
def test_what_cannot_be_right_is_refused(config: Path, old: str, new: str, key: str, problem: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as e:
        load_settings(config)
    assert e.value.object.startswith(f"{config}:")
    assert e.value.object.endswith(key)
    assert problem in str(e.value)
