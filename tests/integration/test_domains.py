"""Each domain's whole way with a tiny model: published files, training, figures, a replay, the daemon's own corridor.

On a few assets of the real data; where that is absent, on synthetic files of the same format.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gallery
import published
import pytest
import replay
import yaml
from conftest import ROOT

from edge_rul import bundle as bundles
from edge_rul.config import load_settings
from edge_rul.core.entry import Entry
from edge_rul.core.tail import Numbered, Tail
from edge_rul.engines import open_engine
from edge_rul.simulate import message, topic_template
from edge_rul.training.commands import evaluate_command, train_command
from edge_rul.training.evaluate import load_table, predict_windows
from edge_rul.training.windows import full_windows
from edge_rul.wiring import build_outgoing, build_pipeline

TINY = {
    "model": {"lstm_hidden": 8, "num_heads": 2, "shared_dim": 8},
    "recipe": {"epochs": 1, "batch": 8, "windows_per_epoch": 64},
}
DAEMON = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1}}
topics: {{readings: ["plant/{{asset}}/cycle"]}}
windows: {{max_gap: 0, beyond_gap: span}}  # as the figures' windows are
engine: onnxruntime
"""
Rows = Callable[[dict[str, str]], bool]


def some(source: Path, target: Path, keep: Rows) -> None:
    """Copy the rows of a CSV file that `keep` wants."""
    content = source.read_bytes()
    text = (gzip.decompress(content) if source.suffix == ".gz" else content).decode()
    rows = csv.DictReader(text.splitlines())
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows.fieldnames or []))
    writer.writeheader()
    writer.writerows(row for row in rows if keep(row))
    target.mkdir(exist_ok=True)
    kept = out.getvalue().encode()
    (target / source.name).write_bytes(gzip.compress(kept, 1) if source.suffix == ".gz" else kept)


def batteries(data: Path | None, out: Path) -> None:
    if data is None:
        ends = {"b1c00": (200, "dropped"), "b1c05": (210, "to_end_of_life"), "b1c06": (125, "to_end_of_life")}
        published.batteries(out, {**ends, "b1c07": (220, "to_end_of_life")})
        return
    last = {"b1c00": 1189, "b1c05": 1074, "b1c06": 636, "b1c07": 870}  # cycles; only the last 180 of each
    for name in ("severson_batch1_cycles.csv.gz", "severson_batch1_cells.csv"):
        some(
            data / name, out, lambda row: row["cell"] in last and int(row.get("cycle", 9999)) > last[row["cell"]] - 180
        )


def flights(data: Path | None, out: Path) -> None:
    if data is None:
        published.flights(out, {2: 50, 5: 45, 10: 48}, {11: 40})
        return
    for part, engines in (("train", {"2", "5", "16"}), ("test", {"11"})):
        some(data / f"DS02_{part}_cycle_features.csv", out, lambda row, wanted=engines: row["engine_id"] in wanted)


def bearings(data: Path | None, out: Path) -> None:
    if data is None:
        lives = {"Learning_set/Bearing1_1": 75, "Learning_set/Bearing1_2": 110, "Full_Test_Set/Bearing1_4": 70}
        published.snapshots(out, lives, semicolons="Full_Test_Set/Bearing1_4")
        return
    first = {"Bearing2_2": 690, "Bearing3_1": 300, "Bearing2_7": 110}  # snapshots; only those after these

    def keep(row: dict[str, str]) -> bool:
        return row["bearing"] in first and int(row["snapshot"]) > first[row["bearing"]]

    some(data / "pronostia_features.csv.gz", out, keep)


def turbines(data: Path | None, out: Path) -> None:
    """Around the failure of T07 on 17 June."""
    if data is None:
        published.wind(out, 9, [("T07", "HYDRAULIC", 4.6)], turbines=("T01", "T06", "T07", "T11"))
        return
    some(data / "edp_2017h2_continuous.csv.gz", out, lambda row: "2017-06-15" < row["time_utc"] < "2017-06-22")
    some(data / "failures.csv", out, lambda row: row["time_utc"] < "2017-06-22")


def disks(data: Path | None, out: Path) -> None:
    if data is None:
        lives = {f"F{i}": (50 + i, True) for i in range(5)} | {f"H{i}": (60, False) for i in range(5)}
        published.disks(out, "backblaze_2018_ST4000DM000_daily.csv.gz", lives, days=60)
        return
    roles: dict[str, list[str]] = {}
    with (data / "drives_2018.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            roles.setdefault(row["role"], []).append(row["serial_number"])
    few = {drive for drives in roles.values() for drive in drives[:5]}
    some(data / "backblaze_2018_ST4000DM000_daily.csv.gz", out, lambda row: row["serial_number"] in few)


# What is trained and replayed, by configuration: the folder of the data, its writer, and what a few assets need.
DOMAINS: dict[str, tuple[str, Callable[[Path | None, Path], None], dict[str, Any]]] = {
    "batteries": ("batteries", batteries, {"split": {"by": "assets", "test": ["b1c06"]}}),
    "ncmapss_ds02": ("ncmapss", flights, {}),
    "bearings": ("bearings", bearings, {}),
    "wind": ("wind", turbines, {"split": {"by": "folds", "fold": 2}, "recovery_days": 1.0}),
    "disks": ("disks", disks, {}),
}


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Path | None:
    """The shared data, or None where it is absent, and CI does not ask for it."""
    try:
        found: Path = request.getfixturevalue("data_dir")
    except pytest.skip.Exception:
        return None
    return found


def tiny(domain: str, path: Path, dataset: dict[str, Any]) -> Path:
    """The domain's configuration for a model of a moment."""
    text = yaml.safe_load((ROOT / "configs" / f"{domain}.yaml").read_text())
    text["dataset"] |= dataset
    text["model"] = TINY["model"]
    text["recipe"] |= TINY["recipe"]
    path.write_text(yaml.safe_dump(text, allow_unicode=True))
    return path


def served(bundle: bundles.Bundle, data: Path, tmp_path: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """The daemon's predictions for a replay of the test lives, by asset, life and cycle."""
    config = tmp_path / "edge-rul.yaml"
    config.write_text(DAEMON.format(bundle=bundle.path))
    settings, _ = load_settings(config)
    chosen = replay.load_bundles_set(data, bundle.path, "test")
    stamp, template = replay.stamps(1_500_000_000_000, chosen.period or 1000), topic_template("plant/{asset}/cycle")
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    with open_engine("onnxruntime", bundle, max_batch=32) as engine:
        pipeline, tail = build_pipeline(settings, bundle, engine, build_outgoing(settings), "j"), Tail(10_000)
        for readings in replay.rounds(chosen.table, inputs=chosen.inputs):
            entries: list[Entry] = []
            for reading in readings:
                decoded = pipeline.decode(*message(reading, template, stamp(reading), "test"), 1_800_000_000_000)
                entries += [*decoded.entries, *decoded.rejected]
            tail.append([Numbered(tail.last + i + 1, entry) for i, entry in enumerate(entries)])
            while (batch := pipeline.fill(tail, tail.last)) is not None:
                for out in pipeline.complete(batch, *engine.infer(batch.x)).messages:
                    if out.topic.endswith("/prediction") and out.payload:
                        told = json.loads(out.payload)
                        found[told["asset"], told["life"], told["cycle"]] = told
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_from_published_files_to_the_daemons_predictions(
    domain: str, real: Path | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write, dataset = DOMAINS[domain]
    data = tmp_path / "data"
    write(None if real is None else real / folder, data)
    config = tiny(domain, tmp_path / f"{domain}.yaml", dataset)
    assert train_command(config, data, tmp_path / "bundle") == 0
    bundle = bundles.load(tmp_path / "bundle")

    capsys.readouterr()
    assert evaluate_command(bundle.path, data, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["windows"] > 0
    assert 0 <= report["rmse"] <= report["cap"]
    assert report["nasa_score"] is None
    assert report["rmse_of_cap"] == pytest.approx(report["rmse"] / report["cap"])
    assert report["mae_of_cap"] == pytest.approx(report["mae"] / report["cap"])
    assert (report["auc"] is not None) == (domain == "disks")  # in these days no turbine is far from a failure
    assert (report["mean_rmse"] is None) == (domain == "wind")  # no turbine that teaches fails in these days
    assert (report["detection"] is not None) == (domain in ("wind", "disks"))
    assert report["rules"]["test"].get("after_failure_dropped", 1) > 0  # where a turbine was under repair
    assert (report["unit"], report["cap"]) == (bundle.manifest.rul.unit, bundle.manifest.rul.max)

    windows = full_windows(load_table(bundle, data, "test"), bundle.manifest.window)
    rul, _ = predict_windows(bundle, windows.readings(before=bundle.manifest.transform.changes))
    offline = {
        (replay.engine_name(int(a)) if a.isdecimal() else a, life, cycle): answer
        for (a, life, cycle), answer in zip(windows.keys(), rul.tolist(), strict=True)
    }
    found = served(bundle, data, tmp_path)
    assert len(offline) == report["windows"]
    tolerance = 1e-4 * max(1.0, bundle.manifest.rul.max / 125)
    assert max(abs(found[key]["rul"] - answer) for key, answer in offline.items()) <= tolerance
    # The daemon answers windows over holes too, and marks them; the figures leave them out.
    assert all(told["quality"]["missing_cycles"] for key, told in found.items() if key not in offline)

    monkeypatch.setattr(sys, "argv", ["gallery", f"{bundle.path}={data}", "--out", str(tmp_path / "gallery")])
    assert gallery.main() == 0
    picture = (tmp_path / "gallery" / f"{domain}.svg").read_text()
    assert picture.count("<path") > 20
