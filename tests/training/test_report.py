"""The evaluation: which windows are judged, by what, and the report that is written of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import ZScore
from edge_rul.errors import DataAbsent, DataError
from edge_rul.training import tree
from edge_rul.training.calibrate import IntervalSettings
from edge_rul.training.commands import evaluate_command
from edge_rul.training.evaluate import Evidence, gather, load_table
from edge_rul.training.recalibrate import recalibrate
from edge_rul.training.report import evaluate, summarise
from edge_rul.training.report_html import FIGURES, PAGE, write
from edge_rul.training.windows import full_windows, labels, last_windows

KEPT = ["2", "5"]
# What other tools read from `edge-rul evaluate --json`.
PROMISED = {
    *("domain", "subset", "lives", "engines", "windows", "unit", "cap", "rmse", "mae", "nasa_score", "accuracy"),
    *("macro_f1", "heldout_rmse", "coverage", "mean_width", "tree_rmse", "tree_heldout_rmse"),
}


def rewrite(path: Path, units: set[str]) -> None:
    """Turn these engines' readings around in time, so that their sensors tell the opposite."""
    rows = [line.split() for line in path.read_text().splitlines()]
    for unit in units:
        own = [i for i, r in enumerate(rows) if r[0] == unit]
        for i, values in zip(own, [rows[i][2:] for i in reversed(own)], strict=True):
            rows[i][2:] = values
    path.write_text("\n".join(" ".join(r) for r in rows))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, same_engines: Path) -> Bundle:
    """Of random weights, that says of itself that it kept engines 2 and 5 of the data for calibration."""
    parts = bundle_parts(inputs=("T24", "T30", "Ps30"))
    of_training = {"dataset": {"format": "cmapss", "subset": "FD001"}, "validation_assets": []}
    fields = {**parts["fields"], "training": of_training, "validation": {"assets": KEPT}}
    # Of the level of these engines' sensors; the golden windows move with it, so that their answers stay.
    fields["normaliser"] = ZScore([505.0] * 3, [4.0] * 3)
    golden = parts["golden"]
    moved = (505 + 4 * parts["fields"]["normaliser"].apply(golden.windows)).astype(np.float32)
    parts["golden"] = msgspec.structs.replace(golden, windows=moved)
    path = tmp_path_factory.mktemp("judged") / "bundle"
    first = bundles.write(path, **{**parts, "fields": fields})
    fields["training"] = {**of_training, "files": load_table(first, same_engines, "train").files}
    return bundles.write(path, **{**parts, "fields": fields}, replace=True)


@pytest.fixture(scope="module")
def evidence(bundle: Bundle, same_engines: Path) -> Evidence:
    return gather(bundle, same_engines)


def test_what_is_printed_is_what_was_promised(
    bundle: Bundle, same_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_command(bundle.path, same_engines, json=True) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (out.count("\n"), err) == (1, "")
    assert set(told) >= PROMISED
    assert all(told[name] is not None for name in PROMISED)
    assert (told["domain"], told["subset"], told["lives"], told["engines"], told["windows"]) == (
        *("cmapss", "FD001"),
        *(3, 3, 3),
    )


def test_coverage_is_of_all_full_windows_of_the_test_and_the_rest_by_the_protocol(
    bundle: Bundle, same_engines: Path, evidence: Evidence
) -> None:
    report = summarise(bundle, evidence)
    table, manifest = load_table(bundle, same_engines, "test"), bundle.manifest
    whole = full_windows(table, manifest.window)
    judged = evidence.whole
    assert judged is not None and manifest.interval is not None and len(judged.rul) == len(whole) == 46
    low, high = manifest.interval.bounds(judged.rul, manifest.rul.max)
    true = np.minimum(table.rul[whole.last], manifest.rul.max)
    assert report.coverage == pytest.approx(((low <= true) & (true <= high)).mean())
    assert report.mean_width == pytest.approx((high - low).mean(), rel=1e-6)
    assert evidence.protocol is not None and len(evidence.protocol.rul) == 3
    assert report.test is not None and report.heldout is not None and report.test_all is not None
    assert (report.test.network.nasa_score is None, report.test_all.network.nasa_score is None) == (False, True)
    assert report.heldout.lives == 2 and report.heldout_rmse == report.heldout.network.rmse
    assert report.lead_time is not None and report.lead_time.lives == 2


def test_the_nasa_score_is_of_a_rul_that_is_one_a_cycle(bundle: Bundle, evidence: Evidence) -> None:
    for unit, scored in (("cycles", True), ("flights", True), ("seconds", False), ("hours", False)):
        rul = msgspec.structs.replace(bundle.manifest.rul, unit=unit)
        other = msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, rul=rul))
        report = summarise(other, evidence)
        assert report.test is not None and report.rmse is not None
        told = (report.nasa_score, report.test.network.nasa_score, *(s.nasa_score for s in report.test.trees.values()))
        assert [score is not None for score in told] == [scored] * 4, unit


def test_the_tree_learns_from_the_lives_that_the_network_learnt_from(
    bundle: Bundle, same_engines: Path, evidence: Evidence
) -> None:
    train = load_table(bundle, same_engines, "train")
    manifest = bundle.manifest

    def described(windows: object) -> tuple[object, object]:
        x = manifest.normaliser.apply(windows.raw())  # type: ignore[attr-defined]
        return tree.describe(x, tree.FEATURES[0]), labels(windows, manifest.rul.max, manifest.classes).rul  # type: ignore[arg-type]

    fitted = full_windows(train.of([a for a in train.assets if a not in KEPT]), manifest.window)
    by_hand = HistGradientBoostingRegressor(
        max_iter=200, learning_rate=0.05, max_leaf_nodes=15, early_stopping=False, random_state=0
    ).fit(*described(fitted))
    last, _ = described(last_windows(load_table(bundle, same_engines, "test"), manifest.window))
    assert evidence.protocol is not None
    assert np.allclose(evidence.protocol.trees[tree.FEATURES[0]], by_hand.predict(last), atol=1e-3)


def test_lives_kept_for_calibration_and_the_test_teach_the_tree_nothing(bundle: Bundle, engines: Path) -> None:
    before = gather(bundle, engines)
    rewrite(engines / "train_FD001.txt", set(KEPT))
    after = gather(bundle, engines)
    assert before.protocol is not None and after.protocol is not None
    for features, rul in before.protocol.trees.items():
        assert np.array_equal(after.protocol.trees[features], rul)
    assert summarise(bundle, after).heldout_rmse != summarise(bundle, before).heldout_rmse
    assert "the training data is not the bundle's" in after.notes[0]
    rewrite(engines / "train_FD001.txt", {"1"})
    assert not np.array_equal(
        gather(bundle, engines).protocol.trees[tree.FEATURES[0]],  # type: ignore[union-attr]
        before.protocol.trees[tree.FEATURES[0]],
    )


def test_which_tree_is_compared_is_decided_without_the_test(bundle: Bundle, evidence: Evidence) -> None:
    kept, protocol = evidence.held_out, evidence.protocol
    assert kept is not None and protocol is not None
    one, other = tree.FEATURES
    spoilt = evidence._replace(
        held_out=kept._replace(trees={one: kept.true.rul + 1, other: kept.true.rul + 2}),
        protocol=protocol._replace(trees={one: protocol.true.rul + 9, other: protocol.true.rul}),
    )
    report = summarise(bundle, spoilt)
    assert (report.tree, report.tree_heldout_rmse, report.tree_rmse) == (one, pytest.approx(1), pytest.approx(9))


def test_without_a_test_set_the_held_out_figures_stand_and_it_is_said(
    bundle: Bundle, engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (engines / "test_FD001.txt").unlink()
    assert evaluate_command(bundle.path, engines, json=True, report=tmp_path / "report") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert all(told[name] is None for name in ("rmse", "nasa_score", "accuracy", "coverage", "tree_rmse", "test"))
    assert told["heldout_rmse"] > 0 and told["tree_heldout_rmse"] > 0 and told["windows"] == 0
    assert told["heldout"]["coverage"]["coverage"] > 0
    assert "no test figures: " in err and "test_FD001.txt cannot be read" in err
    assert "no test figures: " in (tmp_path / "report" / PAGE).read_text()
    (engines / "train_FD001.txt").unlink()
    with pytest.raises(DataAbsent, match=r"test_FD001\.txt"):
        evaluate(bundle, engines)


def test_a_malformed_test_set_is_no_absent_one(bundle: Bundle, engines: Path) -> None:
    with (engines / "test_FD001.txt").open("a") as file:
        file.write("1 2 three\n")
    with pytest.raises(DataError, match=r"test_FD001\.txt:59") as caught:
        evaluate(bundle, engines)
    assert not isinstance(caught.value, DataAbsent)


def test_the_report_is_one_page_that_needs_nothing_else(bundle: Bundle, evidence: Evidence, tmp_path: Path) -> None:
    report = summarise(bundle, evidence)
    page = write(tmp_path / "a", bundle, evidence, report).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a" / FIGURES).read_text())["rmse"] == report.rmse
    names = {"predicted", "trajectories", "errors", "bands", "confusion", "intervals", "lead_time"}
    files = {f.stem: f.read_bytes() for f in (tmp_path / "a" / "plots").iterdir()}
    assert set(files) >= names - {"lead_time"}  # random weights may never warn
    shown = [base64.b64decode(data) for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]
    assert sorted(shown) == sorted(files.values())
    for svg in shown:
        assert ET.fromstring(svg).tag.endswith("svg")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert f"{report.rmse:.2f}" in page and f"{report.tree_heldout_rmse:.2f}" in page
    write(tmp_path / "b", bundle, evidence, report)
    for file in (tmp_path / "a").rglob("*.*"):  # nothing of the clock
        assert (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes()


def test_a_report_that_cannot_be_written_says_where(bundle: Bundle, evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="taken: cannot be written"):
        write(tmp_path / "taken", bundle, evidence, summarise(bundle, evidence))


def test_new_intervals_change_nothing_else(bundle: Bundle, same_engines: Path, tmp_path: Path) -> None:
    made = recalibrate(bundle, same_engines, tmp_path / "new", IntervalSettings(level=0.8))
    assert made.manifest.interval is not None and made.manifest.interval.level == 0.8
    old, new = (json.loads((b.path / bundles.MANIFEST).read_text()) for b in (bundle, made))
    assert {key for key in old if old[key] != new[key]} == {"interval"}
    kept = gather(made, same_engines, trees=False).held_out
    assert kept is not None
    low, high = made.manifest.interval.bounds(kept.rul, made.manifest.rul.max)
    below = kept.true.rul < made.manifest.rul.max
    assert 0.8 <= ((low <= kept.true.rul) & (kept.true.rul <= high))[below].mean() < 0.9
    shutil.rmtree(made.path)


def test_a_window_is_described_as_the_facts_say() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7, 2)).astype(np.float32)
    lines = [[np.polyfit(np.arange(7), w[:, c], 1) for c in range(2)] for w in x]
    slope = np.array([[line[0] for line in w] for w in lines])
    end = np.array([[np.polyval(line, 6) for line in w] for w in lines])
    assert np.allclose(tree.describe(x, "last value, slope"), np.hstack([x[:, -1], slope]), atol=1e-5)
    wanted = np.hstack([end, slope, x.mean(axis=1)])
    assert np.allclose(tree.describe(x, "line's end, slope, mean"), wanted, atol=1e-5)
