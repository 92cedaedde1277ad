"""The search: it reads no asset kept for calibration, makes no run twice, and its candidates are configurations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from edge_rul.training.settings import TrainingSettings
from edge_rul.yaml_file import load_yaml

ROOT = Path(__file__).parents[2]
SEARCHES = sorted((ROOT / "configs" / "search").glob("*.yaml"))
SPACE = """
base: base.yaml
subsets: [FD001]
splits: [1]
common: {recipe: {epochs: 1}}
candidates:
  as configured: {}
  labels and teachers: {recipe: {distil: {teachers: [{kind: tree}]}}}
"""
BASE = """
name: tiny
description: synthetic engines
dataset: {format: cmapss, subset: FD001}
inputs: [{name: T24, unit: "-"}, {name: T30, unit: "-"}]
window: 8
rul: {unit: cycles, max: 40}
classes: [{name: healthy, above: 25}, {name: critical}]
calibration: {share: 0.25, seed: 3}
model: {lstm_hidden: 4, num_heads: 2, shared_dim: 4}
loss: {name: fixed}
recipe:
  epochs: 2
  batch: 16
  optimiser: {name: adamw}
  schedule: {name: onecycle, learning_rate: 0.005}
"""


@pytest.fixture(scope="module")
def search() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_recipe", ROOT / "tools" / "search_recipe.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SEARCHES, ids=lambda p: p.stem)
def test_every_candidate_is_a_configuration_of_its_own(search: ModuleType, path: Path) -> None:
    space = load_yaml(path, search.Search)
    base = load_yaml(path.parent / space.base, dict)
    made = []
    for name, change in space.candidates.items():
        keys = search.merged(search.merged(base, space.common), change)
        made.append(msgspec.convert(keys, TrainingSettings))
        assert made[-1] not in made[:-1], f"{name} is another candidate again"


def test_a_section_of_another_kind_replaces_and_the_rest_merges(search: ModuleType) -> None:
    base = {"loss": {"name": "fixed", "class_weight": 3}, "recipe": {"epochs": 2, "batch": 4}, "smooth": {"kind": "x"}}
    change = {"loss": {"name": "gaba"}, "recipe": {"epochs": 5}, "smooth": None}
    merged = search.merged(base, change)
    assert merged == {"loss": {"name": "gaba"}, "recipe": {"epochs": 5, "batch": 4}, "smooth": None}
    assert base["recipe"]["epochs"] == 2, "the base stays"


def test_a_search_goes_on_where_it_was_and_never_reads_calibration_engines(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "search.yaml").write_text(SPACE)
    random = np.random.default_rng(0)

    def write(spoilt: set[int]) -> None:
        lines = []
        for unit in range(1, 9):
            wear = np.linspace(0, 1, 45)[:, None] ** 2 * 10 + random.normal(0, 1, (45, 24))  # (45, 24)
            values = np.full_like(wear, 1e6) if unit in spoilt else wear
            lines += [f"{unit} {c} " + " ".join(f"{v:.3f}" for v in row) for c, row in enumerate(values, 1)]
        (tmp_path / "train_FD001.txt").write_text("\n".join(lines) + "\n")

    kept = {int(i) + 1 for i in np.random.default_rng(3).permutation(8)[:2]}
    write(spoilt=kept)
    command = [str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert search.main([*command, "--minutes", "0"]) == 0
    assert not (tmp_path / "out" / "results.jsonl").exists(), "no run begins after its time"
    assert search.main(command) == 0
    first = (tmp_path / "out" / "results.jsonl").read_text()
    assert len(first.splitlines()) == 2
    results = [msgspec.json.decode(line, type=search.Result) for line in first.splitlines()]
    assert all(r.tree_rmse < 15 for r in results), "engines of 1e6 would have spoilt the tree"
    capsys.readouterr()
    assert search.main(command) == 0
    assert (tmp_path / "out" / "results.jsonl").read_text() == first, "nothing is trained twice"
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and "| FD001 | as configured | 1 |" in "\n".join(rows)
