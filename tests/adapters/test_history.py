"""The hand-over to the page, and the file that survives a restart."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import structlog
from page_fleet import LOW, prediction
from structlog.testing import capture_logs

from edge_rul.adapters import history as module
from edge_rul.adapters.history import FILE, History
from edge_rul.core.alarm import Change, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset

X = Asset("x")


def open_history(directory: Path) -> History:
    return History(directory, max_assets=100, log=structlog.get_logger(), wall=lambda: 1000.0)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread takes nothing by itself: the test does."""
    monkeypatch.setattr(module, "_POLL", 3600.0)


def reading(cycle: int, asset: Asset = X) -> Reading:
    return Reading(asset, cycle, None, np.array([float(cycle)], np.float32))


def tell(history: History, cycle: int, asset: Asset = X) -> None:
    history.heard([reading(cycle, asset)])
    history.answered([Answered(asset, prediction(asset, 0, cycle, 100.0 - cycle), True)], [])


def alarmed(state: State) -> Change:
    return Change(X, LOW, Status(state, 0, 3, 1.0), 3, None, None)


def shown(history: History, name: str = "x") -> tuple[int | None, list[int], int]:
    """The asset's newest cycle, the cycles of its trace, and how many alarms."""
    with history.fleet() as fleet:
        record = fleet.find(name)
        return (
            (None, [], 0)
            if record is None
            else (
                record.cycle,
                [p.cycle for p in record.trace.points()],
                len(record.alarms),
            )
        )


def wait_until(history: History, condition: Callable[[], bool]) -> None:
    version = -1
    for _ in range(200):
        if condition():
            return
        version = history.wait(version, 0.1)
    pytest.fail("it never came")


def test_what_the_worker_says_is_shown_and_is_there_after_a_restart(tmp_path: Path) -> None:
    history = open_history(tmp_path)
    for cycle in range(1, 6):
        tell(history, cycle)
    history.answered([], [alarmed(State.ACTIVE)])
    wait_until(history, lambda: shown(history) == (5, [1, 2, 3, 4, 5], 1))
    tell(history, 6)
    history.close()  # with what was not taken yet

    again = open_history(tmp_path)
    assert shown(again) == (6, [1, 2, 3, 4, 5, 6], 0), "alarms are the journal's to tell"
    again.alarms(X, [alarmed(State.ACTIVE)])
    tell(again, 7)
    wait_until(again, lambda: shown(again) == (7, [1, 2, 3, 4, 5, 6, 7], 1))
    again.close()


def test_a_restart_that_was_no_orderly_end_keeps_what_was_written(tmp_path: Path, idle: None) -> None:
    history = open_history(tmp_path)
    tell(history, 1)
    history.take()
    history._write()
    tell(history, 2)
    history.take()
    # Killed here: the file is opened again beside the one that was never closed.
    assert shown(open_history(tmp_path)) == (1, [1], 0)


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b""])
def test_a_file_that_cannot_be_read_is_set_aside_and_costs_only_history(tmp_path: Path, damage: bytes) -> None:
    history = open_history(tmp_path)
    tell(history, 1)
    history.close()
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(damage or data[: len(data) // 2 + 7])
    with capture_logs() as logs:
        again = open_history(tmp_path)
    assert [line["event"] for line in logs] == ["history_unreadable"]
    assert (tmp_path / f"{FILE}.unreadable").exists()
    tell(again, 2)
    again.close()
    assert shown(open_history(tmp_path)) == (2, [2], 0)


def test_a_file_that_cannot_be_read_for_now_is_left_alone_and_read_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = open_history(tmp_path)
    tell(history, 1)
    history.close()
    monkeypatch.setattr(module.sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.001))
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with capture_logs() as logs:
        history = open_history(tmp_path)
    assert [(line["event"], line["problem"]) for line in logs] == [("history_unreadable", "database is locked")]
    tell(history, 2)
    wait_until(history, lambda: shown(history) == (2, [2], 0))
    history.close()
    other.close()
    assert not (tmp_path / f"{FILE}.unreadable").exists()
    again = open_history(tmp_path)
    assert shown(again) == (1, [1], 0)
    tell(again, 3)
    again.close()
    assert shown(open_history(tmp_path)) == (3, [1, 3], 0)


@pytest.mark.parametrize("record", ["x'93'", "'text'", "7", "CAST(x'ff' AS TEXT)"])
def test_records_that_are_no_records_are_set_aside_too(tmp_path: Path, record: str) -> None:
    open_history(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute(f"INSERT INTO records VALUES (x'00', {record})")
    again = open_history(tmp_path)
    assert (tmp_path / f"{FILE}.unreadable").exists()
    tell(again, 1)
    wait_until(again, lambda: shown(again)[0] == 1)
    again.close()


def test_a_directory_that_cannot_be_written_costs_only_the_file(tmp_path: Path) -> None:
    history = open_history(tmp_path / "nowhere")
    tell(history, 1)
    wait_until(history, lambda: shown(history)[0] == 1)
    history.close()


def test_a_write_that_fails_is_said_once_and_made_up_for(tmp_path: Path, idle: None) -> None:
    history = open_history(tmp_path)
    tell(history, 1)
    history.take()
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    assert history._db is not None
    history._db.execute("PRAGMA busy_timeout = 1")
    other.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        history._write()
        history._write()
    assert [line["event"] for line in logs] == ["history_not_written"]
    other.execute("ROLLBACK")
    history.close()
    assert shown(open_history(tmp_path))[0] == 1


def test_the_worker_waits_for_no_reader_and_the_queue_is_bounded(tmp_path: Path, idle: None) -> None:
    history = open_history(tmp_path)
    entries = [reading(n) for n in range(1000)]
    done = threading.Event()

    def work() -> None:
        for _ in range(200):
            history.heard(entries)
        done.set()

    with history.fleet():  # a reader that never ends
        thread = threading.Thread(target=work)
        thread.start()
        assert done.wait(30), "the worker was held up"
    thread.join()
    assert history.dropped == 200_000 - module._WAITING
    assert len(history._queue) == module._WAITING // 1000
    history.take()
    tell(history, 5000)
    history.take()
    assert shown(history)[0] == 5000, "and goes on afterwards"
    history.close()


def test_a_forgotten_asset_leaves_the_file(tmp_path: Path, idle: None) -> None:
    history = open_history(tmp_path)
    tell(history, 1)
    tell(history, 1, Asset("y"))
    history.take()
    history._write()
    history.removed([X])
    history.close()
    again = open_history(tmp_path)
    assert shown(again) == (None, [], 0) and shown(again, "y")[0] == 1
