"""The journal against real files: what is durable and when, what is deleted and when, and what damage and a full disk
do to it. A crash is a copy of the files as they lie there, without closing them."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_worker import Rig, reading

from edge_rul.adapters import journal as journal_module
from edge_rul.adapters import journal_file
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.journal_file import FILE
from edge_rul.config import JournalSettings
from edge_rul.core.answers import AlarmRow
from edge_rul.core.command import Command
from edge_rul.core.entry import Entry
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, JournalError

WALL = 1_767_225_600
HOUR = 3600
A, B = Asset("a"), Asset("b", (("line", "1"),))


def options(**changes: Any) -> JournalSettings:
    return JournalSettings(**{"min_free": 0, **changes})


def readings(count: int, asset: Asset = A, first: int = 1) -> list[Entry]:
    return [Reading(asset, first + i, None, np.array([first + i, 0.5], np.float32)) for i in range(count)]


@contextmanager
def opened(path: Path, **changes: Any) -> Iterator[Journal]:
    with Journal(path, options(**changes), wall=WALL) as made:
        yield made


def crashed(directory: Path, to: Path) -> Path:
    """The state directory as a crash now would leave it, at `to`."""
    to.mkdir()
    for suffix in ("", "-wal"):
        if (part := directory / f"{FILE}{suffix}").exists():
            shutil.copyfile(part, to / part.name)
    return to


def rows(directory: Path, query: str = "SELECT count(*) FROM entries") -> Any:
    """What another reader finds committed."""
    with closing(sqlite3.connect(directory / FILE)) as db:
        return db.execute(query).fetchone()[0]


def snapshots(journal: Journal) -> dict[Asset, tuple[int, bytes]]:
    return {asset: (seq, blob) for seq, asset, blob in journal.state().snapshots}


def finished_round(journal: Journal, states: list[tuple[Asset, bytes]], wall: int = WALL) -> None:
    """A round as of all that was taken in, with the watermark there."""
    journal.begin_round(journal.last)
    assert journal.snapshot(journal.last, states)
    assert journal.commit(journal.last, wall=wall)
    assert journal.end_round(wall=wall)


def trimmed(journal: Journal) -> None:
    while journal.trim():
        pass


def first_entry(directory: Path) -> int:
    return int(rows(directory, "SELECT coalesce(min(seq), 0) FROM entries"))


# -- group commit ----------------------------------------------------------------------------------------------------


def test_a_commit_is_due_by_time_from_the_first_entry_or_by_rows(tmp_path: Path) -> None:
    with opened(tmp_path, commit_ms=250, commit_rows=10) as journal:
        assert journal.wait(100.0) == float("inf")
        journal.append(readings(1), 100.0)
        journal.append(readings(1), 100.2)
        assert journal.wait(100.2) == pytest.approx(0.05)
        assert journal.wait(100.3) == 0.0
        journal.append(readings(8), 100.2)
        assert journal.wait(100.2) == 0.0
        assert journal.commit(0, wall=WALL)
        assert journal.wait(100.2) == float("inf")
        journal.append(readings(1), 200.0)
        assert journal.wait(200.0) == pytest.approx(0.25)


def test_nothing_is_durable_before_the_commit_and_all_of_it_after(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state) as journal:
        numbered = journal.append([*readings(3, B), Command("reset", A)], 0.0, fleeting=True)
        assert [(n.seq, n.fleeting) for n in numbered] == [(1, True), (2, True), (3, True), (4, True)]
        assert (journal.last, journal.committed) == (4, 0)
        assert rows(state) == 0
        with opened(crashed(state, tmp_path / "before")) as before:
            assert (before.last, before.read(0, 10)) == (0, [])
        assert journal.commit(0, wall=WALL)
        assert journal.committed == 4
        assert rows(state) == 4
        with opened(crashed(state, tmp_path / "after")) as after:
            assert (after.last, after.committed, after.watermark, after.id) == (4, 4, 0, journal.id)
            found = after.read(0, 10)
            assert [n.seq for n in found] == [1, 2, 3, 4]
            assert [n.entry.asset for n in found] == [B, B, B, A]
            assert isinstance(found[3].entry, Command)
            assert isinstance(found[1].entry, Reading)
            np.testing.assert_array_equal(found[1].entry.values, np.array([2, 0.5], np.float32))


def test_reading_goes_on_from_disk_into_the_open_transaction(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(readings(5), 0.0)
        journal.commit(0, wall=WALL)
        journal.append(readings(3, first=6), 0.0)
        assert [n.seq for n in journal.read(0, 3)] == [1, 2, 3]
        found = journal.read(3, 100)
        assert [n.seq for n in found] == [4, 5, 6, 7, 8]
        # How it came is not kept, so what is not durable yet is answered as QoS 0 would be.
        assert [n.fleeting for n in found] == [False, False, True, True, True]
        assert journal.read(8, 10) == []


def test_watermark_and_alarms_are_in_the_same_transaction_as_they_stood(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state) as journal:
        journal.append(readings(4), 0.0)
        journal.commit(2, [AlarmRow(2, A, b"raised")], wall=WALL)
        early = crashed(state, tmp_path / "early")
        journal.append(readings(1), 0.0)
        journal.commit(5, [AlarmRow(4, A, b"cleared"), AlarmRow(5, B, b"raised")], wall=WALL)
        late = crashed(state, tmp_path / "late")
        journal.commit(3, wall=WALL)
        assert journal.watermark == 5  # never back
    with opened(early) as journal:
        assert (journal.watermark, journal.state().watermark, journal.last) == (2, 2, 4)
        assert journal.state().alarms == [(A, b"raised")]
    with opened(late) as journal:
        assert (journal.watermark, journal.last) == (5, 5)
        assert dict(journal.state().alarms) == {A: b"cleared", B: b"raised"}


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_durability_decides_what_a_commit_waits_for(tmp_path: Path, durability: Any, synchronous: int) -> None:
    with opened(tmp_path, durability=durability) as journal:
        assert journal._one("PRAGMA synchronous") == synchronous
        assert journal._one("PRAGMA journal_mode") == "wal"
    with opened(tmp_path, durability=durability) as journal:  # it is of the connection, not of the file
        assert journal._one("PRAGMA synchronous") == synchronous


def test_a_restart_finds_what_was(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(readings(10), 0.0)
        journal.commit(6, [AlarmRow(6, A, b"x")], wall=WALL)
        id_ = journal.id
    with opened(tmp_path) as journal:
        assert (journal.id, journal.last, journal.committed, journal.watermark) == (id_, 10, 10, 6)
        assert (journal.set_aside, journal.full) == (None, "")
        state = journal.state()
        assert (state.watermark, state.replay_from, state.alarms) == (6, 0, [(A, b"x")])
        assert list(state.snapshots) == []
        assert journal.append(readings(1), 0.0)[0].seq == 11


# -- snapshots and deletion ------------------------------------------------------------------------------------------


def test_a_snapshot_counts_once_the_watermark_has_reached_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state) as journal:
        journal.append(readings(4), 0.0)
        finished_round(journal, [(A, b"old a"), (B, b"old b")])
        journal.append(readings(4), 0.0)
        journal.commit(6, wall=WALL)
        journal.begin_round(7)
        journal.snapshot(7, [(A, b"a7")])
        journal.snapshot(8, [(B, b"b8")])  # taken a little later, and B has moved since
        assert journal.in_round
        assert not journal.end_round(wall=WALL)
        with opened(crashed(state, tmp_path / "before")) as before:
            assert before.state().replay_from == 4
            assert snapshots(before) == {A: (4, b"old a"), B: (4, b"old b")}
            assert before._one("SELECT count(*) FROM snapshots") == 2  # seqs 7 and 8 may be given to other entries
        journal.commit(7, wall=WALL)
        assert not journal.end_round(wall=WALL)
        with opened(crashed(state, tmp_path / "halfway")) as halfway:
            assert halfway.state().replay_from == 4
            assert snapshots(halfway) == {A: (7, b"a7"), B: (4, b"old b")}  # each is right as of its own seq
        journal.commit(8, wall=WALL)
        assert journal.end_round(wall=WALL)
        assert not journal.in_round
        assert rows(state, "SELECT count(*) FROM snapshots") == 2
        with opened(crashed(state, tmp_path / "after")) as after:
            assert after.state().replay_from == 7
            assert snapshots(after) == {A: (7, b"a7"), B: (8, b"b8")}


def test_an_asset_that_did_not_change_keeps_its_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(readings(1), 0.0)
        finished_round(journal, [(A, b"a"), (B, b"b")])
    with opened(tmp_path) as journal:
        assert snapshots(journal) == {A: (1, b"a"), B: (1, b"b")}
        journal.append(readings(1), 0.0)
        finished_round(journal, [(B, b"newer")])
        assert snapshots(journal) == {A: (1, b"a"), B: (2, b"newer")}
        assert rows(tmp_path, "SELECT count(*) FROM snapshots") == 2


def test_entries_are_kept_for_hours_and_then_deleted_up_to_the_snapshot_only(tmp_path: Path) -> None:
    with opened(tmp_path, keep_hours=2) as journal:
        for hour in range(4):
            journal.append(readings(10), 0.0)
            journal.commit(journal.last, wall=WALL + hour * HOUR)  # a mark at seq 10, 20, 30, 40
        finished_round(journal, [(A, b"x")], WALL + 3 * HOUR)
        trimmed(journal)
        assert first_entry(tmp_path) == 11  # those of more than two hours ago
        journal.append(readings(10), 0.0)
        journal.commit(50, wall=WALL + 100 * HOUR)
        journal.append(readings(10), 0.0)
        journal.commit(55, wall=WALL + 200 * HOUR)
        journal.begin_round(53)
        journal.snapshot(53, [(A, b"y")])
        assert journal.end_round(wall=WALL + 300 * HOUR)
        trimmed(journal)
        assert first_entry(tmp_path) == 54  # a restart needs what follows
        assert [n.seq for n in journal.read(0, 100)] == list(range(54, 61))
        assert rows(tmp_path, "SELECT count(*) FROM marks") == 1


def test_entries_beyond_keep_bytes_go_although_they_are_young(tmp_path: Path) -> None:
    with opened(tmp_path, keep_bytes=100_000) as journal:
        journal.append(readings(20_000), 0.0)
        finished_round(journal, [(A, b"x")])
        before = journal.size
        trimmed(journal)
        assert before > 400_000
        assert 50_000 < journal.size < 150_000
        assert 10_000 < first_entry(tmp_path) < 20_000
    with opened(tmp_path) as journal:
        assert (journal.last, journal.watermark) == (20_000, 20_000)


def test_deletion_goes_in_slices_and_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_DELETE_AT_ONCE", 30)
    with opened(tmp_path, keep_hours=0) as journal:
        journal.append(readings(100), 0.0)
        journal.commit(100, wall=WALL)
        finished_round(journal, [(A, b"x")], WALL + 1)
        assert journal.trim()
        assert first_entry(tmp_path) == 31
        trimmed(journal)
        assert rows(tmp_path) == 0
        assert not journal.trim()
    with opened(tmp_path) as journal:
        assert journal.append(readings(1), 0.0)[0].seq == 101  # a number is given once, although its entry is gone


def test_a_clock_that_was_wrong_once_does_not_stop_the_ageing(tmp_path: Path) -> None:
    with opened(tmp_path, keep_hours=1) as journal:
        for wall in (WALL + 10**8, WALL, WALL + HOUR):
            journal.append(readings(10), 0.0)
            journal.commit(journal.last, wall=wall)
        finished_round(journal, [(A, b"x")], WALL + 2 * HOUR - 60)
        trimmed(journal)
        assert first_entry(tmp_path) == 21


def test_a_start_in_the_past_makes_nothing_old_that_came_before_it(tmp_path: Path) -> None:
    """A machine without a clock of its own begins in 1970, until it has heard the time."""
    with opened(tmp_path, keep_hours=2) as journal:
        for wall in (WALL, WALL + HOUR, 100, WALL + HOUR + 600):
            journal.append(readings(10), 0.0)
            finished_round(journal, [(A, b"x")], wall)
            trimmed(journal)
        assert first_entry(tmp_path) == 1
        # It ages as ever: with the mark before it, and what came in the past with what came around it.
        for wall, first in ((WALL + 2 * HOUR, 1), (WALL + 2 * HOUR + 60, 11), (WALL + 3 * HOUR + 60, 31)):
            finished_round(journal, [(A, b"x")], wall)
            trimmed(journal)
            assert first_entry(tmp_path) == first
        finished_round(journal, [(A, b"x")], WALL + 4 * HOUR)
        trimmed(journal)
        assert first_entry(tmp_path) == 0


# -- what cannot be used ---------------------------------------------------------------------------------------------


def journal_of(path: Path, entries: int = 3000) -> str:
    """A closed journal with two assets' snapshots; its id."""
    with opened(path) as journal:
        journal.append(readings(entries), 0.0)
        finished_round(journal, [(A, bytes(8000)), (B, bytes(8000))])
        return journal.id


def test_a_newer_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    journal_of(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA user_version = 7")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(
        JournalError, match=f"schema version 7, this program reads {journal_file.SCHEMA_VERSION}"
    ) as error:
        Journal(tmp_path, options())
    assert error.value.exit_code == EXIT_CONFIG
    assert "run the version that wrote it" in error.value.hint
    assert (tmp_path / FILE).read_bytes() == before
    with pytest.raises(JournalError, match="schema version"):  # and the lock was given back
        Journal(tmp_path, options())


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(JournalError, match="schema version 0"):
        Journal(tmp_path, options())


def test_an_older_file_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = journal_of(tmp_path)
    first = journal_file.SCHEMA_VERSION
    monkeypatch.setattr(journal_file, "SCHEMA_VERSION", first + 2)
    steps = {
        first: ("CREATE TABLE notes (x)",),
        first + 1: ("ALTER TABLE notes ADD COLUMN y", "INSERT INTO notes VALUES (1, 2)"),
    }
    monkeypatch.setattr(journal_file, "_MIGRATIONS", steps)
    with opened(tmp_path) as journal:
        assert (journal.id, journal.last, journal.set_aside) == (id_, 3000, None)
    assert rows(tmp_path, "PRAGMA user_version") == first + 2
    assert rows(tmp_path, "SELECT y FROM notes") == 2
    monkeypatch.setattr(journal_file, "SCHEMA_VERSION", first + 3)
    steps[first + 2] = ("CREATE TABLE more (x)", "nonsense")
    with pytest.raises(JournalError):
        Journal(tmp_path, options())
    assert rows(tmp_path, "PRAGMA user_version") == first + 2  # a step is whole or not at all
    assert rows(tmp_path, "SELECT count(*) FROM sqlite_master WHERE name = 'more'") == 0


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    page = 4096
    if how == "header":
        data[:100] = b"\x5a" * 100
    elif how == "everything":
        data[:] = b"\xff" * len(data)
    elif how == "schema":
        data[100:page] = b"\x5a" * (page - 100)
    elif how == "end cut":
        del data[len(data) // 2 :]
    elif how == "middle cut":
        del data[6 * page : len(data) // 2]
    elif how == "short":
        del data[50:]
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["header", "everything", "schema", "end cut", "middle cut", "short"])
def test_a_corrupt_file_is_set_aside_and_never_deleted(tmp_path: Path, how: str) -> None:
    id_ = journal_of(tmp_path)
    damage(tmp_path / FILE, how)
    broken = (tmp_path / FILE).read_bytes()
    with opened(tmp_path) as journal:
        assert journal.set_aside == tmp_path / f"{FILE}.corrupt-{WALL}"
        assert journal.set_aside.read_bytes() == broken
        assert (journal.set_aside_why, journal.set_aside_assets in (0, 2)) == ("corrupt", True)
        assert journal.id != id_
        assert (journal.last, journal.watermark, snapshots(journal)) == (0, 0, {})
        journal.append(readings(1), 0.0)
        assert journal.commit(1, wall=WALL)
    with opened(tmp_path) as journal:
        assert (journal.set_aside, journal.last) == (None, 1)
    damage(tmp_path / FILE, "header")
    with opened(tmp_path) as journal:  # in the same second: the first one is not replaced
        assert journal.set_aside == tmp_path / f"{FILE}.corrupt-{WALL}-2"
    assert (tmp_path / f"{FILE}.corrupt-{WALL}").read_bytes() == broken


def test_the_wal_goes_with_the_file_and_the_assets_are_counted_where_they_can_be(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state) as journal:
        journal.append(readings(5), 0.0)
        finished_round(journal, [(A, b"a"), (B, b"b")])
        copy = crashed(state, tmp_path / "copy")
    (copy / f"{FILE}.damaged").touch()
    with opened(copy) as journal:
        assert journal.set_aside is not None
        assert journal.set_aside_assets == 2
    with closing(sqlite3.connect(journal.set_aside)) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone()[0] == 5
    with opened(copy) as journal:
        assert journal.set_aside is None


@pytest.mark.parametrize("how", ["page", "entry"])
def test_damage_among_old_entries_is_met_when_they_are_read_and_the_next_start_begins_anew(
    tmp_path: Path, how: str
) -> None:
    journal_of(tmp_path, 30_000)
    if how == "page":
        with (tmp_path / FILE).open("r+b") as file:
            file.seek(100 * 4096)
            file.write(b"\xff" * 4096)
    else:
        with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
            db.execute("UPDATE entries SET entry = x'c1' WHERE seq = 2000")
    with opened(tmp_path) as journal:
        assert journal.set_aside is None  # the start does not read them all
        with pytest.raises(JournalError, match="the next start sets the file aside") as error:
            journal.read(0, 30_000)
        assert error.value.exit_code == EXIT_INTERNAL  # restarted
    with opened(tmp_path) as journal:
        assert journal.set_aside is not None
        assert journal.set_aside_assets == 2


def oldest_page(path: Path) -> int:
    """Where in the file the page of the oldest entries begins."""
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()[0]
    data = path.read_bytes()
    while data[at := (page - 1) * 4096] != 13:  # no leaf yet: down to the first child
        cell = at + int.from_bytes(data[at + 12 : at + 14], "big")
        page = int.from_bytes(data[cell : cell + 4], "big")
    return at


@pytest.mark.parametrize("when", ["a round ends", "room is made"])
def test_damage_among_the_oldest_entries_is_met_when_they_are_to_go_and_the_next_start_begins_anew(
    tmp_path: Path, when: str
) -> None:
    """The start reads the newest ones only: without the mark each would succeed, and the daemon end a little later."""
    journal_of(tmp_path)
    at = oldest_page(tmp_path / FILE)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 4096)
    with opened(tmp_path) as journal:
        assert journal.set_aside is None
        snapshots(journal)
        with pytest.raises(JournalError, match="the next start sets the file aside"):
            if when == "a round ends":
                finished_round(journal, [(A, b"a")])
            else:
                journal.full = "no room"
                journal.trim()
    with opened(tmp_path) as journal:
        assert (journal.set_aside_why, journal.set_aside_assets) == ("corrupt", 2)


def test_a_commit_into_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    journal_of(tmp_path)
    with opened(tmp_path) as journal:
        with closing(sqlite3.connect(tmp_path / FILE)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()[0]
        with (tmp_path / FILE).open("r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(b"\xff" * 4096)
        journal._db.execute("PRAGMA shrink_memory")
        journal.append(readings(1), 0.0)
        with pytest.raises(JournalError, match="malformed"):
            journal.commit(0, wall=WALL)
    with opened(tmp_path) as journal:
        assert journal.set_aside is not None


def test_a_garbage_wal_costs_what_was_only_in_it_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    journal_of(state, 50)
    with opened(state) as journal:
        journal.append(readings(50), 0.0)
        journal.commit(100, wall=WALL)
        copy = crashed(state, tmp_path / "copy")
    wal = copy / f"{FILE}-wal"
    wal.write_bytes(b"\x5a" * wal.stat().st_size)
    with opened(copy) as journal:
        assert (journal.last, journal.watermark, journal.set_aside) == (50, 50, None)
        assert snapshots(journal).keys() == {A, B}


def test_a_bundle_with_other_inputs_begins_a_new_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, options(), inputs=["p", "q"], wall=WALL) as journal:
        journal.append(readings(3), 0.0)
        journal.commit(0, wall=WALL)
        id_ = journal.id
    with Journal(tmp_path, options(), inputs=["p", "q"], wall=WALL) as journal:
        assert (journal.id, journal.set_aside) == (id_, None)
    for inputs in (["q", "p"], ["p", "q", "r"]):
        with Journal(tmp_path, options(), inputs=inputs, wall=WALL) as journal:
            assert journal.set_aside is not None
            assert journal.set_aside_why == "inputs"
            assert journal.set_aside.name.startswith(f"{FILE}.inputs-{WALL}")
            assert (journal.last, journal.id == id_) == (0, False)
    assert rows(tmp_path) == 0


def test_two_processes_on_one_directory_are_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edge_rul.adapters.journal import Journal\n"
        "from edge_rul.config import JournalSettings\n"
        "with Journal(Path(sys.argv[1]), JournalSettings()): print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalError, match="another process uses it") as error:
            Journal(tmp_path, options())
        assert error.value.exit_code == EXIT_INTERNAL  # the other may end
        other.stdin.close()
        assert other.wait(30) == 0
        with opened(tmp_path) as journal:
            assert journal.last == 0
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "state", Path("/proc/edge-rul")):
        with pytest.raises(JournalError, match="cannot be used") as error:
            Journal(path, options())
        assert (error.value.object, error.value.exit_code) == (str(path), EXIT_CONFIG)
        assert "journal.directory" in error.value.hint


def test_a_database_that_another_program_holds_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal._db.execute("PRAGMA busy_timeout = 1")
        mine = journal.append(readings(2), 0.0)
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            assert not journal.commit(0, wall=WALL)
            assert "locked" in journal.full
            db.execute("ROLLBACK")
        assert journal.commit(0, wall=WALL)
        assert [n.seq for n in journal.read(0, 9)] == [n.seq for n in mine]


# -- a full disk -----------------------------------------------------------------------------------------------------


def limit(journal: Journal, spare: int) -> None:
    """Let the file grow by `spare` pages more: a full disk, as SQLite tells of one."""
    journal._db.execute(f"PRAGMA max_page_count = {journal._one('PRAGMA page_count') + spare}")


def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state) as journal:
        journal.append(readings(100), 0.0)
        assert journal.commit(40, [AlarmRow(40, A, b"x")], wall=WALL)
        limit(journal, 2)
        journal.append(readings(5000), 0.0)
        for _ in range(3):
            assert not journal.commit(90, [AlarmRow(90, A, b"y")], wall=WALL)
            assert "full" in journal.full
        assert (journal.committed, journal.watermark, journal.last) == (100, 40, 5100)
        assert journal.wait(0.0) == 0.0
        assert len(journal.read(0, 10_000)) == 5100  # what is not on disk is in memory
        with opened(crashed(state, tmp_path / "copy")) as copy:
            assert (copy.last, copy.watermark, copy.state().alarms) == (100, 40, [(A, b"x")])
        assert journal.mark(90, [AlarmRow(90, A, b"y")])  # answers to what was taken in go on
        with opened(crashed(state, tmp_path / "marked")) as copy:
            assert (copy.last, copy.watermark, copy.state().alarms) == (100, 90, [(A, b"y")])
        limit(journal, 100_000)
        assert journal.commit(95, wall=WALL)
        assert (journal.full, journal.committed) == ("", 5100)
        assert [n.seq for n in journal.read(0, 10_000)] == list(range(1, 5101))


def test_a_snapshot_that_finds_no_room_keeps_the_round_open(tmp_path: Path) -> None:
    with opened(tmp_path, keep_hours=0) as journal:
        journal.append(readings(10), 0.0)
        finished_round(journal, [(A, b"old"), (B, b"old")])
        journal.append(readings(10), 0.0)
        journal.commit(20, wall=WALL)
        journal.begin_round(20)
        assert journal.snapshot(20, [(A, b"new")])
        limit(journal, 2)
        assert not journal.snapshot(20, [(B, bytes(100_000))])
        limit(journal, 1000)
        assert journal.snapshot(20, [(B, b"new")])
        assert journal.end_round(wall=WALL)
        assert snapshots(journal) == {A: (20, b"new"), B: (20, b"new")}


def test_while_the_disk_is_full_kept_entries_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file does not shrink, so its own free pages have to count, or it would never recover."""
    with opened(tmp_path, min_free=200_000) as journal:
        journal.append(readings(20_000), 0.0)
        finished_round(journal, [(A, b"x")])
        trimmed(journal)
        assert rows(tmp_path) == 20_000  # kept for a day
        monkeypatch.setattr(Journal, "free", 100_000)
        journal.append(readings(10), 0.0)
        assert not journal.commit(20_000, wall=WALL)
        assert "min_free is 200000" in journal.full
        trimmed(journal)
        assert rows(tmp_path) == 0
        assert journal.commit(20_000, wall=WALL)
        assert (journal.full, journal.committed) == ("", 20_010)
        monkeypatch.setattr(Journal, "free", 0)
        journal.append(readings(10), 0.0)
        assert journal.commit(20_000, wall=WALL)  # its own pages are enough


def test_without_room_the_watermark_may_still_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path, min_free=1) as journal:
        journal.append(readings(10), 0.0)
        assert journal.commit(0, wall=WALL)
        monkeypatch.setattr(Journal, "free", 0)
        assert journal.commit(7, wall=WALL)
        assert journal.watermark == 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where the machine lets us have one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"may not mount a small tmpfs: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    state = small_disk / "state"
    with opened(state) as journal:
        others = small_disk / "others"
        others.write_bytes(bytes(1_000_000))
        committed = 0
        while True:
            journal.append(readings(500), 0.0)
            if not journal.commit(committed, wall=WALL):
                break
            committed = journal.committed
        assert journal.full
        assert journal.committed == committed > 0
        last = journal.last
        assert not journal.commit(committed, wall=WALL)
        journal.begin_round(committed)
        assert not journal.snapshot(committed, [(A, bytes(500_000))])
        others.unlink()
        assert journal.commit(committed, wall=WALL)
        assert journal.snapshot(committed, [(A, b"x")])
        assert journal.end_round(wall=WALL)
    with opened(state) as journal:
        assert journal.set_aside is None
        assert [n.seq for n in journal.read(0, 10**6)] == list(range(1, last + 1))


def test_a_start_on_a_full_disk_is_a_clear_error_that_a_restart_may_mend(small_disk: Path) -> None:
    state = small_disk / "state"
    journal_of(state, 50)
    (small_disk / "others").write_bytes(bytes(os_room(small_disk)))
    with pytest.raises(JournalError) as error:
        Journal(state, options())
    assert error.value.exit_code == EXIT_INTERNAL
    (small_disk / "others").unlink()
    with opened(state) as journal:
        assert (journal.last, journal.set_aside) == (50, None)


def os_room(path: Path) -> int:
    return shutil.disk_usage(path).free


# -- power cuts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, int]]:
    """A state directory as it lay during a run, with all commits since the last checkpoint in its WAL, and for each
    commit's last seq the watermark that went with it."""
    state = tmp_path_factory.mktemp("run") / "state"
    with opened(state) as journal:
        journal.append(readings(5), 0.0)
        finished_round(journal, [(A, b"5"), (B, b"5")])
        journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        marks = {5: 5}
        for number in range(12):
            journal.append(readings(3 + number), 0.0)
            watermark = journal.last - 2
            journal.commit(watermark, [AlarmRow(watermark, A, str(watermark).encode())], wall=WALL)
            marks[journal.last] = watermark
            if number == 5:
                journal.begin_round(journal.last)
                journal.snapshot(journal.last, [(A, str(journal.last).encode())])
            if number == 7:
                assert journal.end_round(wall=WALL)
        return crashed(state, tmp_path_factory.mktemp("copy") / "state"), marks


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), torn=st.binary(max_size=40))
def test_a_power_cut_leaves_whole_commits_and_nothing_beyond_a_gap(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[Path, dict[int, int]], share: float, torn: bytes
) -> None:
    """The WAL cut at any byte, with rubbish behind the cut."""
    source, marks = history
    copy = crashed(source, tmp_path_factory.mktemp("cut") / "state")
    wal = copy / f"{FILE}-wal"
    data = wal.read_bytes()
    assert struct.unpack(">I", data[:4])[0] in (0x377F0682, 0x377F0683)
    wal.write_bytes(data[: round(share * len(data))] + torn)
    with opened(copy) as journal:
        assert journal.set_aside is None
        assert [n.seq for n in journal.read(0, 1000)] == list(range(1, journal.last + 1))
        assert journal.last in marks
        assert journal.watermark == marks[journal.last] <= journal.last
        alarms = dict(journal.state().alarms)
        assert int(alarms.get(A, b"5")) == journal.watermark
        state = journal.state()
        for seq, _, blob in state.snapshots:
            assert int(blob) == seq <= journal.watermark
        assert state.replay_from <= journal.watermark
        assert journal.append(readings(1), 0.0)[0].seq == journal.last
        assert journal.commit(journal.watermark, wall=WALL)


# -- together with the worker ----------------------------------------------------------------------------------------


def test_a_disk_that_our_own_backlog_filled_becomes_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is taken in, answers, watermark, snapshots and deletions have to go on."""
    rig = Rig(tmp_path, journal=JournalSettings(min_free=100_000, snapshot_seconds=5, keep_hours=24))
    rig.transport.hold = True  # the broker takes no answers, so no snapshot becomes valid
    mids = [rig.transport.put(reading(cycle)) for cycle in range(1, 8001)]
    rig.settle()
    assert rig.transport.acknowledged == mids
    rig.settle(10.0)
    monkeypatch.setattr(Journal, "free", 0)
    late = [rig.transport.put(reading(cycle)) for cycle in range(8001, 8004)]
    rig.settle(10.0)
    assert rig.journal.full
    assert rig.transport.acknowledged == mids
    rig.transport.hold = False
    for _ in range(5):
        rig.settle(10.0)
    assert rig.journal.full == ""
    assert rig.transport.acknowledged == [*mids, *late]
    assert [p["cycle"] for p in rig.transport.predictions()] == list(range(3, 8004))
    rig.journal.close()


def test_waiting_for_the_watermark_of_a_round_is_no_busy_loop(tmp_path: Path) -> None:
    rig = Rig(tmp_path, journal=JournalSettings(min_free=0, snapshot_seconds=5))
    rig.transport.hold = True
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle))
    rig.settle()
    rig.settle(10.0)
    rig.settle(10.0)
    assert rig.journal.in_round
    assert not rig.worker.step()
    assert rig.worker.pause() > 0.5
    rig.journal.close()


def test_a_state_that_does_not_fit_costs_its_own_asset_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, journal=JournalSettings(min_free=0, snapshot_seconds=5, keep_hours=0))
    for cycle in range(1, 6):
        for asset in ("x", "y"):
            rig.transport.put(reading(cycle, 10.0), asset)
    for _ in range(4):
        rig.settle(100.0)
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        assert db.execute("SELECT count(*) FROM entries").fetchone()[0] == 0
        names = {key: msgspec.msgpack.decode(key)[0] for (key,) in db.execute("SELECT asset FROM snapshots")}
        (x,) = (key for key, name in names.items() if name == "x")
        version, life, cycles, times, revisions, values, *_ = msgspec.msgpack.decode(
            db.execute("SELECT state FROM snapshots WHERE asset = ?", (x,)).fetchone()[0]
        )
        other = msgspec.msgpack.encode((version, life, cycles, times, revisions, values[:-4]))  # of other inputs
        db.execute("UPDATE snapshots SET state = ? WHERE asset = ?", (other, x))
        db.execute("UPDATE alarms SET alarms = x'c1' WHERE asset = ?", (x,))
    rig.transport.sent.clear()
    with structlog.testing.capture_logs() as logs:
        rig.crash()
    assert [(line["event"], line["count"]) for line in logs] == [("state_unreadable", 2)]
    for cycle in range(6, 9):
        for asset in ("x", "y"):
            rig.transport.put(reading(cycle, 10.0), asset)
    rig.settle()
    found = [(p["asset"], p["cycle"]) for p in rig.transport.predictions()]
    assert found == [("y", 6), ("y", 7), ("x", 8), ("y", 8)]
    rig.journal.close()
