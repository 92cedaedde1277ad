"""The C-MAPSS loader: what it reads, and what it refuses with file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_rul.errors import ConfigError, DataError
from edge_rul.training import cmapss
from edge_rul.training.cmapss import CmapssSettings
from edge_rul.training.dataset import load

FD001 = CmapssSettings(subset="FD001")


def test_reads_the_named_sensors_in_the_configurations_order(engines: Path) -> None:
    table = load(FD001, engines, "train", ["Ps30", "T24"])
    first = (engines / "train_FD001.txt").read_text().split("\n")[0].split()
    # Columns of the file: unit, cycle, 3 settings, then T2 T24 T30 T50 P2 P15 P30 Nf Nc epr Ps30.
    assert table.inputs[0].tolist() == [np.float32(first[15]), np.float32(first[6])]
    assert table.inputs.dtype == np.float32
    assert table.inputs.shape == (404, 2)
    assert table.assets == ["1", "2", "3", "4", "5", "6", "7", "8"]
    content = (engines / "train_FD001.txt").read_bytes()
    assert table.files == {"train_FD001.txt": hashlib.sha256(content).hexdigest()}


def test_rul_counts_down_to_failure_in_training_and_to_the_rul_file_in_the_test(engines: Path) -> None:
    train = load(FD001, engines, "train", ["T24"])
    assert train.rul[:48].tolist() == list(range(47, -1, -1))
    test = load(FD001, engines, "test", ["T24"])
    assert test.rul[:30].tolist() == list(range(41, 11, -1))
    assert test.rul[test.asset == "2"].tolist() == list(range(46, 39, -1))
    assert not test.is_lower_bound.any()
    assert set(test.files) == {"test_FD001.txt", "RUL_FD001.txt"}


Edit = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    ("edit", "line", "problem"),
    [
        (lambda rows: [*rows[:4], rows[4].rsplit(maxsplit=1)[0], *rows[5:]], 5, "25 columns, expected 26"),
        (lambda rows: [*rows[:2], rows[2].replace("14.6200", "abc"), *rows[3:]], 3, "column 10 is 'abc'"),
        (lambda rows: [*rows[:2], rows[2].replace("14.6200", "nan"), *rows[3:]], 3, "column 10 is 'nan'"),
        (lambda rows: [*rows[:2], rows[2].replace("14.6200", "1e300"), *rows[3:]], 3, "column 10 is '1e300'"),
        (lambda rows: ["1e30" + rows[0][rows[0].index(" ") :], *rows[1:]], 1, "unit is 1e+30 after unit 0"),
        (lambda rows: [*rows[:6], *rows[7:]], 7, "cycle of unit 1 is 8, expected 7"),
        (lambda rows: [*rows[:6], rows[5], *rows[6:]], 7, "cycle of unit 1 is 6, expected 7"),
        (lambda rows: [*rows[:60], *rows[:1], *rows[60:]], 61, "unit is 1 after unit 2"),
        (lambda rows: ["1.5" + rows[0][1:], *rows[1:]], 1, "unit is 1.5"),
        (lambda rows: [*rows[:9], "", *rows[9:]], 10, "0 columns, expected 26"),
        (lambda rows: [], 1, "the file has no rows"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(engines: Path, edit: Edit, line: int, problem: str) -> None:
    path = engines / "train_FD001.txt"
    path.write_text("\n".join(edit(path.read_text().splitlines())))
    with pytest.raises(DataError) as e:
        load(FD001, engines, "train", ["T24"])
    assert e.value.object == f"{path}:{line}"
    assert problem in e.value.problem


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("12\n40\n", 2, "2 lines, the test file has 3 engines"),
        ("12\n-1\n0\n", 2, "RUL is -1"),
        ("12\nx\n0\n", 2, "column 1 is 'x'"),
    ],
)
def test_a_wrong_rul_file_is_named_by_file_and_line(engines: Path, content: str, line: int, problem: str) -> None:
    path = engines / "RUL_FD001.txt"
    path.write_text(content)
    with pytest.raises(DataError) as e:
        load(FD001, engines, "test", ["T24"])
    assert e.value.object == f"{path}:{line}"
    assert problem in e.value.problem


def test_a_missing_file_directory_or_sensor_is_named(engines: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        load(FD001, engines / "elsewhere", "train", ["T24"])
    with pytest.raises(ConfigError, match="no column 'T99'"):
        load(FD001, engines, "train", ["T24", "T99"])
    (engines / "RUL_FD001.txt").unlink()
    with pytest.raises(DataError, match=r"RUL_FD001\.txt: cannot be read"):
        load(FD001, engines, "test", ["T24"])


@pytest.mark.parametrize(
    ("part", "rows", "engines_there"), [("train", 20631, 100), ("test", 13096, 100)], ids=["train", "test"]
)
def test_the_real_files_have_the_published_sizes(data_dir: Path, part: str, rows: int, engines_there: int) -> None:
    table = cmapss.load(data_dir / "cmapss", "FD001", part, ["T24", "W32"])
    assert (len(table), len(table.assets)) == (rows, engines_there)
    assert table.inputs[0].tolist() == pytest.approx([641.82, 23.419] if part == "train" else [643.02, 23.3735])
