"""The other C-MAPSS subsets by their shipped configurations, with a tiny model and a few of the real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge_rul import bundle as bundles
from edge_rul.core.features import Feature
from edge_rul.core.normalise import Conditions, ZScore
from edge_rul.engines import open_engine, verify
from edge_rul.training.commands import train_command
from edge_rul.training.evaluate import load_table
from edge_rul.training.report import evaluate
from edge_rul.training.windows import full_windows

CONFIGS = Path(__file__).parents[2] / "configs"
ENGINES = 10
TINY: dict[str, dict[str, Any]] = {
    "model": {"lstm_hidden": 8, "num_heads": 2, "shared_dim": 8},
    "recipe": {"epochs": 1, "windows_per_epoch": 256, "distil": None},
}


@pytest.fixture
def trained(
    subset: str, data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> tuple[bundles.Bundle, str]:
    """The bundle, and what was printed on the way."""
    file = f"train_{subset}.txt"
    rows = (data_dir / "cmapss" / file).read_text().splitlines(keepends=True)
    (tmp_path / file).write_text("".join(r for r in rows if int(r.split()[0]) <= ENGINES))
    raw = yaml.safe_load((CONFIGS / f"cmapss_{subset.lower()}.yaml").read_text(encoding="utf-8"))
    for section, keys in TINY.items():
        raw[section].update(keys)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(raw))
    assert train_command(config, tmp_path, tmp_path / "bundle") == 0
    return bundles.load(tmp_path / "bundle"), capfd.readouterr().err


@pytest.mark.parametrize("subset", ["FD004"])
def test_conditions_are_those_that_were_flown(trained: tuple[bundles.Bundle, str], tmp_path: Path) -> None:
    bundle, said = trained
    manifest = bundle.manifest
    assert isinstance(manifest.normaliser, Conditions)
    # Altitude in thousands of feet, Mach number, throttle: as published with the data.
    flown = [[0, 0, 100], [10, 0.25, 100], [20, 0.7, 100], [25, 0.62, 60], [35, 0.84, 100], [42, 0.84, 100]]
    np.testing.assert_allclose(manifest.normaliser.centroids, flown, atol=0.01)
    assert [i.name for i in manifest.inputs[:3]] == manifest.normaliser.by
    assert (len(manifest.inputs), manifest.network.c_in) == (17, 14)
    with open_engine("onnxruntime", bundle) as engine:
        assert verify(engine, bundle)[0] < 1e-4
    # Whatever the condition, a sensor is at about 0 and varies by about 1, where raw they lie many deviations apart.
    table = load_table(bundle, tmp_path, "train")
    condition, known = manifest.normaliser.choose(table.inputs[:, :3])
    assert known.all()
    z = manifest.transform.rows(table.readings(before=False)).z  # (N, 14)
    for k in range(6):
        assert np.abs(z[condition == k].mean(axis=0)).max() < 0.5
        assert z[condition == k].std(axis=0) == pytest.approx(1, abs=0.3)
    # At sea level the fan's speed is held, and tells nothing of wear that temperatures tell as well as anywhere.
    fan, hot = (manifest.seen.index(Feature(name, name)) for name in ("Nf", "T50"))
    loading = np.array(manifest.normaliser.loading)  # (6, 14)
    assert loading.shape == (6, 14)
    assert loading[0, fan] == loading[:, fan].min() < loading[3, fan] - 0.2
    assert loading[:, hot].min() > 0.7
    # Between two conditions is none.
    readings = full_windows(table, manifest.window).readings(slice(0, 2), before=False)
    readings.values[0, -1, :3] = [30, 0.7, 100]
    assert [m.unknown_condition for m in manifest.transform.apply(readings).marks] == [1, 0]
    # What is constant is told.
    for name in manifest.training["constant"]:
        assert name in said
    judged_without_a_test_set(bundle, tmp_path, "test_FD004.txt")


def judged_without_a_test_set(bundle: bundles.Bundle, data: Path, name: str) -> None:
    report = evaluate(bundle, data)
    assert report.rmse is report.nasa_score is report.coverage is None
    assert report.heldout_rmse and report.tree_heldout_rmse
    assert name in report.notes[0] and "cannot be read" in report.notes[0]


@pytest.mark.parametrize("subset", ["FD003"])
def test_one_condition_needs_none(trained: tuple[bundles.Bundle, str], tmp_path: Path) -> None:
    bundle, _ = trained
    assert isinstance(bundle.manifest.normaliser, ZScore)
    assert bundle.manifest.features is None
    judged_without_a_test_set(bundle, tmp_path, "test_FD003.txt")
