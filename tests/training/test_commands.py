"""From files to a bundle to figures, with a tiny model; and that nothing leaks."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_rul import bundle as bundles
from edge_rul.core.normalise import ZScore
from edge_rul.engines import open_engine, verify
from edge_rul.errors import BundleError, ConfigError, DataError
from edge_rul.model.dual_task_model import load_model
from edge_rul.training import dataset, tree
from edge_rul.training.calibrate import held
from edge_rul.training.commands import calibrate_command, command_line, evaluate_command, train_command
from edge_rul.training.evaluate import load_table, predict_windows
from edge_rul.training.metrics import nasa_score
from edge_rul.training.report import evaluate
from edge_rul.training.settings import load_settings
from edge_rul.training.table import split
from edge_rul.training.windows import full_windows, last_windows


@pytest.fixture
def trained(config: Path, engines: Path, tmp_path: Path) -> bundles.Bundle:
    assert train_command(config, engines, tmp_path / "bundle") == 0
    return bundles.load(tmp_path / "bundle")


def train(config: Path, engines: Path, out: Path) -> Path:
    assert train_command(config, engines, out) == 0
    return out


def rewrite(path: Path, units: set[str]) -> None:
    """Change every sensor reading of these engines."""
    rows = [line.split() for line in path.read_text().splitlines()]
    changed = [[*r[:5], *(f"{float(v) * 3 + 7:.4f}" for v in r[5:])] if r[0] in units else r for r in rows]
    path.write_text("\n".join(" ".join(r) for r in changed))


def test_a_run_makes_a_bundle_whose_graph_answers_as_torch_does(
    trained: bundles.Bundle, config: Path, engines: Path
) -> None:
    manifest = trained.manifest
    assert len(trained.golden.rul) == 16
    with open_engine("auto", trained) as engine:
        rul_error, logits_error = verify(engine, trained)
    assert rul_error < 1e-4
    assert logits_error < 1e-5
    model = load_model(trained.weights, manifest.network)
    assert model.c_in == 4

    chosen = load_settings(config)
    table = dataset.load(chosen.dataset, engines, "train", [i.name for i in chosen.inputs])
    training, kept = split(table, chosen.calibration.share, chosen.calibration.seed)
    assert manifest.normaliser == ZScore.fit(training.inputs)
    assert [(i.low, i.high) for i in manifest.inputs] == list(
        zip(training.inputs.min(axis=0).tolist(), training.inputs.max(axis=0).tolist(), strict=True)
    )
    # Golden windows are of assets that were never fitted, an end of life among them.
    held_out = full_windows(kept, chosen.window).raw()
    for window in trained.golden.windows:
        assert (window == held_out).all(axis=(1, 2)).any()

    made = manifest.training
    assert made["configuration"]["sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()
    assert made["files"] == {
        "train_FD001.txt": hashlib.sha256((engines / "train_FD001.txt").read_bytes()).hexdigest(),
    }
    assert (made["assets"], made["held_out"], len(made["epochs"])) == (6, 2, 2)
    assert manifest.validation["assets"] == kept.assets
    assert {"rmse", "accuracy", "macro_f1", "windows"} <= set(manifest.validation)
    # Its intervals hold the level on the windows that they were calibrated on, of those below the cap.
    assert manifest.interval is not None and manifest.interval.level == 0.9
    windows = full_windows(kept, chosen.window)
    true = np.minimum(kept.rul[windows.last], manifest.rul.max)
    inside, _ = held(
        manifest.interval, predict_windows(trained, windows.readings(before=False))[0], true, manifest.rul.max
    )
    assert 0.9 <= inside[true < manifest.rul.max].mean() <= 0.95
    # Nothing of this machine.
    assert str(config.parent) not in (trained.path / bundles.MANIFEST).read_text()


def test_evaluation_is_the_standard_protocol_on_what_ships(
    trained: bundles.Bundle, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = last_windows(load_table(trained, engines, "test"), 10)
    rul, logits = predict_windows(trained, windows.readings(before=False))
    d = rul.astype(float) - [12, 40, 0]
    report = evaluate(trained, engines)
    assert report.test is not None
    assert report.rmse == pytest.approx(np.sqrt(np.mean(d**2)))
    assert report.nasa_score == pytest.approx(nasa_score(d))
    assert report.accuracy == np.mean(logits.argmax(axis=1) == [1, 0, 2])
    assert (report.engines, report.padded) == (3, 1)

    capsys.readouterr()
    assert evaluate_command(trained.path, engines, json=True) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    told = json.loads(printed)
    assert {"subset", "engines", "rmse", "nasa_score", "accuracy", "macro_f1"} <= set(told)
    assert (told["subset"], told["engines"], told["rmse"]) == ("FD001", 3, report.rmse)
    assert evaluate_command(trained.path, engines, json=False) == 0
    text = capsys.readouterr().out
    assert re.search(rf"RMSE, cycles +{report.rmse:.2f} +{report.test.trees[tree.FEATURES[0]].rmse:.2f} ", text)
    assert "1 of them shorter than the window and padded" in text


# Nothing may leak by what the network is fitted to either.
TAUGHT = {
    "labels": "",
    "a tree": "  distil: {teachers: [{kind: tree}]}\n",
}


@pytest.fixture(params=TAUGHT.values(), ids=TAUGHT)
def taught(request: pytest.FixtureRequest, config: Path, engines: Path, tmp_path: Path) -> bundles.Bundle:
    """As `trained`, by labels and by a teacher; `config` is changed with it."""
    config.write_text(config.read_text() + request.param)  # the recipe is its last section
    assert train_command(config, engines, tmp_path / "bundle") == 0
    return bundles.load(tmp_path / "bundle")


def test_calibration_and_test_engines_teach_nothing(
    taught: bundles.Bundle, config: Path, engines: Path, tmp_path: Path
) -> None:
    """With their rows changed, the normaliser, the weights and the graph come out the same to the last byte."""
    held_out = set(taught.manifest.validation["assets"])
    rewrite(engines / "train_FD001.txt", held_out)
    for name in ("test_FD001.txt", "RUL_FD001.txt"):
        (engines / name).write_text("not to be read\n")
    train_command(config, engines, tmp_path / "again")
    again = bundles.load(tmp_path / "again").manifest
    first = taught.manifest
    assert again.normaliser == first.normaliser
    assert again.inputs == first.inputs
    for name in (bundles.WEIGHTS, bundles.GRAPH):
        assert again.files[name] == first.files[name]
    assert again.files[bundles.GOLDEN] != first.files[bundles.GOLDEN]
    assert again.validation["rmse"] != first.validation["rmse"]


def test_the_test_set_leaves_no_trace_in_a_bundle(
    taught: bundles.Bundle, config: Path, engines: Path, tmp_path: Path
) -> None:
    """With its files spoilt, or gone, the bundle is the same to the last byte, manifest, intervals and all."""
    (engines / "test_FD001.txt").write_text("not to be read\n")
    (engines / "RUL_FD001.txt").unlink()
    again = train(config, engines, tmp_path / "bundle2")
    first, second = ({f.name: f.read_bytes() for f in path.iterdir()} for path in (taught.path, again))
    second[bundles.MANIFEST] = second[bundles.MANIFEST].replace(b"--out bundle2", b"--out bundle")
    assert second == first


def test_validation_engines_are_drawn_from_the_others_and_teach_nothing(
    config: Path, engines: Path, tmp_path: Path
) -> None:
    """They are judged after each epoch; the calibration engines are the same as without them."""
    plain = bundles.load(train(config, engines, tmp_path / "plain")).manifest
    config.write_text(config.read_text() + "validation: {share: 0.2, seed: 1}\n")
    first = bundles.load(train(config, engines, tmp_path / "first")).manifest
    assert first.validation["assets"] == plain.validation["assets"]
    assert (plain.training["assets"], first.training["assets"]) == (6, 5)
    assert ["validation_rmse" in e for e in (*plain.training["epochs"], *first.training["epochs"])] == [
        *[False] * 2,
        *[True] * 2,
    ]
    rest = split(dataset.load(load_settings(config).dataset, engines, "train", ["T24"]), 0.25, 3)[0]
    judged = split(rest, 0.2, 1)[1].assets
    rewrite(engines / "train_FD001.txt", set(judged))
    again = bundles.load(train(config, engines, tmp_path / "again")).manifest
    assert again.files == first.files
    assert again.validation == first.validation
    assert again.training["epochs"] != first.training["epochs"]


def test_another_unit_is_trained_on_the_common_scale_and_folded_back(
    config: Path, engines: Path, trained: bundles.Bundle, tmp_path: Path
) -> None:
    """Hours in place of cycles of a day: the cap and the limits 24 times larger give answers 24 times larger."""
    text = config.read_text().replace("max: 40", "max: 960").replace("above: 25", "above: 600")
    text = text.replace("subset: FD001", "subset: FD001, seconds_per_cycle: 86400")
    config.write_text(text.replace("above: 10", "above: 240").replace("unit: cycles", "unit: hours"))
    train_command(config, engines, tmp_path / "hours")
    hours = bundles.load(tmp_path / "hours")
    assert np.allclose(hours.golden.rul, 24 * trained.golden.rul, rtol=2e-3, atol=0.1)
    assert hours.manifest.tolerance["float32"].rul == pytest.approx(1e-3 * 960 / 125)
    assert (hours.manifest.seconds_per_cycle, trained.manifest.seconds_per_cycle) == (86400, None)


def test_assets_kept_for_calibration_without_a_window_are_told_before_the_training(
    config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_rul.training.fit.fit", lambda *_: pytest.fail("training began"))
    text = config.read_text()
    kept = split(dataset.load(load_settings(config).dataset, engines, "train", ["T24"]), 0.25, 3)[1]
    longest = max((kept.asset == name).sum() for name in kept.assets)
    config.write_text(text.replace("window: 10", f"window: {longest + 1}"))
    names = ", ".join(kept.assets)
    with pytest.raises(DataError, match=rf"calibration: {names}: no full window of {longest + 1} .* has {longest}\n"):
        train_command(config, engines, tmp_path / "bundle")
    config.write_text(text.replace("window: 10", f"window: {longest}"))
    with pytest.raises(pytest.fail.Exception, match="training began"):
        train_command(config, engines, tmp_path / "bundle")


def test_a_run_tells_of_lives_that_teach_little(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were not seen to fail, and those that are too short for a window."""
    monkeypatch.setattr("edge_rul.training.fit.fit", lambda *_: pytest.fail("training began"))
    text = config.read_text()
    table = "dataset: {format: table, asset: pump, cycle: hour, failed: {column: done}}"
    config.write_text(text.replace("dataset: {format: cmapss, subset: FD001}", table))
    lengths = [30, 9, 30, 30, 30]
    rows = [f"{p},{c},{int(p and c == n - 1)},1,2,3,4\n" for p, n in enumerate(lengths) for c in range(n)]
    (tmp_path / "pumps.csv").write_text("pump,hour,done,T24,T30,Ps30,P2\n" + "".join(rows))
    with pytest.raises(pytest.fail.Exception, match="training began"):
        train_command(config, tmp_path / "pumps.csv", tmp_path / "bundle")
    assert "1 of 5 lives censored, 1 of 5 lives shorter than the window\n" in capsys.readouterr().err


def test_an_existing_directory_is_not_overwritten(config: Path, engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for force in (False, True):  # force replaces bundles only
        with pytest.raises(BundleError, match="exists already"):
            train_command(config, engines, out, force=force)
    assert (out / "thesis.txt").exists()


def test_an_out_that_cannot_be_written_is_told_before_the_training(
    config: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_rul.training.fit.fit", lambda *_: pytest.fail("training began"))
    with pytest.raises(BundleError, match=r"write bundle: .*tiny\.yaml/bundle: cannot be written in .*tiny\.yaml: "):
        train_command(config, engines, config / "bundle")


def test_intervals_that_cannot_be_written_are_told_before_they_are_made(tiny_bundle: bundles.Bundle) -> None:
    out = tiny_bundle.graph / "bundle"
    with pytest.raises(BundleError, match=r"cannot be written in .*model\.onnx: "):
        calibrate_command(tiny_bundle.path, Path("no data is looked for"), out, level=0.9)


def test_data_that_the_disk_refuses_is_the_operators(config: Path, tmp_path: Path) -> None:
    data = tmp_path / ("x" * 300)  # for root there is no other path whose state cannot be asked
    with pytest.raises(DataError, match=r"load data set: .*xxx: cannot be read: File name too long"):
        train_command(config, data, tmp_path / "bundle")


def test_the_recorded_command_names_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = "edge-rul train configs/a.yaml --data DIR --out bundles/a"
    assert command_line(Path("configs/a.yaml"), Path("bundles/a")) == wanted
    assert command_line(tmp_path / "configs/a.yaml", tmp_path / "bundles/a") == wanted
    assert command_line(Path("/elsewhere/a.yaml"), Path("../b"), threads=2, seed=1) == (
        "edge-rul train a.yaml --data DIR --out b --threads 2 --seed 1"
    )


def test_evaluation_needs_no_torch(trained: bundles.Bundle, engines: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edge_rul.training.commands import evaluate_command; "
        f"evaluate_command(Path({str(trained.path)!r}), Path({str(engines)!r}), json=True); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_tiny_model_learns_from_real_engines(config: Path, data_dir: Path, tmp_path: Path) -> None:
    """A few real engines, from NASA's file to a bundle that beats the constant answer."""
    rows = (data_dir / "cmapss" / "train_FD001.txt").read_text().splitlines(keepends=True)
    few = tmp_path / "few"
    few.mkdir()
    (few / "train_FD001.txt").write_text("".join(r for r in rows if int(r.split()[0]) <= 10))
    text = config.read_text().replace("max: 40", "max: 125").replace("above: 25", "above: 80").replace("P2", "T50")
    config.write_text(text.replace("above: 10", "above: 30").replace("epochs: 2", "epochs: 3"))
    train_command(config, few, tmp_path / "real")
    bundle = bundles.load(tmp_path / "real")
    assert bundle.manifest.validation["rmse"] < 35  # always answering the mean gives 42


def test_another_fold_leaves_out_another_asset(config: Path, engines: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the configuration has no folds"):
        train_command(config, engines, tmp_path / "none", fold=3)
    config.write_text(config.read_text().replace("{share: 0.25, seed: 3}", "{fold: 0}"))
    train_command(config, engines, tmp_path / "fold", fold=3)
    manifest = bundles.load(tmp_path / "fold").manifest
    assert manifest.validation["assets"] == ["4"]
    assert manifest.training["command"].endswith("--fold 3")
    with pytest.raises(DataError, match="asset 8 cannot be left out"):
        train_command(config, engines, tmp_path / "beyond", fold=8)
