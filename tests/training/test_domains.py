"""The loaders of the domains: published files to a table, real ones and synthetic ones of the same format."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import published
import pytest
from conftest import ROOT

from edge_rul.core.features import Feature
from edge_rul.errors import ConfigError, DataError
from edge_rul.training import bearings, lives
from edge_rul.training.bearings import BearingsSettings
from edge_rul.training.dataset import DatasetSettings, load
from edge_rul.training.disks import DisksSettings
from edge_rul.training.normaliser import constants
from edge_rul.training.parts import FoldsSplit, GroupSplit
from edge_rul.training.prepared import fit_transform
from edge_rul.training.settings import load_settings
from edge_rul.training.wind import WindSettings
from edge_rul.training.windows import full_windows

PRONOSTIA = BearingsSettings(seconds_per_cycle=10, split=GroupSplit(test=["test"]))
TURBINES = WindSettings(seconds_per_cycle=600, max_gap=0, split=FoldsSplit(fold=0))
DRIVES = DisksSettings(files=["*.csv.gz"], split=FoldsSplit(folds=2))
LIVES = {"Learning_set/Bearing1_1": 12, "Full_Test_Set/Bearing1_4": 9}


def test_a_published_raw_snapshot_gives_the_published_features(data_dir: Path, tmp_path: Path) -> None:
    """The table of features has five digits; of Bearing1_4 the separator is a semicolon."""
    samples = data_dir / "bearings" / "raw_samples"
    for bearing, number in (("Bearing1_1", 1), ("Bearing1_1", 2803), ("Bearing1_4", 1)):
        clock, *rms = bearings.snapshot(samples / f"{bearing}_acc_{number:05d}.csv")
        table = load(
            PRONOSTIA, data_dir / "bearings", "test" if bearing == "Bearing1_4" else "train", ["h_rms", "v_rms"]
        )
        row = (table.asset == bearing) & (table.cycle == number)
        assert rms == pytest.approx(table.inputs[row][0].tolist(), rel=2e-4)
        assert 8 * 3600 <= clock < 18 * 3600


def test_raw_folders_are_read_as_they_are_published(tmp_path: Path) -> None:
    published.snapshots(tmp_path, LIVES, semicolons="Full_Test_Set/Bearing1_4")
    train, test = (load(PRONOSTIA, tmp_path, part, ["v_rms", "h_rms"], "seconds") for part in ("train", "test"))
    assert (train.assets, test.assets) == (["Bearing1_1"], ["Bearing1_4"])
    assert test.rul.tolist() == [80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert test.rules == {"clock_jumps_ignored": 0}
    first = np.loadtxt(tmp_path / "Learning_set/Bearing1_1/acc_00001.csv", delimiter=",")[:, 4:]
    assert train.inputs[0].tolist() == pytest.approx(first.std(axis=0)[::-1].tolist())
    (tmp_path / "Learning_set/Bearing1_1/acc_00003.csv").write_text("9,0,0,0,1\n")
    with pytest.raises(DataError, match=r"acc_00003\.csv:1: 5 columns, expected 6"):
        load(PRONOSTIA, tmp_path, "train", ["h_rms"])
    whole = (tmp_path / "Learning_set/Bearing1_1/acc_00002.csv").read_text().splitlines()
    for broken in ("nan", "inf", "1e300"):
        lines = [*whole[:6], whole[6].rpartition(",")[0] + f",{broken}", *whole[7:]]
        (tmp_path / "Learning_set/Bearing1_1/acc_00003.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(DataError, match=rf"acc_00003\.csv:7: .*'{broken}'\], expected finite numbers"):
            load(PRONOSTIA, tmp_path, "train", ["h_rms"])
    with pytest.raises(DataError, match="has no snapshots of bearings"):
        load(PRONOSTIA, tmp_path / "Learning_set", "train", ["h_rms"])


def test_a_clock_that_jumps_does_not_move_a_snapshot(tmp_path: Path) -> None:
    published.snapshots(tmp_path, LIVES)
    path = tmp_path / "Learning_set/Bearing1_1/acc_00005.csv"
    path.write_text(path.read_text().replace("9,0,40", "3,0,40"))
    table = load(PRONOSTIA, tmp_path, "train", ["h_rms"], "seconds")
    assert table.rules == {"clock_jumps_ignored": 2}  # there and back
    assert table.rul.tolist() == [110 - 10 * i for i in range(12)]


def test_the_real_bearings_have_the_published_sizes(data_dir: Path) -> None:
    train, test = (load(PRONOSTIA, data_dir / "bearings", p, ["h_rms", "v_rms"], "seconds") for p in ("train", "test"))
    assert (len(train.assets), len(test.assets), len(train) + len(test)) == (6, 11, 24_889)
    assert len(full_windows(train, 60)) + len(full_windows(test, 60)) == 23_886
    assert train.rules == {"clock_jumps_ignored": 3}
    # 21 g of v_mean in one snapshot of Bearing1_3 are an offset of the sensor and no vibration.
    offset = test.inputs[(test.asset == "Bearing1_3") & (test.cycle == 2075), 1]
    assert offset < 20


def test_a_turbines_lives_lie_between_its_failures(tmp_path: Path) -> None:
    failures = [
        ("T01", "GEARBOX", 10.0),
        ("T01", "GENERATOR", 11.0),
        ("T06", "HYDRAULIC", 25.0),
        ("T09", "GEARBOX", 5.0),
    ]
    published.wind(tmp_path, 30, failures, turbines=("T01", "T06"))
    first = load(TURBINES, tmp_path, "test", ["gear_oil_c"], "days")
    starts = first.starts
    assert first.assets == ["T01"]
    # Ten days to the failure; a day until the next, too short to see; from three days after that to the end.
    assert np.diff([*starts, len(first)]).tolist() == [10 * 144, 16 * 144 - 1]
    assert first.life[starts].tolist() == [0, 1]
    assert first.is_lower_bound[starts].tolist() == [False, True]
    assert first.rul[starts].tolist() == pytest.approx([10 - 1 / 144, 16 - 1 / 144])
    assert first.rul[starts[1] - 1] == 0
    assert first.cycle[starts].tolist() == [0, 0]
    assert first.rules == {"repeated_records_dropped": 2, "after_failure_dropped": 4 * 144 + 3 * 144}
    # No window spans the hole that the dropped record leaves, on day 20.8.
    windows = full_windows(first, 144)
    assert len(windows) == (10 * 144 - 143) + (16 * 144 - 1) - 2 * 143
    other = load(TURBINES, tmp_path, "train", ["gear_oil_c"], "days")
    assert (other.assets, other.rul[0]) == (["T06"], pytest.approx(25 - 1 / 144))


def test_the_real_turbines_have_the_logged_failures(data_dir: Path) -> None:
    third = WindSettings(seconds_per_cycle=600, max_gap=0, split=FoldsSplit(fold=2))
    table = load(third, data_dir / "wind", "test", ["gear_oil_c", "ambient_c"], "days")
    assert table.assets == ["T07"]
    # Four failures; the generator's follows the bearing's by a day, so that it has no life of its own.
    assert table.is_lower_bound[table.starts].tolist() == [False, False, False, True]
    assert table.rules["repeated_records_dropped"] == 936


def test_a_drives_role_says_how_its_life_ended(tmp_path: Path) -> None:
    drives = {"A": (40, False), "B": (31, True), "C": (35, False), "D": (33, True)}
    published.disks(tmp_path, "all.csv.gz", drives, days=40)
    parts = [load(DRIVES, tmp_path, part, ["smart_9_raw", "smart_5_raw"], "cycles") for part in ("train", "test")]
    groups = parts[0].groups
    assert groups == {"A": "healthy", "B": "failed", "C": "censored", "D": "failed"}
    assert [sorted(groups[a] for a in t.assets).count("failed") for t in parts] == [1, 1]
    for table in parts:
        bound = {a for a in table.assets if table.is_lower_bound[table.asset == a].all()}
        assert bound == {a for a in table.assets if groups[a] != "failed"}


def test_backblazes_own_daily_files_are_read(data_dir: Path, tmp_path: Path) -> None:
    """The official layouts of 2013 (85 columns) and of later years (197), as samples of their files."""
    disks = data_dir / "disks"
    for name in ("format_sample_2013-04-10.csv", "format_sample_modern.csv"):
        shutil.copy(disks / name, tmp_path)
        settings = DisksSettings(files=[name])
        table = load(settings, tmp_path, "train", ["smart_9_raw", "smart_194_raw"])
        assert len(table) == {"format_sample_2013-04-10.csv": 150, "format_sample_modern.csv": 100}[name]
    days = DisksSettings(files=["backblaze_2013*.csv.gz"], model="ST3000DM001")
    table = load(days, disks, "train", ["smart_9_raw"])
    assert table.cycle.max() == 39
    assert set(table.groups.values()) == {"failed", "healthy"}
    with pytest.raises(DataError, match="has no drive of model ST9"):
        load(DisksSettings(files=["backblaze_2013*.csv.gz"], model="ST9"), disks, "train", ["smart_9_raw"])
    with pytest.raises(DataError, match=r"has no column 'smart_999_raw'"):
        load(days, disks, "train", ["smart_999_raw"])


def test_the_real_drives_have_the_published_roles(data_dir: Path) -> None:
    settings = DisksSettings(files=["backblaze_2018_ST4000DM000_daily.csv.gz"], split=FoldsSplit(folds=5, fold=1))
    parts = [load(settings, data_dir / "disks", part, ["smart_197_raw", "smart_198_raw"]) for part in ("train", "test")]
    assert len(parts[0]) + len(parts[1]) == 133_280
    assert sum(len(full_windows(table, 30)) for table in parts) == 113_386
    roles = list(parts[0].groups.values())
    assert [roles.count(r) for r in ("failed", "healthy", "censored")] == [386, 240, 60]
    assert all((t.inputs[:, 0] == t.inputs[:, 1]).all() for t in parts), "198 is not 197 in a row"
    test = [parts[1].groups[a] for a in parts[1].assets]
    assert [test.count(r) for r in ("failed", "healthy", "censored")] == [77, 48, 12]


def test_the_real_flights_of_the_test_are_marked_where_they_are_not_as_training_s(data_dir: Path) -> None:
    """Engines 14 and 15 fly shorter classes than all that teach: each window is `outside`, and none of 11's."""
    settings = load_settings(ROOT / "configs" / "ncmapss_ds02.yaml")
    every, learnt, _, _ = lives.read(settings, data_dir / "ncmapss")
    test = full_windows(load(settings.dataset, data_dir / "ncmapss", "test", settings.rules, "flights"), 30)
    assert (len(full_windows(every, 30)), len(test)) == (272, 115)
    transform = fit_transform(learnt, settings)
    assert constants(transform.normaliser, settings.seen) == ["Fc"], "3 in every flight that teaches"
    seen = transform.apply(test.readings(before=False))
    assert not seen.x[:, :, settings.seen.index(Feature("Fc", "Fc"))].any()
    engine = test.table.asset[test.last].tolist()
    marked = {e: {bool(m.outside) for a, m in zip(engine, seen.marks, strict=True) if a == e} for e in set(engine)}
    assert marked == {"11": {False}, "14": {True}, "15": {True}}


def test_no_domain_is_known_by_name_but_to_its_loader() -> None:
    """In no other module of the package stands the name of a configuration or of a format to compare with."""
    names = {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"edge-rul"}
    formats = {s.__struct_config__.tag: s.__module__ for s in get_args(DatasetSettings)}
    assert len(formats) == 5
    for path in sorted((ROOT / "edge_rul").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        foreign = (names | set(formats)) - {tag for tag, owner in formats.items() if owner == module} - {"table"}
        assert not foreign & texts, module


def test_an_input_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    published.snapshots(tmp_path, LIVES)
    with pytest.raises(ConfigError, match="pronostia has no column 'x_rms'"):
        load(PRONOSTIA, tmp_path, "train", ["x_rms"])
