"""The fleet as it is shown, kept in a SQLite file of its own: what the status page and the asset metrics read.

Owns the hand-over from the worker, a thread that takes it, the lock on the fleet, and the file. The worker only appends
to a bounded queue and never waits; what does not fit is lost to the page, and counted. The file is written as often as
a hundred kilobytes a second allow, and after a clean stop it holds everything. Nothing hangs on it: one that is damaged
is set aside, one that cannot be opened is left to the next start, one that cannot be written is tried again, and the
page then shows what came since the start.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_rul.core.alarm import Change
from edge_rul.core.answers import Answered
from edge_rul.core.entry import AssetEntry
from edge_rul.core.fleet import Fleet
from edge_rul.core.topic import Asset

FILE = "history.db"
SCHEMA_VERSION = 1
_TABLE = "CREATE TABLE records (asset BLOB PRIMARY KEY, record BLOB NOT NULL)"
_UPSERT = "INSERT INTO records VALUES (?, ?) ON CONFLICT (asset) DO UPDATE SET record = excluded.record"
_PASSING = ("full", "disk I/O", "locked", "unable to open")  # in SQLite's words: what says nothing against the file
_POLL = 0.25  # seconds between two looks at the queue
_WAITING = 50_000  # entries and answers that may wait for the thread
_RATE = 100_000  # bytes a second that are written at most, on average: 9 GB a day
_WRITE_EVERY = 5.0  # seconds between two writes at least
_AT_ONCE = 500  # records in one hold of the lock


class History:
    """The fleet, for one writer, the worker, and any number of readers."""

    def __init__(self, directory: Path, *, max_assets: int, log: Any, wall: Callable[[], float] = time.time) -> None:
        """directory: the daemon's state directory, which exists and is ours alone. Raises nothing for a bad file."""
        self._log = log
        self._wall = wall
        self._fleet = Fleet(max_assets)
        self._lock = threading.Lock()
        self._turned = threading.Condition()
        self._version = 0
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._put = self._taken = 0  # entries and answers; each is written by one thread
        self.dropped = 0
        self.daemon_alarms: dict[str, tuple[bool, float]] = {}  # the daemon's own: whether on, and the value
        self._failing = False
        self._write_at = 0.0
        self._path = directory / FILE
        self._db = self._open()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    # -- the worker's side: a few microseconds each ------------------------------------------------------------------

    def heard(self, entries: list[AssetEntry]) -> None:
        """Entries came in. The list must not change afterwards."""
        wall = self._wall()

        def apply() -> None:
            for entry in entries:
                self._fleet.heard(entry, wall)

        self._hand_over(len(entries), apply)

    def answered(self, answers: list[Answered], changes: list[Change]) -> None:
        """A batch was answered, and moved alarms."""

        def apply() -> None:
            for answered in answers:
                self._fleet.answered(answered)
            for change in changes:
                self._fleet.alarm(change)

        self._hand_over(len(answers) + len(changes), apply)

    def renewed(self, lives: list[tuple[Asset, int]]) -> None:
        """These assets began these lives."""

        def apply() -> None:
            for asset, life in lives:
                self._fleet.renewed(asset, life)

        if lives:
            self._hand_over(len(lives), apply)

    def removed(self, assets: list[Asset]) -> None:
        """These are no more: their records go."""

        def apply() -> None:
            for asset in assets:
                self._fleet.forget(asset)

        if assets:
            self._hand_over(0, apply)  # none may be lost: nothing else would ever take the record away

    def alarms(self, asset: Asset, states: list[Change]) -> None:
        """An asset's alarms as they stand after a restart."""
        self._hand_over(0, lambda: self._fleet.alarms(asset, states))

    def daemon_alarm(self, name: str, active: bool, value: float) -> None:
        """An alarm of the daemon's own was set or cleared."""
        self.daemon_alarms = {**self.daemon_alarms, name: (active, value)}  # a new one: others may be reading it

    def _hand_over(self, count: int, apply: Callable[[], None]) -> None:
        if self._put - self._taken + count > _WAITING:
            self.dropped += count
            return
        self._put += count
        self._queue.append((count, apply))

    # -- the readers' side --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fleet(self) -> Iterator[Fleet]:
        """The fleet as it stands; it does not change inside the block, and may not be kept beyond."""
        with self._lock:
            yield self._fleet

    def wait(self, version: int, timeout: float) -> int:
        """Until the fleet has changed since `version`, or `timeout` seconds are over. Returns the version it has."""
        with self._turned:
            self._turned.wait_for(lambda: self._version != version or self._stop.is_set(), timeout)
            return self._version

    # -- the thread ---------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Apply what was handed over. Returns whether there was any."""
        if not self._queue:
            return False
        with self._lock:
            while self._queue:
                count, apply = self._queue.popleft()
                apply()
                self._taken += count
        with self._turned:
            self._version += 1
            self._turned.notify_all()
        return True

    def _run(self) -> None:
        while not self._stop.wait(_POLL):
            self.take()
            if time.monotonic() >= self._write_at:
                self._write()

    def close(self) -> None:
        """Write what is not written yet, and end. A disk that does not answer is not waited for for long."""
        self._stop.set()
        with self._turned:
            self._turned.notify_all()
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self.take()
            self._write()
            if self._db is not None:
                self._db.close()

    # -- the file -----------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection | None:
        """The file with its records read, a new one in place of one that is damaged, or none where it cannot be opened
        for now."""
        for _ in range(2):
            try:
                return self._read()
            except (sqlite3.Error, msgspec.DecodeError, TypeError, ValueError, OSError) as e:
                self._fleet = Fleet(self._fleet.max_assets)
                if isinstance(e, sqlite3.OperationalError) and any(words in str(e) for words in _PASSING):
                    self._log.warning("history_unreadable", problem=str(e), action="it is left to the next start")
                    return None
                aside = self._path.with_name(f"{FILE}.unreadable")
                self._log.warning("history_unreadable", problem=str(e), moved_to=str(aside), action="it begins anew")
                with contextlib.suppress(OSError):
                    for suffix in ("-wal", "-shm"):
                        self._path.with_name(FILE + suffix).unlink(missing_ok=True)
                    self._path.replace(aside)
        return None

    def _read(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 16777216")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                db.execute(_TABLE)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise ValueError(f"has schema version {version}, this program reads {SCHEMA_VERSION}")
            for (blob,) in db.execute("SELECT record FROM records"):
                self._fleet.load(blob)
        except BaseException:
            db.close()
            raise
        return db

    def _write(self) -> None:
        """The changed records, in slices, so that no reader waits long for the lock."""
        self._write_at = time.monotonic() + _WRITE_EVERY
        if self._db is None:
            return
        with self._lock:
            changed, self._fleet.changed = self._fleet.changed, set()
        written = 0
        todo = list(changed)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for start in range(0, len(todo), _AT_ONCE):
                with self._lock:
                    rows = [
                        (msgspec.msgpack.encode(asset), self._fleet.dump(asset)) for asset in todo[start:][:_AT_ONCE]
                    ]
                written += sum(len(blob or b"") for _, blob in rows)
                self._db.executemany(_UPSERT, [row for row in rows if row[1]])
                self._db.executemany("DELETE FROM records WHERE asset = ?", [row[:1] for row in rows if not row[1]])
            self._db.execute("COMMIT")
        except sqlite3.Error as e:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            with self._lock:
                self._fleet.changed |= changed
            if not self._failing:
                self._log.warning("history_not_written", problem=str(e), action="it is tried again")
            self._failing = True
            self._write_at += 10 * _WRITE_EVERY
            return
        self._failing = False
        self._write_at = max(self._write_at, time.monotonic() + written / _RATE)
