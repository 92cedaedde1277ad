"""The search: it reads no asset kept for calibration, makes no run twice, and its candidates are configurations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from edge_rul.training import fit
from edge_rul.training.metrics import Scores
from edge_rul.training.run import Epoch
from edge_rul.training.settings import EarlyStoppingSettings, TrainingSettings
from edge_rul.yaml_file import load_yaml

ROOT = Path(__file__).parents[2]
SEARCHES = sorted((ROOT / "configs" / "search").glob("*.yaml"))
SPACE = """
base: base.yaml
subsets: [FD001]
splits: [{share: 0.2, seed: 1}]
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
    for subset in space.subsets or [None]:
        base = load_yaml(path.parent / space.base_of(subset), dict)
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


def write(directory: Path, spoilt: set[int]) -> None:
    """Eight engines of 45 cycles whose sensors rise; those of `spoilt` read 1e6 all their lives."""
    random, lines = np.random.default_rng(0), []
    for unit in range(1, 9):
        wear = np.linspace(0, 1, 45)[:, None] ** 2 * 10 + random.normal(0, 1, (45, 24))  # (45, 24)
        values = np.full_like(wear, 1e6) if unit in spoilt else wear
        lines += [f"{unit} {c} " + " ".join(f"{v:.3f}" for v in row) for c, row in enumerate(values, 1)]
    (directory / "train_FD001.txt").write_text("\n".join(lines) + "\n")


def test_a_search_goes_on_where_it_was_and_never_reads_calibration_engines(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "search.yaml").write_text(SPACE)
    write(tmp_path, spoilt={int(i) + 1 for i in np.random.default_rng(3).permutation(8)[:2]})
    command = [str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert search.main([*command, "--minutes", "0"]) == 0
    assert not (tmp_path / "out" / "results.jsonl").exists(), "no run begins after its time"
    assert search.main(command) == 0
    first = (tmp_path / "out" / "results.jsonl").read_text()
    assert len(first.splitlines()) == 2
    results = [msgspec.json.decode(line, type=search.Result) for line in first.splitlines()]
    assert all(r.figures.tree_rmse < 15 for r in results), "engines of 1e6 would have spoilt the tree"
    capsys.readouterr()
    assert search.main(command) == 0
    assert (tmp_path / "out" / "results.jsonl").read_text() == first, "nothing is trained twice"
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and "| FD001 | as configured | 1 |" in "\n".join(rows)


def test_the_table_is_of_this_searchs_runs_by_the_names_that_they_have_now(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory also holds runs of another base, under the same candidate's name."""
    made: list[str] = []

    def run(keys: dict[str, Any], *_: object) -> object:
        made.append(keys["window"])
        return search.Figures(float(keys["window"]), 0.5, 0.5, 9.0, 1.0, 20.0)

    monkeypatch.setattr(search, "run", run)
    space = yaml.safe_load(SPACE)
    del space["candidates"]["labels and teachers"]
    command = [str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    for window, name in ((8, "as configured"), (12, "as configured"), (12, "once more")):
        (tmp_path / "base.yaml").write_text(BASE.replace("window: 8", f"window: {window}"))
        space["candidates"] = {name: {}}
        (tmp_path / "search.yaml").write_text(yaml.safe_dump(space))
        capsys.readouterr()
        assert search.main(command) == 0
        rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 3 and rows[2].startswith(f"| FD001 | {name} | 1 | {window}.00 |")
    assert made == [8, 12], "another name is no other run"


def test_no_run_begins_that_would_pass_the_end(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the longest of its subset so far."""
    seconds = {"FD001": 20.0, "FD002": 200.0}
    begun: list[tuple[str, int]] = []

    def run(keys: dict[str, Any], *_: object) -> object:
        subset, seed = keys["dataset"]["subset"], keys["validation"]["seed"]
        begun.append((subset, seed))
        return search.Figures(1.0, 0.5, 0.5, 9.0, seconds[subset], 20.0)

    monkeypatch.setattr(search, "run", run)
    splits = [{"share": 0.2, "seed": seed} for seed in (1, 2)]
    space = yaml.safe_load(SPACE) | {"subsets": ["FD001", "FD002"], "splits": splits, "candidates": {"one": {}}}
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(space))
    command = [str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert search.main([*command, "--minutes", "2"]) == 0
    assert begun == [("FD001", 1), ("FD002", 1), ("FD001", 2)]
    assert "no time for 1 of 4 runs" in capsys.readouterr().err
    assert search.main([*command, "--minutes", "4"]) == 0
    assert begun[3:] == [("FD002", 2)]


def test_where_the_recipe_stops_early_the_best_epoch_is_judged(search: ModuleType) -> None:
    plain = msgspec.convert(yaml.safe_load(BASE) | {"validation": {"share": 0.2}}, TrainingSettings)
    stopping = msgspec.structs.replace(plain.recipe, early_stopping=EarlyStoppingSettings(2))
    epochs = [Epoch(n, 1.0, Scores(rmse, 0.0, 0.0, 0.0, 0.5, 0.5)) for n, rmse in enumerate((9.0, 7.0, 8.0), 1)]
    fitted = SimpleNamespace(epochs=epochs)
    assert search.judged_epoch(fitted, plain).epoch == 3
    assert search.judged_epoch(fitted, msgspec.structs.replace(plain, recipe=stopping)).epoch == 2


def test_teachers_are_judged_without_a_network(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tree on the lines answers as the yardstick does, which stands beside it; teachers of folds in the mean."""
    monkeypatch.setattr(fit, "fit", lambda *_: pytest.fail("a network was trained"))
    write(tmp_path, spoilt=set())
    space = yaml.safe_load(SPACE) | {"judge": "teachers"}
    tree = {"teachers": [{"kind": "tree"}]}
    space["candidates"] = {
        name: {"recipe": {"distil": distil}}
        for name, distil in (("nobody", None), ("tree", tree), ("trees of folds", tree | {"folds": 3}))
    }
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(space))
    assert search.main([str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "nobody: search: recipe.distil: is null, expected teachers" in capsys.readouterr().err
    results = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    found = {r.candidate: r.figures for r in (msgspec.json.decode(line, type=search.Result) for line in results)}
    assert list(found) == ["tree", "trees of folds"]
    assert found["tree"].rmse == pytest.approx(found["tree"].tree_rmse, abs=1e-4)
    assert found["trees of folds"].rmse != found["tree"].rmse
    assert all(f.nasa > 0 and 0.5 < f.accuracy <= 1 for f in found.values())


def test_any_data_set_is_searched_by_splits_of_its_own(
    search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No subsets, one machine left out at a time; a life that was only watched teaches, but its RUL is not known."""
    base = yaml.safe_load(BASE) | {"window": 4, "calibration": {"fold": 0}}
    base["dataset"] = {"format": "table", "file": "t.csv", "asset": "m", "cycle": "c", "detection": {"horizon": 10}}
    base["dataset"]["failed"] = {"column": "failed"}
    space = yaml.safe_load(SPACE) | {"splits": [{"fold": 0}, {"fold": 2}], "stride": 3}
    del space["subsets"], space["candidates"]["labels and teachers"]
    for name, keys in (("base", base), ("search", space)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    lasted = {0: 40, 1: 40, 2: 43, 3: 40, 4: 40}  # 0 is kept for calibration, 2 did not fail
    rows = [f"{m},{c},{(c / n) ** 2},{c % 3},{int(m != 2)}" for m, n in lasted.items() for c in range(n)]
    (tmp_path / "t.csv").write_text("\n".join(["m,c,T24,T30,failed", *rows]))
    assert search.main([str(tmp_path / "search.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    results = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    found = [msgspec.json.decode(line, type=search.Result) for line in results]
    assert [(r.subset, r.split) for r in found] == [("tiny", 0), ("tiny", 2)]
    # Windows that teach have 36 to 0 cycles left, 18 in the mean; every third of them judges.
    expected = np.sqrt(np.mean((np.arange(0, 37, 3) - 18.0) ** 2))
    assert [r.figures.mean_rmse for r in found] == pytest.approx([expected, expected])
    assert all(r.figures.tree_auc == 1 and 0 <= r.figures.auc <= 1 for r in found)
    assert "| tiny | as configured | 2 |" in capsys.readouterr().out
