"""The dirt of each published set, put into small files by hand, and what the evaluation report counts of it."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import published
import pytest
from conftest import ROOT

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.bundle import Input
from edge_rul.training.parts import AssetsSplit
from edge_rul.training.report import evaluate
from edge_rul.training.settings import TrainingSettings, load_settings

WINDOW = 10
Row = dict[str, str]
Counts = dict[str, int]


def edit(path: Path, change: Callable[[Row], Row | None]) -> None:
    """Rewrite each row of a CSV file, or drop it."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    rows = [changed for row in csv.DictReader(text.splitlines()) if (changed := change(row)) is not None]
    published.write(path, list(rows[0]), [list(row.values()) for row in rows])


def batteries(data: Path) -> tuple[dict[str, Any], dict[str, Counts]]:
    """Rows of zeros, a spike of capacity, a resistance near 0, an hour's charge, a temperature that is missing."""
    published.batteries(data, {"b1c06": (30, "to_end_of_life"), "b1c07": (40, "dropped"), "b1c08": (30, "dropped")})
    dirt = {
        ("b1c06", "5"): {"qd_ah": "2.88"},
        ("b1c06", "9"): {"ir_ohm": "0.0001"},
        ("b1c06", "12"): {"tmax_c": ""},
        ("b1c07", "20"): {"charge_time_min": "420"},
    }
    edit(data / "severson_batch1_cycles.csv.gz", lambda row: row | dirt.get((row["cell"], row["cycle"]), {}))
    every = {"all_zero_dropped": 3, "values_invalid": 3, "missing_held": 4}
    parts = {"test": {**every, "lives_censored": 0}, "train": {**every, "lives_censored": 2}}
    return {"split": AssetsSplit(test=["b1c06"])}, parts


def bearings(data: Path) -> tuple[dict[str, Any], dict[str, Counts]]:
    """A clock that jumps there and back, a snapshot of a dead sensor, and one with an offset, which is no vibration."""
    published.snapshots(data, {"Learning_set/Bearing1_1": 20, "Full_Test_Set/Bearing1_4": 20})
    late, dead, offset = (data / f"Full_Test_Set/Bearing1_4/acc_{number:05d}.csv" for number in (5, 9, 12))
    late.write_text(late.read_text().replace("9,0,40", "3,0,40"))
    dead.write_text("9,1,20,6.5664e+04,0.2,0.2\n" * 2560)
    shifted = (line.rsplit(",", 1) for line in offset.read_text().splitlines())
    offset.write_text("".join(f"{head},{float(v) + 21:.3f}\n" for head, v in shifted))
    every = {"clock_jumps_ignored": 2, "values_invalid": 2, "missing_held": 2, "lives_censored": 0}
    return {}, {"test": every, "train": every}


def wind(data: Path) -> tuple[dict[str, Any], dict[str, Counts]]:
    """A repaired turbine, a record that fills a hole, a fault of a sensor, and one that is silent for 8 records."""
    published.wind(data, 8, [("T01", "GEARBOX", 2.0)], turbines=("T01", "T06", "T07"))
    times: list[str] = []

    def dirty(row: Row) -> Row:
        if row["turbine"] != "T01":
            return row
        times.append(row["time_utc"])
        record = len(times) - 1
        filled = {100: {"repeated_row": "1"}, 200: {"gen_bearing2_c": "205.0"}}
        return row | filled.get(record, {"trafo2_c": ""} if 150 <= record < 158 else {})

    edit(data / "edp_2017h2_continuous.csv.gz", dirty)
    every = {
        "repeated_records_dropped": 1,
        "after_failure_dropped": 3 * 144,
        "values_invalid": 1,
        "missing_held": 9,
    }
    # Of ten records, nine windows span the hole; five hold 7 or 8 of the silent sensor's in a row, where 6 may be held.
    test = {"windows_over_holes_left_out": 9, "windows_held_too_long_left_out": 5, "lives_censored": 1}
    return {}, {"test": {**every, **test}, "train": {**every, "lives_censored": 2}}


def disks(data: Path) -> tuple[dict[str, Any], dict[str, Counts]]:
    """A hole of 25 days and one of a day, a temperature past the sensor's range, a life's first value that is missing,
    and drives that did not fail."""
    lives = {"A": (60, False), "B": (60, True), "C": (40, False)}
    published.disks(data, "backblaze_2018_ST4000DM000_daily.csv.gz", lives, days=60)
    days: list[str] = []

    def dirty(row: Row) -> Row | None:
        if row["serial_number"] != "B":
            return row
        days.append(row["date"])
        day = len(days) - 1
        if day == 8 or 20 <= day < 45:
            return None
        dirt = {0: {"smart_9_raw": ""}, 5: {"smart_194_raw": "141"}, 6: {"smart_187_raw": ""}}
        return row | dirt.get(day, {})

    edit(data / "backblaze_2018_ST4000DM000_daily.csv.gz", dirty)
    every = {"values_invalid": 1, "missing_held": 2, "missing_dropped": 1}
    test = {"windows_over_holes_left_out": 9, "lives_censored": 0}
    return {"split": AssetsSplit(test=["B"])}, {"test": {**every, **test}, "train": {**every, "lives_censored": 2}}


@pytest.mark.parametrize("write", [batteries, bearings, wind, disks])
def test_the_report_counts_what_each_rule_did(
    write: Callable[[Path], tuple[dict[str, Any], dict[str, Counts]]], tmp_path: Path
) -> None:
    """By the rules of the shipped configuration, and nothing else is counted."""
    settings = load_settings(ROOT / "configs" / f"{write.__name__}.yaml")
    changes, expected = write(tmp_path / "data")
    parts = bundle_parts(window=WINDOW, inputs=[i.name for i in settings.inputs])
    parts["fields"] |= as_trained(settings, changes)
    report = evaluate(bundles.write(tmp_path / "bundle", **parts), tmp_path / "data")
    found = {part: {rule: n for rule, n in counts.items() if n} for part, counts in report.rules.items()}
    assert found == {part: {rule: n for rule, n in counts.items() if n} for part, counts in expected.items()}


def as_trained(settings: TrainingSettings, changes: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of a bundle says that was trained by the settings."""
    rules = zip(settings.inputs, settings.rules, strict=True)
    dataset = msgspec.structs.replace(settings.dataset, **changes)
    return {
        "inputs": [Input(i.name, i.unit, "", -1e9, 1e9, i.valid, rule.daemon, i.max_hold) for i, rule in rules],
        "rul": settings.rul,
        "training": {"dataset": dataset},
    }
