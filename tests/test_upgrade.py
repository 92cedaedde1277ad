"""A state directory outlives the program that wrote it, and the machine that it lay on."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_worker import Rig, reading

from edge_rul.adapters.journal_file import FILE, SCHEMA_VERSION, open_read_only
from edge_rul.errors import EXIT_CONFIG, JournalError

OLD = ROOT / "tests" / "data" / "state-1.sql"


def write_old(directory: Path, version: int | None = None) -> Path:
    """A state directory of schema version 1, or one that says another."""
    directory.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(directory / FILE)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(OLD.read_text(encoding="utf-8"))
        if version is not None:
            db.execute(f"PRAGMA user_version = {version}")
    return directory


def keys(predictions: list[dict[str, Any]]) -> list[tuple[str, int, int, float]]:
    return [(p["asset"], p["life"], p["cycle"], p["rul"]) for p in predictions]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_the_state_of_an_earlier_version_is_taken_up_where_it_stood(tmp_path: Path, version: int) -> None:
    """What version 1 wrote is what the later ones read too: each has added kinds of entries, and changed no table."""
    state = write_old(tmp_path / "state", version)
    with pytest.raises(JournalError, match=f"schema version {version}") as caught, open_read_only(state / FILE):
        pass
    assert "the daemon brings it to this form" in caught.value.hint
    rig = Rig(state)
    with open_read_only(state / FILE):
        pass  # an older program would not read it any more
    rig.settle(10.0)
    # What the old program had not seen acknowledged is answered; nothing else is.
    again = [p for p in rig.transport.predictions() if not p["retain"]]
    assert keys(again) == [("y", 0, 6, 15.5)]
    assert rig.onlooker.restored == {"x": ["normal"], "y": ["active"]}
    rig.transport.sent.clear()
    rig.transport.put(reading(2, 88.0))
    rig.transport.put(reading(6, 15.5), asset="y")
    rig.transport.put(reading(7, 60.0), asset="y")
    rig.settle()
    assert keys(rig.transport.predictions()) == [("x", 1, 2, 88.0), ("y", 0, 7, 60.0)], "windows were full at once"
    assert rig.transport.events() == ["y/0/7/low/cleared"], "an alarm is not raised twice"
    assert rig.worker.statistics().dropped == {"duplicate": 1}


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_the_state_of_an_unknown_version_is_refused_and_not_touched(tmp_path: Path, version: int) -> None:
    state = write_old(tmp_path / "state", version)
    before = (state / FILE).read_bytes()
    with pytest.raises(JournalError, match=f"has schema version {version}, this program reads") as caught:
        Rig(state)
    assert caught.value.exit_code == EXIT_CONFIG
    assert "run the version that wrote it" in caught.value.hint
    assert (state / FILE).read_bytes() == before


def test_a_backup_that_is_restored_goes_on_as_the_original_would(tmp_path: Path) -> None:
    """By the commands of docs/service.md, below a root of this test's."""
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8").partition("## Back up and restore")[2]
    (save,) = re.findall(r"(?m)^\(umask 077; tar .*\)$", text)
    remove, restore = re.findall(r"(?m)^(?:rm -rf|tar) .*$", text)[:2]
    root, state = tmp_path / "root", tmp_path / "root/var/lib/edge-rul"
    (root / "etc/edge-rul").mkdir(parents=True)

    def shell(line: str) -> None:
        line = line.replace("-C / ", f"-C {root} ").replace("/var/lib", f"{root}/var/lib")
        subprocess.run(["sh", "-ec", line], cwd=tmp_path, check=True)

    rig = Rig(write_old(state))
    rig.settle(10.0)
    rig.journal.close()
    shell(save)
    assert (tmp_path / "edge-rul-backup.tar.gz").stat().st_mode & 0o077 == 0
    journal = rig.journal.id
    answers = []
    for restored in (False, True):
        if restored:
            shell(remove)
            assert not state.exists()
            shell(restore)
        rig = Rig(state)
        for cycle in range(2, 5):
            rig.transport.put(reading(cycle, 80.0 - cycle))
        rig.settle()
        assert rig.journal.id == journal
        answers.append(keys(rig.transport.predictions()))
        rig.journal.close()
    assert answers[0] == answers[1]
    assert len(answers[0]) >= 3
