"""The journal: what came in, durable before it is acknowledged, in one SQLite file.

    entries     seq -> entry, append-only, without a secondary index; deleted from the front by range
    marks       when a seq was reached, one row a minute, so that entries can be kept for hours
    alarms      an asset's alarm states as they stood at the watermark
    snapshots   an asset's rings and life as they stood at `seq`; superseded rows go once newer ones are valid
    meta        schema, journal id, watermark, where the newest valid snapshot begins

Owns the file, the numbers, group commit, and what happens when the file is corrupt or the disk is full. The open
transaction is a list in memory that one executemany writes, so a full disk loses nothing: it is written again. Knows an
entry only as what the core packs and unpacks.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_rul.config import JournalSettings
from edge_rul.core.payload import Entry, pack, unpack
from edge_rul.core.pipeline import AlarmRow
from edge_rul.core.tail import Numbered
from edge_rul.core.topic import Asset
from edge_rul.errors import JournalError

SCHEMA_VERSION = 1
FILE = "journal.db"
_DELETE_AT_ONCE = 20_000  # rows of one range deletion, so that it never holds the worker for long
_TABLES = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE marks (time INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE alarms (asset BLOB PRIMARY KEY, alarms BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, asset BLOB NOT NULL, state BLOB NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""


class State(msgspec.Struct, frozen=True):
    """What a restart begins with. replay_from: entries after it have to be applied again, each asset's after its own
    snapshot only. snapshots: (seq, asset, state)."""

    watermark: int
    replay_from: int
    alarms: list[tuple[Asset, bytes]]
    snapshots: Iterator[tuple[int, Asset, bytes]]
    assets: int


class Journal:
    """One file in the state directory; this process is its only writer. A context manager.

    id: a new one with each new file. last: seq of the newest entry. committed: seq up to which entries are on disk.
    set_aside: where a corrupt predecessor was moved, or None. full: why nothing more may be taken in, or "".
    """

    def __init__(self, directory: Path, settings: JournalSettings, *, wall: int | None = None) -> None:
        """Open or make the journal. wall: epoch seconds, the clock's by default. Raises JournalError."""
        self._settings = settings
        self._directory = directory
        self._path = directory / FILE
        self._pending: list[tuple[int, bytes]] = []
        self._pending_since = 0.0
        self.set_aside: Path | None = None
        self.set_aside_assets = 0
        self.full = ""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.lockf(self._lock, os.F_TLOCK, 0)
        except BlockingIOError:
            hint = "each daemon needs a state directory of its own"
            raise JournalError("open journal", str(directory), "another process uses it", hint=hint) from None
        except OSError as e:
            raise JournalError("open journal", str(directory), f"cannot be used: {e.strerror}") from e
        try:
            self._db = self._open()
        except sqlite3.OperationalError as e:
            raise JournalError("open journal", str(self._path), str(e)) from e
        except sqlite3.DatabaseError:
            self._move_away(round(time.time()) if wall is None else wall)
            self._db = self._open()
        self.id = str(self._meta("id"))
        self.watermark = int(self._meta("watermark"))
        self._valid = int(self._meta("snapshot"))
        self._newest_mark = int(self._one("SELECT coalesce(max(time), 0) FROM marks"))
        self.last = max(int(self._one("SELECT coalesce(max(seq), 0) FROM entries")), self.watermark, self._valid)
        self.committed = self.last
        self._rows: dict[bytes, int] = {}  # asset -> id of its valid snapshot
        self._round: dict[bytes, int] = {}  # asset -> id of its snapshot in the round that is not valid yet
        self._round_from = -1
        self._round_upto = 0

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, cached_statements=64)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._settings.durability == 'full' else 'NORMAL'}")
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA journal_size_limit = 67108864")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._create(db)
            elif version != SCHEMA_VERSION:
                problem = f"has schema version {version}, this program reads {SCHEMA_VERSION}"
                hint = "run the version that wrote it, or move the file away: windows then begin anew"
                raise JournalError("open journal", str(self._path), problem, hint=hint)
            elif (result := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(result)
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.strip().splitlines():
            db.execute(statement)
        start = [("id", uuid.uuid4().hex), ("watermark", 0), ("snapshot", 0)]
        db.executemany("INSERT INTO meta VALUES (?, ?)", start)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _move_away(self, wall: int) -> None:
        """Keep a corrupt journal under another name, never delete it, and count what assets it knew if it still can."""
        try:
            with sqlite3.connect(f"file:{self._path}?mode=ro", uri=True) as db:
                self.set_aside_assets = db.execute("SELECT count(DISTINCT asset) FROM snapshots").fetchone()[0]
        except sqlite3.Error:
            self.set_aside_assets = 0
        self.set_aside = self._path.with_name(f"{FILE}.corrupt-{wall}")
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{self._path}{suffix}")
            if part.exists():
                part.rename(f"{self.set_aside}{suffix}")

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()[0]

    def _meta(self, key: str) -> Any:
        return self._one("SELECT value FROM meta WHERE key = ?", key)

    # -- taking in --------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry], now: float, *, fleeting: bool = False) -> list[Numbered]:
        """Number the entries and put them into the open transaction. now: monotonic seconds."""
        numbered = []
        for entry in entries:
            self.last += 1
            self._pending.append((self.last, pack(entry)))
            numbered.append(Numbered(self.last, entry, fleeting))
        if numbered and not self._pending_since:
            self._pending_since = now
        return numbered

    def wait(self, now: float) -> float:
        """Seconds until the open transaction has to be committed; infinite while it is empty."""
        if not self._pending:
            return float("inf")
        if len(self._pending) >= self._settings.commit_rows:
            return 0.0
        return max(0.0, self._pending_since + self._settings.commit_ms / 1000 - now)

    def commit(self, watermark: int, alarms: Iterable[AlarmRow] = (), *, wall: int) -> bool:
        """Write the open transaction, the watermark and the alarm rows that it covers. wall: epoch seconds.

        Returns False, with the reason in `full`, where the disk has no room; nothing is lost, and it may be tried
        again. Raises JournalError for anything else.
        """
        if self._pending and (reason := self._no_room()):
            self.full = reason
            return False
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO entries VALUES (?, ?)", self._pending)
            if watermark > self.watermark:
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'watermark'", (watermark,))
            rows = [(_key(row.asset), row.blob) for row in alarms]
            self._db.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?)", rows)
            if self._pending and wall - self._newest_mark >= 60:
                self._db.execute("INSERT OR IGNORE INTO marks VALUES (?, ?)", (wall, self.last))
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as e:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if "full" not in str(e) and "disk I/O" not in str(e):
                raise JournalError("commit", str(self._path), str(e)) from e
            self.full = str(e)
            return False
        if self._pending and wall - self._newest_mark >= 60:
            self._newest_mark = wall
        self.full = ""
        self._pending.clear()
        self._pending_since = 0.0
        self.committed = self.last
        self.watermark = max(self.watermark, watermark)
        return True

    def _no_room(self) -> str:
        """Below `min_free` ingest stops, so that the watermark, deletions and a checkpoint still fit."""
        free = shutil.disk_usage(self._directory).free
        return f"{free} bytes free, min_free is {self._settings.min_free}" if free < self._settings.min_free else ""

    def read(self, after: int, limit: int) -> list[Numbered]:
        """At most `limit` entries whose seq is above `after`, in order, the open transaction's too."""
        rows = self._db.execute("SELECT seq, entry FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        found = [Numbered(seq, unpack(entry)) for seq, entry in rows]
        if len(found) < limit:
            start = found[-1].seq if found else after
            found += [Numbered(seq, unpack(entry)) for seq, entry in self._pending if seq > start]
        return found[:limit]

    # -- snapshots --------------------------------------------------------------------------------------------------

    def begin_round(self, applied: int) -> None:
        """Begin to snapshot every asset that changed up to `applied`; one round at a time."""
        self._round_from, self._round_upto = applied, applied

    @property
    def in_round(self) -> bool:
        """Whether a round was begun and is not valid yet."""
        return self._round_from >= 0

    def snapshot(self, applied: int, states: Iterable[tuple[Asset, bytes]]) -> None:
        """Write some assets' states as of `applied` into the round. Raises JournalError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for asset, state in states:
                row = (applied, key := _key(asset), state)
                cursor = self._db.execute("INSERT INTO snapshots (seq, asset, state) VALUES (?, ?, ?)", row)
                self._round[key] = int(cursor.lastrowid or 0)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as e:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self.full = str(e)
        self._round_upto = applied

    def end_round(self, *, wall: int) -> bool:
        """Make the round valid if the watermark has reached it, and delete what it supersedes. Returns whether."""
        if self._round_from < 0 or self.watermark < self._round_upto:
            return False
        old = [(self._rows[key],) for key in self._round if key in self._rows]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("DELETE FROM snapshots WHERE id = ?", old)
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'snapshot'", (self._round_from,))
        self._db.execute("COMMIT")
        self._rows.update(self._round)
        self._round.clear()
        self._valid, self._round_from = self._round_from, -1
        self._trim(wall)
        return True

    def _trim(self, wall: int) -> None:
        """Delete entries that no restart needs and that are older than `keep_hours` or beyond `keep_bytes`."""
        old = self._one(
            "SELECT coalesce(max(seq), 0) FROM marks WHERE time < ?", wall - self._settings.keep_hours * 3600
        )
        first = self._one("SELECT coalesce(min(seq), 0) FROM entries")
        if (excess := self.size - self._settings.keep_bytes) > 0 and self.last > first:
            old = max(old, first + round((self.last - first) * min(1.0, excess / self.size)))
        upto = min(int(old), self._valid, first + _DELETE_AT_ONCE)
        self._db.execute("DELETE FROM entries WHERE seq <= ?", (upto,))
        self._db.execute("DELETE FROM marks WHERE seq <= ?", (upto,))

    @property
    def size(self) -> int:
        """Bytes in use in the file."""
        pages = self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")
        return int(pages * self._one("PRAGMA page_size"))

    @property
    def free(self) -> int:
        """Bytes left on its disk."""
        return shutil.disk_usage(self._directory).free

    # -- restart ----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """What to begin with. Read `snapshots` to its end before anything is written."""
        self._db.execute("DELETE FROM snapshots WHERE seq > ?", (self.watermark,))
        alarms = [(_asset(key), blob) for key, blob in self._db.execute("SELECT asset, alarms FROM alarms")]
        newest = dict(self._db.execute("SELECT asset, max(id) FROM snapshots GROUP BY asset"))
        stale = self._one("SELECT count(*) FROM snapshots") - len(newest)
        self._rows = newest
        if stale:
            keep = set(newest.values())
            doomed = [(i,) for (i,) in self._db.execute("SELECT id FROM snapshots") if i not in keep]
            self._db.executemany("DELETE FROM snapshots WHERE id = ?", doomed)
        return State(self.watermark, self._valid, alarms, self._snapshots(), len(newest))

    def _snapshots(self) -> Iterator[tuple[int, Asset, bytes]]:
        for seq, key, state in self._db.execute("SELECT seq, asset, state FROM snapshots"):
            yield seq, _asset(key), state

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _key(asset: Asset) -> bytes:
    return msgspec.msgpack.encode((asset.name, asset.levels))


def _asset(key: bytes) -> Asset:
    name, levels = msgspec.msgpack.decode(key, type=tuple[str, tuple[tuple[str, str], ...]])
    return Asset(name, levels)
