"""Export and rescore: what they derive again is what the daemon published, and they do not disturb it."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from test_worker import FakeClock, FakeTransport

from bundles import make_bundle, raw_windows
from edge_rul import cli, lookback, lookback_file
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.journal_file import FILE, open_read_only
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.bundle import Bundle
from edge_rul.config import WindowSettings, load_settings
from edge_rul.core.payload import Reading
from edge_rul.core.tail import Numbered
from edge_rul.core.topic import Asset
from edge_rul.engines import Engine, open_engine
from edge_rul.errors import EXIT_CONFIG, EXIT_OK, EXIT_USAGE, JournalError
from edge_rul.wiring import build_outgoing, build_pipeline
from edge_rul.worker import Worker

T0 = 1_767_225_600_000
EXACT = 1e-3  # batches differ
HEADS = "asset life cycle RUL file RUL bundle difference class file class bundle"


class Daemon:
    """A worker over a real bundle and a real journal, on the lines of one plant, with a broker that the test drives."""

    def __init__(self, directory: Path, bundle: Bundle, more: str = "", readings: str = "in/{line}/{asset}") -> None:
        self.config = directory / "edge-rul.yaml"
        self.config.write_text(
            f"bundle: {bundle.path}\nlog: {{level: error}}\n"
            f"topics:\n  readings: ['{readings}']\n"
            "  prediction: out/{line}/{asset}/p\n"
            "  alarm: out/{line}/{asset}/a/{alarm}\n  alarm_event: out/{line}/{asset}/e\n  command: cmd\n"
            f"journal: {{directory: state, min_free: 0, snapshot_seconds: 100{more}}}\n"
        )
        self.settings, _ = load_settings(self.config)
        self.state = directory / "state"
        self.engine: Engine = open_engine("onnxruntime", bundle)
        self.journal = Journal(self.state, self.settings.journal, inputs=[i.name for i in bundle.manifest.inputs])
        self.transport, self.clock = FakeTransport(), FakeClock()
        outgoing = build_outgoing(self.settings)
        self.worker = Worker(
            pipeline=build_pipeline(self.settings, bundle, self.engine, outgoing, self.journal.id),
            engine=self.engine,
            transport=self.transport,
            journal=self.journal,
            outgoing=outgoing,
            settings=self.settings,
            clock=self.clock,
            log=structlog.get_logger(),
        )
        self.values = raw_windows(bundle.manifest.normaliser, 1, 400, seed=3)[0]  # (400, F)

    def send(self, cycle: int, asset: str = "A/pump", values: Any = None, time: int | None = None) -> None:
        values = self.values[cycle] if values is None else values
        self.transport.put({"cycle": cycle, "ts": time, "values": [float(v) for v in values]}, asset)

    def reset(self, line: str, asset: str) -> None:
        command = json.dumps({"command": "reset", "asset": asset, "levels": {"line": line}}).encode()
        self.transport.inbox.append(Received("cmd", command, 1, 9999, 1))

    def settle(self, seconds: float = 0.3) -> None:
        for _ in range(3):
            while self.worker.step():
                pass
            self.clock.now += seconds

    def published(self) -> dict[tuple[int, int], dict[str, Any]]:
        """Of the pump on line A, by life and cycle, the newest revision."""
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for p in self.transport.predictions():
            key = (p["life"], p["cycle"])
            if (p["asset"], p["levels"]) == ("pump", {"line": "A"}) and (
                key not in found or p["revision"] >= found[key]["revision"]
            ):
                found[key] = p
        return found

    def close(self) -> None:
        self.journal.close()
        self.engine.close()


@pytest.fixture
def daemon(tmp_path: Path, tiny_bundle: Bundle) -> Iterator[Daemon]:
    made = Daemon(tmp_path, tiny_bundle)
    yield made
    made.close()


def main(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()  # what the daemon logged
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    out, err = capsys.readouterr()
    return code, out, err


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def assert_as_published(rows: list[dict[str, str]], daemon: Daemon) -> None:
    """Every prediction in the rows is the one that was published, and each used row of a full window has one."""
    published = daemon.published()
    found = {(int(r["life"]), int(r["cycle"])): r for r in rows if r["rul"]}
    for key, row in found.items():
        p = published[key]
        assert float(row["rul"]) == pytest.approx(p["rul"], abs=EXACT)
        assert float(row["rul_low"]) == pytest.approx(p["rul_low"], abs=10 * EXACT)
        assert (
            row["rul_high"] == "" if p["rul_high"] is None else abs(float(row["rul_high"]) - p["rul_high"]) < 10 * EXACT
        )
        assert row["class"] == p["health"]["class"]
        assert (row["quality"], row["held"]) == (p["quality"]["state"], str(p["quality"]["held"]))
        assert row["missing_cycles"] == str(p["quality"]["missing_cycles"])
        assert (row["bundle"], row["journal"]) == (f"tiny@{p['bundle']['sha256'][:12]}", p["journal"])
        assert row["probability_healthy"]


def life(daemon: Daemon) -> None:
    """A life with a late reading, duplicates and a gap, a second life by event time, a third by command."""
    for i, cycle in enumerate([*range(1, 9), 10, 11, 9, 11, 14, 15, *range(16, 30)]):
        daemon.send(cycle, time=T0 + i * 1000)
    daemon.send(25, values=[0.0, 0.0, 0.0], time=T0 + 14_000)
    for i, cycle in enumerate(range(1, 20)):
        daemon.send(cycle, values=daemon.values[100 + cycle], time=T0 + 10**6 + i * 1000)
    daemon.settle()
    daemon.reset("A", "pump")
    for cycle in range(5, 20):
        daemon.send(cycle, values=daemon.values[200 + cycle])
    for cycle in range(1, 12):
        daemon.send(cycle, "B/pump", daemon.values[300 + cycle])
    daemon.settle()


def test_an_export_is_what_was_published_while_the_daemon_runs(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    life(daemon)
    before = (daemon.state / FILE).read_bytes()
    code, out, err = main(capsys, "export", "pump", "--level", "line=A", "--config", daemon.config)
    assert (code, err) == (EXIT_OK, "63 readings, 49 predictions\n")
    rows = table(out)
    assert_as_published(rows, daemon)
    assert {(int(r["life"]), int(r["cycle"])) for r in rows if r["rul"]} == daemon.published().keys()
    assert [r["verdict"] for r in rows if r["verdict"] != "used"] == ["duplicate", "conflict"]
    assert next(r["revision"] for r in rows if (r["life"], r["cycle"]) == ("0", "11")) == "1"
    assert {r["level_line"] for r in rows} == {"A"}
    assert rows[0]["ts"] == "2026-01-01T00:00:00.000Z"
    values = np.array([[float(r[f"value_{n}"]) for n in "abc"] for r in rows[:8]], np.float32)
    np.testing.assert_array_equal(values, daemon.values[1:9])  # to the bit
    assert (daemon.state / FILE).read_bytes() == before
    daemon.send(20, values=daemon.values[220])  # and the daemon goes on
    daemon.settle()
    assert daemon.transport.predictions()[-1]["cycle"] == 20


@pytest.mark.parametrize("kept", ["all", "little"])
def test_across_a_snapshot_lives_are_numbered_as_published(
    tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, ", keep_hours: 0" if kept == "little" else "")
    life(daemon)
    for _ in range(3):
        daemon.settle(101.0)
    assert not daemon.journal.in_round
    daemon.send(22, values=daemon.values[222])
    for cycle in (20, 21, 23, 24):  # two of them late, and they revise what came after the snapshot
        daemon.send(cycle, values=daemon.values[200 + cycle])
    daemon.settle()
    daemon.close()
    code, out, _ = main(capsys, "export", "A/pump", "--config", daemon.config)  # the daemon is down
    assert code == EXIT_OK
    rows = table(out)
    assert_as_published(rows, daemon)
    assert [r["cycle"] for r in rows if r["rul"]][-5:] == ["22", "20", "21", "23", "24"]
    assert {r["life"] for r in rows if r["rul"]} == ({"0", "1", "2"} if kept == "all" else {"2"})
    assert len(rows) == (68 if kept == "all" else 20)  # the third life has no mark of its own


def test_a_late_reading_after_the_snapshot_revises_a_row_before_it(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle in (1, 2, 3, 4, 5, 6, 7, 9, 10):
        daemon.send(cycle)
    daemon.settle()
    for _ in range(3):
        daemon.settle(101.0)
    daemon.send(8)
    daemon.settle()
    rows = table(main(capsys, "export", "pump", "--config", daemon.config)[1])
    assert [(r["cycle"], r["revision"]) for r in rows if r["rul"]][-3:] == [("9", "1"), ("10", "1"), ("8", "0")]
    assert_as_published(rows, daemon)


def test_readings_without_numbers_come_out_as_they_were_published(
    daemon: Daemon, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Across a snapshot: one pump sends times, one of them late, the other nothing but values, at QoS 0."""

    def send(indices: list[int]) -> None:
        for i in indices:
            values = daemon.values[i].tolist()
            daemon.transport.put({"ts": T0 + i * 1000, "values": values}, "A/pump")
            daemon.transport.put({"values": values}, "A/fan", qos=0)
        daemon.settle()

    send([1, 2, 3, 4, 5, 6, 8, 9])
    for _ in range(3):
        daemon.settle(101.0)
    send([7, 10])
    rows = table(main(capsys, "export", "pump", "--config", daemon.config)[1])
    assert_as_published(rows, daemon)
    assert {r["key"] for r in rows} == {"time"}
    assert [((int(r["cycle"]) - T0) // 1000, r["revision"]) for r in rows if r["rul"]] == [
        *((5, "0"), (6, "0"), (8, "1"), (9, "1"), (7, "0"), (10, "0"))
    ]
    for name, cycles in (("pump", [T0 + i * 1000 for i in range(5, 11)]), ("fan", list(range(5, 11)))):
        path = tmp_path / f"{name}.csv"
        main(capsys, "export", name, "--config", daemon.config, "--out", path)
        out = main(capsys, "rescore", path, "--bundle", tiny_bundle.path, "--seconds-per-cycle", "1", "--json")[1]
        report = json.loads(out)
        assert [r["cycle"] for r in report["rows"] if r["rul_bundle"] is not None] == cycles
        assert report["largest_difference"] <= EXACT


def test_readings_that_came_in_parts_come_out_whole(
    tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, readings="in/{line}/{asset}/{sensor}")
    for i in range(1, 8):
        for name, value in zip("abc", daemon.values[i].tolist(), strict=True):
            if (i, name) != (5, "b"):
                daemon.transport.put({"cycle": i, "ts": T0 + i, "value": value}, f"A/pump/{name}")
    daemon.settle()
    daemon.worker.tick()
    daemon.clock.now += 11.0
    daemon.worker.tick()
    daemon.settle()
    rows = table(main(capsys, "export", "pump", "--config", daemon.config)[1])
    daemon.close()
    assert_as_published(rows, daemon)
    assert [r["cycle"] for r in rows if r["rul"]] == ["6", "7"]
    assert [(r["cycle"], r["verdict"]) for r in rows if r["verdict"] != "used"] == [("5", "missing_input")]
    np.testing.assert_array_equal([np.float32(rows[-2][f"value_{n}"]) for n in "abc"], daemon.values[7])


def test_a_count_by_arrival_goes_on_where_what_came_first_is_no_longer_kept(
    tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon(tmp_path, tiny_bundle, ", keep_hours: 0")
    for batch in range(3):
        for i in range(10):
            daemon.transport.put({"values": daemon.values[10 * batch + i].tolist()}, "A/pump", qos=0)
        for _ in range(3):
            daemon.settle(101.0)
    rows = table(main(capsys, "export", "pump", "--config", daemon.config)[1])
    published = list(daemon.published())
    daemon.close()
    assert len(rows) < 30
    assert [int(r["cycle"]) for r in rows] == list(range(31 - len(rows), 31))
    assert published[-1] == (0, 30)


def test_missing_values_are_empty_and_held(tiny_bundle: Bundle) -> None:
    asset = Asset("x")
    values = raw_windows(tiny_bundle.manifest.normaliser, 1, 8)[0]
    values[5, 1] = np.nan
    with open_engine("onnxruntime", tiny_bundle) as engine:
        scorer = lookback.Scorer(tiny_bundle, engine, WindowSettings())
        rows = scorer.apply(Numbered(i + 1, Reading(asset, i, None, v)) for i, v in enumerate(values))
    columns = lookback_file.columns(rows, tiny_bundle)
    assert [v is None for v in columns["value_b"]] == [i == 5 for i in range(8)]
    assert columns["held"] == [None] * 4 + [0, 1, 1, 1]
    assert columns["quality"][-1] == "uncertain"


def test_since_takes_event_times_and_arrivals_where_there_are_none(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle in range(1, 11):
        daemon.send(cycle, time=T0 + cycle * 60_000)
    daemon.settle()
    daemon.clock.now += 3600
    for cycle in range(11, 16):
        daemon.send(cycle)
    daemon.settle()
    arguments = ("export", "pump", "--config", daemon.config, "--since")
    rows = table(main(capsys, *arguments, "2026-01-01T00:08:00Z")[1])
    assert [int(r["cycle"]) for r in rows] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert all(r["rul"] for r in rows)  # the windows are of all readings
    rows = table(main(capsys, *arguments, "2026-01-01 02:00")[1])
    assert rows == []
    code, _, err = main(capsys, *arguments, "yesterday")
    assert code == EXIT_USAGE
    assert "--since: expected a time such as" in err


def test_since_in_words() -> None:
    assert lookback.parse_since("2h", 10_000.0) == 2_800_000
    assert lookback.parse_since("1.5d", 200_000.0) == (200_000 - 129_600) * 1000
    assert lookback.parse_since("2026-01-01", 0.0) == T0
    assert lookback.parse_since("2026-01-01T01:00+01:00", 0.0) == T0


def test_an_unknown_asset_is_told_which_there_are(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("A/pump-1", "A/pump-2", "B/pump-2", "B/fan"):
        daemon.send(1, name)
    daemon.settle()
    config = ("--config", daemon.config)
    code, out, err = main(capsys, "export", "pump-3", *config)
    assert (code, out) == (EXIT_CONFIG, "")
    assert "has no such asset; it has 4: fan, pump-1, pump-2" in err
    assert "did you mean pump-2 or pump-1?" in err
    code, _, err = main(capsys, "export", "pump-2", *config)
    assert code == EXIT_CONFIG
    assert "2 assets bear this name" in err
    assert "say which: --level line=A; --level line=B" in err
    code, _, err = main(capsys, "export", "pump-1", "--level", "line=C", *config)
    assert code == EXIT_CONFIG
    assert "no asset of this name is at {'line': 'C'}" in err
    assert main(capsys, "export", "pump-2", "--level", "line=B", *config)[0] == EXIT_OK
    assert main(capsys, "export", "pump-2", "--level", "B", *config)[0] == EXIT_USAGE
    assert main(capsys, "export", "fan", "--out", "fan.txt", *config)[0] == EXIT_USAGE


def test_no_journal_is_a_clear_error(tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path, tiny_bundle)
    daemon.close()
    (daemon.state / FILE).unlink()
    code, _, err = main(capsys, "export", "pump", "--config", daemon.config)
    assert code == EXIT_CONFIG
    assert "there is no such file" in err
    (daemon.state / FILE).write_bytes(b"\xff" * 8192)
    assert main(capsys, "export", "pump", "--config", daemon.config)[0] == EXIT_CONFIG


def test_another_bundles_inputs_are_refused(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.send(1)
    daemon.settle()
    other = make_bundle(tmp_path / "other", inputs=("c", "b", "a"))
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.settings.bundle), str(other.path)))
    code, _, err = main(capsys, "export", "pump", "--config", daemon.config)
    assert code == EXIT_CONFIG
    assert "the journal's readings are a, b, c, the bundle's inputs c, b, a" in err


def test_a_reader_sees_one_moment_and_the_writer_goes_on(daemon: Daemon) -> None:
    daemon.send(1)
    daemon.settle()
    with open_read_only(daemon.state / FILE) as db:
        daemon.send(2)
        daemon.settle()
        assert daemon.journal.committed == 2
        assert db.execute("SELECT count(*) FROM entries").fetchone()[0] == 1
    with pytest.raises(JournalError, match="readonly"), open_read_only(daemon.state / FILE) as db:
        db.execute("DELETE FROM entries")


# -- rescore ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    life(daemon)
    path = tmp_path / "pump.csv"
    code, out, err = main(capsys, "export", "pump", "--level", "line=A", "--config", daemon.config, "--out", path)
    assert (code, out) == (EXIT_OK, "")
    assert err == f"63 readings, 49 predictions in {path}\n"
    return path


def test_the_same_bundle_says_the_same(exported: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = main(capsys, "rescore", exported, "--bundle", tiny_bundle.path, "--json")
    assert code == EXIT_OK
    report = json.loads(out)
    assert (report["readings"], report["compared"], report["same_class"]) == (61, 49, 1.0)
    assert report["largest_difference"] <= EXACT
    assert report["bundle"] == f"tiny@{tiny_bundle.sha256[:12]}"
    assert [(r["life"], r["cycle"]) for r in report["rows"]] == sorted((r["life"], r["cycle"]) for r in report["rows"])


def test_behind_a_long_gap_both_begin_anew_as_the_daemon_did(
    daemon: Daemon, tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle in (*range(1, 7), *range(8, 10), *range(14, 20)):
        daemon.send(cycle)
    daemon.settle()
    path = tmp_path / "pump.csv"
    assert main(capsys, "export", "pump", "--config", daemon.config, "--out", path)[0] == EXIT_OK
    rows = table(path.read_text())
    assert_as_published(rows, daemon)
    assert [int(r["cycle"]) for r in rows if r["rul"]] == [5, 6, 8, 9, 18, 19]
    rescore = ("rescore", path, "--bundle", tiny_bundle.path, "--json")
    report = json.loads(main(capsys, *rescore)[1])
    assert (report["compared"], report["largest_difference"] <= EXACT) == (6, True)
    spanned = json.loads(main(capsys, *rescore, "--beyond-gap", "span")[1])["rows"]
    assert [r["cycle"] for r in spanned if r["rul_bundle"] and not r["rul_file"]] == [14, 15, 16, 17]


def test_another_bundle_stands_beside_the_file(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "other", window=7, inputs=("c", "a"), name="other", seed=1)
    out_path = tmp_path / "both.csv"
    code, out, err = main(capsys, "rescore", exported, "--bundle", other.path, "--out", out_path)
    assert code == EXIT_OK
    assert err == f"61 rows in {out_path}\n"
    lines = out.splitlines()
    assert lines[0].split() == HEADS.split()
    assert "and 41 earlier rows; --out FILE writes all" in out
    assert f"bundle  other@{other.sha256[:12]}" in out
    assert "over 43 cycles that both answered" in out  # two cycles fewer in each of three lives
    rows = table(out_path.read_text())
    both = [r for r in rows if r["difference"]]
    assert len(both) == 43
    for r in both:
        assert float(r["difference"]) == pytest.approx(float(r["rul_bundle"]) - float(r["rul_file"]), abs=1e-4)
    assert any(abs(float(r["difference"])) > 0.1 for r in both)
    assert [r["rul_bundle"] == "" for r in rows if r["rul_file"]].count(True) == 6


def test_a_bundle_that_needs_more_than_the_file_has_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "other", inputs=("a", "d", "e"), name="other")
    code, out, err = main(capsys, "rescore", exported, "--bundle", other.path)
    assert (code, out) == (EXIT_CONFIG, "")
    assert "the bundle other needs d, e, which the file lacks" in err
    assert "the file has a, b, c" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,y\n1,2\n", "is no export: it lacks columns that begin with value_"),
        ("value_a,value_b,value_c\n1,2,3\n", "is no export: it lacks asset, cycle or columns"),
        ("asset,cycle,value_a,value_b,value_c\nx,one,2,3,4\n", "bad.csv:2: cannot be read"),
        ("", "is no export"),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    code, _, err = main(capsys, "rescore", path, "--bundle", tiny_bundle.path)
    assert code == EXIT_CONFIG
    assert says in err
    assert main(capsys, "rescore", tmp_path / "none.csv", "--bundle", tiny_bundle.path)[0] == EXIT_CONFIG


def test_readings_alone_are_enough(tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """A file from elsewhere: no life, no prediction."""
    path = tmp_path / "elsewhere.csv"
    lines = [f"x,{c},{10 + c % 3},20,30" for c in range(1, 9)]
    path.write_text("\n".join(["asset,cycle,value_a,value_b,value_c", *lines]))
    code, out, _ = main(capsys, "rescore", path, "--bundle", tiny_bundle.path)
    assert code == EXIT_OK
    assert "nothing to compare" in out
    assert out.splitlines()[-4].split()[:3] == ["x", "0", "8"]


def test_parquet_without_pyarrow_is_a_clear_error(
    exported: Path,
    daemon: Daemon,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "pump.parquet"
    code, _, err = main(capsys, "export", "pump", "--level", "line=A", "--config", daemon.config, "--out", out)
    assert code == EXIT_CONFIG
    assert "Parquet needs the Python package pyarrow" in err
    assert "name a .csv file" in err
    out.write_bytes(b"PAR1")
    assert main(capsys, "rescore", out, "--bundle", tiny_bundle.path)[0] == EXIT_CONFIG


def test_parquet_says_what_csv_says(
    exported: Path, daemon: Daemon, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow import parquet

    out = tmp_path / "pump.parquet"
    arguments = ("export", "pump", "--level", "line=A", "--config", daemon.config, "--out", out)
    assert main(capsys, *arguments)[0] == EXIT_OK
    assert parquet.read_table(out).schema.field("value_a").type == "float"
    reports = [
        json.loads(main(capsys, "rescore", path, "--bundle", tiny_bundle.path, "--json")[1])["rows"]
        for path in (exported, out)
    ]
    assert reports[0] == reports[1]
