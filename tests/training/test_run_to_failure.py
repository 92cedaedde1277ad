"""A user's own table: what its column map can say, and what is refused with its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_rul.errors import ConfigError, DataError
from edge_rul.training.dataset import load
from edge_rul.training.run_to_failure import TableSettings
from edge_rul.training.windows import full_windows

PUMPS = """pump,run,hour,done,site,pressure,flow
A,1,0,0,north,10,1
A,1,1,0,north,11,2
A,1,2,1,north,12,3
A,2,0,0,north,13,4
A,2,1,0,north,14,5
B,1,0,0,south,20,6
B,1,2,0,south,21,7
"""
MAP = {"format": "table", "file": "pumps.csv", "asset": "pump", "life": "run", "cycle": "hour"}


def table_settings(**keys: object) -> TableSettings:
    return msgspec.convert({**MAP, **keys}, TableSettings)


@pytest.fixture
def pumps(tmp_path: Path) -> Path:
    (tmp_path / "pumps.csv").write_text(PUMPS)
    return tmp_path


def test_lives_end_in_failure_or_are_lower_bounds(pumps: Path) -> None:
    settings = table_settings(columns={"p": "pressure"}, failed={"column": "done"}, group="site")
    table = load(settings, pumps, "train", ["flow", "p"])
    assert table.inputs[0].tolist() == [1, 10]
    assert table.life.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert table.rul.tolist() == [2, 1, 0, 1, 0, 2, 0]
    assert table.is_lower_bound.tolist() == [False] * 3 + [True] * 4
    assert table.groups == {"A": "north", "B": "south"}


def test_without_a_mark_every_life_fails_and_the_table_may_be_the_file_itself(pumps: Path) -> None:
    table = load(table_settings(file=None), pumps / "pumps.csv", "train", ["flow"])
    assert not table.is_lower_bound.any()
    assert set(table.files) == {"pumps.csv"}


def test_rows_in_any_order_give_the_same_table(pumps: Path) -> None:
    first = load(table_settings(), pumps, "train", ["flow"])
    head, *rows = PUMPS.splitlines()
    later = [rows[2], rows[0], rows[1], rows[6], rows[3], rows[5], rows[4]]
    (pumps / "pumps.csv").write_text("\n".join([head, *later]))
    again = load(table_settings(), pumps, "train", ["flow"])
    for name in ("asset", "life", "cycle", "inputs", "rul"):
        assert getattr(again, name).tolist() == getattr(first, name).tolist()


def test_how_a_life_ended_may_stand_in_a_file_of_lives(pumps: Path) -> None:
    (pumps / "lives.csv").write_text("name,n,how\nA,1,broken\nA,2,sold\nB,1,Broken\n")
    told = {"file": "lives.csv", "asset": "name", "life": "n", "column": "how", "values": ["broken"]}
    table = load(table_settings(failed=told), pumps, "train", ["flow"])
    assert table.is_lower_bound.tolist() == [False] * 3 + [True] * 2 + [False] * 2
    assert set(table.files) == {"pumps.csv", "lives.csv"}
    (pumps / "lives.csv").write_text("name,n,how\nA,1,broken\nB,1,sold\n")
    with pytest.raises(DataError, match=r"pumps\.csv:5: A 2 has no row in .*lives\.csv"):
        load(table_settings(failed=told), pumps, "train", ["flow"])


def test_values_that_mean_failure_nowhere_are_refused(pumps: Path) -> None:
    """Every life would be censored, and the model worthless. A test file may be of lives that all go on."""
    told = {"column": "done", "values": ["broken", "Worn"]}
    problem = r"pumps\.csv: no life failed: column done is '0', '1'; expected 'broken' or 'Worn'\n  hint: .*\.values"
    with pytest.raises(DataError, match=problem):
        load(table_settings(failed=told), pumps, "train", ["flow"])
    parts = table_settings(file={"train": "pumps.csv", "test": "pumps.csv"}, failed=told)
    assert load(parts, pumps, "test", ["flow"]).is_lower_bound.all()
    (pumps / "lives.csv").write_text("pump,run,how\nA,1,Broken.\nA,2,\nB,1,sold\n")
    with pytest.raises(DataError, match=r"lives\.csv: no life failed: column how is 'Broken\.', '', 'sold'; expected"):
        load(table_settings(failed={**told, "file": "lives.csv", "column": "how"}), pumps, "train", ["flow"])


def test_a_life_with_two_ends_is_refused(pumps: Path) -> None:
    (pumps / "lives.csv").write_text("pump,run,how\nA,1,broken\nA,2,sold\nA,1,sold\nB,1,broken\n")
    told = {"file": "lives.csv", "column": "how", "values": ["broken"]}
    with pytest.raises(DataError, match=r"lives\.csv:4: A 1 stands twice, first on .*lives\.csv:2$"):
        load(table_settings(failed=told), pumps, "train", ["flow"])
    (pumps / "pumps.csv").write_text("pump,hour,flow\nA,0,1\n")
    with pytest.raises(
        DataError, match=r"lives\.csv:3: A stands twice, first on .*:2\n  hint: name .* by dataset\.life"
    ):
        load(table_settings(life=None, failed=told), pumps, "train", ["flow"])


def test_a_time_becomes_a_cycle_and_the_rul_a_time(tmp_path: Path) -> None:
    rows = ["2026-01-01T00:00Z,1", "2026-01-01T00:10:01Z,2", "2026-01-01 00:30,3"]
    (tmp_path / "t.csv").write_text("asset,at,x\n" + "".join(f"A,{row}\n" for row in rows))
    settings = msgspec.convert(
        {"format": "table", "file": "t.csv", "asset": "asset", "time": "at", "seconds_per_cycle": 600}, TableSettings
    )
    table = load(settings, tmp_path, "train", ["x"], "minutes")
    assert table.cycle.tolist() == [0, 1, 3]
    assert table.rul.tolist() == [30, 20, 0]
    assert table.time is not None and np.diff(table.time).tolist() == [601_000, 1_199_000]
    (tmp_path / "t.csv").write_text("asset,at,x\nA,0,1\nA,200,2\n")
    with pytest.raises(DataError, match=r"t\.csv:3: cycle 0 of A stands twice, first on .*:2\n  hint: two readings"):
        load(settings, tmp_path, "train", ["x"])
    with pytest.raises(ConfigError, match=r"dataset\.seconds_per_cycle: is needed where rul\.unit is days"):
        load(table_settings(), tmp_path, "train", ["x"], "days")


@pytest.mark.parametrize(
    ("unit", "ours"),
    [("hour", "hours"), ("Hours", "hours"), ("h", "hours"), ("min", "minutes"), ("s", "seconds"), ("DAY", "days")],
)
def test_a_unit_of_time_by_another_name_is_not_one_a_cycle(pumps: Path, unit: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"rul\.unit: is '{unit}', expected {ours} .*\n  hint: write {ours}$"):
        load(table_settings(seconds_per_cycle=1800), pumps, "train", ["flow"], unit)


@pytest.mark.parametrize("unit", ["cycles", "flights", "shots", "km"])
def test_any_other_unit_is_one_a_cycle(pumps: Path, unit: str) -> None:
    table = load(table_settings(seconds_per_cycle=1800), pumps, "train", ["flow"], unit)
    assert table.rul.tolist() == [2, 1, 0, 1, 0, 2, 0]


def test_parquet_and_gzip_read_as_csv_does(pumps: Path) -> None:
    csv = pytest.importorskip("pyarrow.csv", reason="needs pyarrow (extra parquet)")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(csv.read_csv(pumps / "pumps.csv"), pumps / "pumps.parquet")
    (pumps / "pumps.csv.gz").write_bytes(gzip.compress(PUMPS.encode()))
    wanted = load(table_settings(failed={"column": "done"}), pumps, "train", ["flow", "pressure"])
    for name in ("pumps.parquet", "pumps.csv.gz"):
        found = load(table_settings(file=name, failed={"column": "done"}), pumps, "train", ["flow", "pressure"])
        assert (found.inputs == wanted.inputs).all() and (found.is_lower_bound == wanted.is_lower_bound).all()
    with pytest.raises(DataError, match=r"pumps\.parquet:1: has no column 'flaw'.*\n  hint: did you mean 'flow'"):
        load(table_settings(file="pumps.parquet"), pumps, "train", ["flaw"])


def test_times_in_nanoseconds_are_read_to_the_microsecond(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    parquet = pytest.importorskip("pyarrow.parquet")
    begin = 1767225600 * 10**9
    for zone in (None, "UTC"):
        at = arrow.array([begin + 1, begin + 60 * 10**9 + 1_000_001], arrow.timestamp("ns", zone))
        parquet.write_table(arrow.table({"asset": ["A", "A"], "at": at, "x": [1.0, 2.0]}), tmp_path / "t.parquet")
        settings = msgspec.convert(
            {"format": "table", "file": "t.parquet", "asset": "asset", "time": "at", "seconds_per_cycle": 60},
            TableSettings,
        )
        table = load(settings, tmp_path, "train", ["x"])
        assert table.cycle.tolist() == [0, 1]
        assert table.time is not None and table.time.tolist() == [begin // 10**6, begin // 10**6 + 60_001]


def test_milliseconds_are_not_taken_for_seconds(tmp_path: Path) -> None:
    settings = msgspec.convert(
        {"format": "table", "file": "t.csv", "asset": "asset", "time": "at", "seconds_per_cycle": 60}, TableSettings
    )
    for at in ("1767225600000", "1e30"):
        (tmp_path / "t.csv").write_text(f"asset,at,x\nA,1767225600,1\nA,{at},2\n")
        problem = rf"t\.csv:3: column at is '{at}', expected seconds\n  hint: milliseconds\? divide them by 1000"
        with pytest.raises(DataError, match=problem):
            load(settings, tmp_path, "train", ["x"])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_by_another_separator_gets_a_hint(pumps: Path, separator: str) -> None:
    (pumps / "pumps.csv").write_text(PUMPS.replace(",", separator))
    with pytest.raises(
        DataError, match=r"pumps\.csv:1: has no column 'pump'.*\n  hint: columns are separated by commas"
    ):
        load(table_settings(), pumps, "train", ["flow"])


def test_a_missing_value_is_named_by_file_and_column(pumps: Path) -> None:
    (pumps / "pumps.csv").write_text(PUMPS.replace("north,11,2", "north,,2"))
    with pytest.raises(
        DataError, match=r"set: pumps\.csv: cycle 1 of A: p is missing \(column pressure\)\n  hint: say by"
    ):
        load(table_settings(columns={"p": "pressure"}), pumps, "train", ["flow", "p"])


def test_a_damaged_archive_is_named(pumps: Path) -> None:
    whole = gzip.compress(PUMPS.encode())
    for content in (whole[:20], whole[:20] + b"\xff" * 8 + whole[28:], whole[:-8] + b"12345678", b"pump,run\n"):
        (pumps / "pumps.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"pumps\.csv\.gz: (is no CSV in UTF-8|cannot be read): "):
            load(table_settings(file="pumps.csv.gz"), pumps, "train", ["flow"])


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("A,1,1,0,north,11,2", "A,1,1,0,north,11", 3, "6 columns, the head has 7"),
        ("north,11,2", "north,11,x", 3, "column flow is 'x', expected a number"),
        ("north,11,2", "north,11,1_234", 3, "column flow is '1_234', expected a number"),
        ("north,11,2", "north,11,inf", 3, "column flow is 'inf', expected a finite number"),
        ("north,11,2", "north,11,-1e300", 3, "column flow is '-1e300', expected a number within float32's range"),
        ("A,1,1,0", "A,1,-1,0", 3, "column hour is '-1', expected a whole number"),
        ("A,1,1,0", "A,1,,0", 3, "column hour is '', expected a whole number"),
        ("A,1,1,0", "A,1,0,0", 3, "cycle 0 of A stands twice, first on"),
        ("B,1,0", ",1,0", 7, "column pump is empty"),
        ("flow", "pressure", 1, "has 2 columns 'pressure', expected one"),
    ],
)
def test_a_malformed_table_is_named_by_file_and_line(pumps: Path, old: str, new: str, line: int, problem: str) -> None:
    path = pumps / "pumps.csv"
    path.write_text(PUMPS.replace(old, new, 1))
    inputs = ["pressure"] if old == "flow" else ["pressure", "flow"]
    with pytest.raises(DataError) as e:
        load(table_settings(), pumps, "train", inputs)
    assert e.value.object == f"{path}:{line}"
    assert problem in e.value.problem


def test_lives_that_run_into_one_another_get_a_hint(pumps: Path) -> None:
    with pytest.raises(DataError, match=r"hint: name the column that tells an asset's lives apart by dataset\.life"):
        load(table_settings(life=None), pumps, "train", ["flow"])


@pytest.mark.parametrize(
    ("missing", "cycles", "flow"), [("drop", [0, 2, 0, 1, 2], [1, 3, 4, 5, 7]), ("hold", None, [1, 1, 3, 4, 5, 7])]
)
def test_missing_values_are_an_error_or_go_by_rule(
    pumps: Path, missing: str, cycles: list[int] | None, flow: list[int]
) -> None:
    (pumps / "pumps.csv").write_text(PUMPS.replace("north,11,2", "north,11,").replace("south,20,6", "south,20,NaN"))
    with pytest.raises(
        DataError, match=r"cycle 1 of A: flow is missing\n  hint: say by its `missing`, or by dataset\.rows\.missing"
    ):
        load(table_settings(), pumps, "train", ["flow"])
    table = load(table_settings(rows={"missing": missing}), pumps, "train", ["flow"])
    assert table.inputs[:, 0].tolist() == flow  # what a life begins with cannot be held
    assert cycles is None or table.cycle.tolist() == cycles
    assert table.rules == ({"missing_dropped": 2} if missing == "drop" else {"missing_held": 1, "missing_dropped": 1})


def test_rows_of_zeros_and_windows_over_holes_go_by_rule(pumps: Path) -> None:
    (pumps / "pumps.csv").write_text(PUMPS.replace("north,10,1", "north,0,0"))
    table = load(table_settings(rows={"zeros": "drop"}), pumps, "train", ["flow", "pressure"])
    assert (len(table), table.rules) == (6, {"all_zero_dropped": 1})
    ends = [(a, c) for a, _, c in full_windows(table, 2).keys()]  # noqa: SIM118
    assert ends == [("A", 2), ("A", 1), ("B", 2)]
    strict = load(table_settings(rows={"zeros": "drop"}, max_gap=0), pumps, "train", ["flow", "pressure"])
    assert [(a, c) for a, _, c in full_windows(strict, 2).keys()] == ends[:2]  # noqa: SIM118


def many(tmp_path: Path) -> Path:
    rows = [f"{kind}{i},{c},{i},{kind}" for kind in "xy" for i in range(10) for c in range(3)]
    (tmp_path / "many.csv").write_text("pump,hour,flow,kind\n" + "\n".join(rows))
    return tmp_path


SPLITS = [
    {"by": "share", "share": 0.2, "seed": 1},
    {"by": "folds", "folds": 5, "fold": 2},
    {"by": "assets", "test": ["x3", "y4"]},
    {"by": "group", "test": ["y"]},
    {"by": "folds", "fold": 19},
]


@pytest.mark.parametrize("split", SPLITS, ids=lambda s: s["by"])
def test_a_split_moves_whole_assets_and_leaves_none_out(tmp_path: Path, split: dict[str, object]) -> None:
    settings = table_settings(file="many.csv", life=None, group="kind", split=split)
    train, test = (load(settings, many(tmp_path), part, ["flow"]).assets for part in ("train", "test"))
    assert sorted(train + test) == sorted(f"{kind}{i}" for kind in "xy" for i in range(10))
    if "seed" in split or "folds" in split:  # of each group its part
        assert sorted(a[0] for a in test) == ["x", "x", "y", "y"]


def test_folds_together_are_all_assets_once(tmp_path: Path) -> None:
    tests = [
        load(
            table_settings(file="many.csv", life=None, group="kind", split={"by": "folds", "folds": 5, "fold": k}),
            many(tmp_path),
            "test",
            ["flow"],
        ).assets
        for k in range(5)
    ]
    assert sorted(a for fold in tests for a in fold) == sorted(f"{kind}{i}" for kind in "xy" for i in range(10))


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"by": "assets", "test": ["x3", "z"]}, "names z, which the data lacks"),
        ({"by": "group", "test": ["z"]}, "names z; the data has x, y"),
        ({"by": "folds", "fold": 20}, "is 20, the data has assets for 20 folds"),
        ({"by": "group", "test": ["x", "y"]}, "leaves none for the train part"),
        (None, "has no test lives"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, split: dict[str, object] | None, problem: str) -> None:
    settings = table_settings(file="many.csv", life=None, group="kind", split=split)
    with pytest.raises((ConfigError, DataError), match=problem):
        for part in ("train", "test"):
            load(settings, many(tmp_path), part, ["flow"])


@pytest.mark.parametrize("split", [{"by": "share", "share": 0.01}, {"by": "folds", "folds": 30, "fold": 29}])
def test_training_tells_already_that_no_test_is_left(tmp_path: Path, split: dict[str, object]) -> None:
    settings = table_settings(file="many.csv", life=None, split=split)
    with pytest.raises(
        DataError, match=r"split: 20 assets: dataset\.split leaves none for the test part\n  hint: whole"
    ):
        load(settings, many(tmp_path), "train", ["flow"])


def test_two_files_are_a_split(pumps: Path) -> None:
    (pumps / "other.csv").write_text(PUMPS.replace("B,", "C,"))
    settings = table_settings(file={"train": "pumps.csv", "test": "other.csv"})
    assert load(settings, pumps, "train", ["flow"]).assets == ["A", "B"]
    assert load(settings, pumps, "test", ["flow"]).assets == ["A", "C"]
    with pytest.raises(ConfigError, match=r"dataset\.file: names two files, --data one"):
        load(settings, pumps / "pumps.csv", "train", ["flow"])


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"cycle": None}, "expected either cycle or time"),
        ({"time": "hour"}, "expected either cycle or time"),
        ({"cycle": None, "time": "hour"}, "seconds_per_cycle is needed"),
        ({"file": {"train": "a", "test": "b"}, "split": {"by": "share", "share": 0.5}}, "expected no split"),
        ({"split": {"by": "folds", "folds": 3, "fold": 3}}, "fold is 3, expected from 0 to 2"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        table_settings(**keys)


def test_the_real_cells_have_the_published_sizes(data_dir: Path) -> None:
    from edge_rul.training.settings import load_settings

    settings = load_settings(Path(__file__).parents[2] / "configs" / "batteries.yaml")
    inputs = [i.name for i in settings.inputs]
    train, test = (load(settings.dataset, data_dir / "batteries", part, inputs) for part in ("train", "test"))
    assert len(train) + len(test) == 38_811 - 46
    assert train.rules == {"all_zero_dropped": 46}
    assert (len(train.assets), len(test.assets)) == (28, 18)
    assert not test.is_lower_bound.any()
    censored = np.unique(train.asset[train.is_lower_bound])
    assert len(censored) == 10
    assert len(full_windows(train, 100)) + len(full_windows(test, 100)) == 34_211
