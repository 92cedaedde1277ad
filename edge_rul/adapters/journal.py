"""The journal: what came in, durable before it is acknowledged, in one SQLite file.

    entries     seq -> entry, append-only, without a secondary index; deleted from the front by range
    marks       when a seq was reached, one row a minute, so that entries can be kept for hours
    alarms      an asset's alarm states as they stood at the watermark
    snapshots   an asset's rings and life as they stood at `seq`; superseded rows go once newer ones are valid
    meta        journal id, names of the bundle's inputs, watermark, pledge, where the newest valid snapshot begins,
                whether retained states are owed, which bundle answers since when

Owns the numbers, group commit, what is deleted and when, and what happens when the disk is full. The open transaction
is a list in memory that one executemany writes, so a full disk loses nothing: it is written again. How the file is
opened and checked stands in `journal_file`. Knows an entry only as what the core packs and unpacks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_rul.adapters.journal_file import FILE, PLEDGE, lock, open_file, set_aside, suspect
from edge_rul.adapters.journal_reader import decode_key, encode_key
from edge_rul.config import JournalSettings
from edge_rul.core.answers import AlarmRow
from edge_rul.core.entry import Entry, pack, unpack
from edge_rul.core.tail import Numbered
from edge_rul.core.topic import Asset
from edge_rul.errors import JournalError

_DELETE_AT_ONCE = 20_000  # rows of one range deletion, so that it never holds the worker for long
_PASSING = ("full", "disk I/O", "locked")  # in SQLite's words: what may pass, so it is tried again


class State(msgspec.Struct, frozen=True):
    """What a restart begins with. replay_from: entries after it have to be applied again, each asset's after its own
    snapshot only. snapshots: (seq, asset, state), an asset's newest last. assets: at least as many as have one."""

    watermark: int
    replay_from: int
    alarms: list[tuple[Asset, bytes]]
    snapshots: Iterator[tuple[int, Asset, bytes]]
    assets: int


class Journal:
    """One file in the state directory; this process is its only writer. A context manager.

    id: a new one with each new file. last: seq of the newest entry. committed: seq up to which entries are on disk.
    set_aside: where an unusable predecessor was moved, or None; set_aside_why: `corrupt`, or `inputs` where it belongs
    to a bundle with other inputs; set_aside_assets: how many assets it knew, as far as that could be told. full: why
    nothing more may be taken in, or "". states_owed: whether the run before ended while the broker lacked retained
    states, or might have; see `owe_states`. pledged: no answer to an entry above this seq was ever published. bundle:
    sha256 of the one that answers, and the seq after which it does, as `answered_by` was told.
    """

    def __init__(
        self, directory: Path, settings: JournalSettings, *, inputs: Sequence[str] = (), wall: int | None = None
    ) -> None:
        """Open or make the journal. inputs: the bundle's, in order; () checks nothing. wall: epoch seconds, the
        clock's by default. Raises JournalError."""
        self._settings = settings
        self._directory = directory
        self._path = directory / FILE
        self._pending: list[tuple[int, bytes]] = []
        self._pending_since = 0.0
        self._noted: list[tuple[str, str | int]] = []  # rows of meta in the open transaction
        self.set_aside: Path | None = None
        self.set_aside_why = ""
        self.set_aside_assets = 0
        self.full = ""
        self._rows: dict[bytes, int] = {}  # asset -> id of its valid snapshot
        self._round: dict[bytes, int] = {}  # asset -> id of its snapshot in the round that is not valid yet
        self._gone: set[bytes] = set()  # assets that were removed before their snapshot in that round
        self._round_from = -1
        self._round_upto = 0
        self._delete_upto = 0
        self._lock = lock(directory)
        try:
            if why := self._open(inputs):
                self.set_aside_why = why
                wall = round(time.time()) if wall is None else wall
                self.set_aside, self.set_aside_assets = set_aside(self._path, why, wall)
                self._open(inputs)
        except (sqlite3.Error, OSError) as e:
            raise JournalError("open journal", str(self._path), str(e)) from e
        finally:
            if not hasattr(self, "id"):
                os.close(self._lock)

    def _open(self, inputs: Sequence[str]) -> str:
        """Open the file and read where it stands. Returns why it has to be set aside, or ""."""
        try:
            db = open_file(self._path, self._settings.durability)
        except sqlite3.DatabaseError as e:
            if isinstance(e, sqlite3.OperationalError):
                raise
            return "corrupt"
        try:
            meta = dict(db.execute("SELECT key, value FROM meta"))
            ours = msgspec.json.encode(list(inputs)).decode()
            if inputs and meta.get("inputs", ours) != ours:
                db.close()
                return "inputs"
            if inputs and "inputs" not in meta:
                db.execute("INSERT INTO meta VALUES ('inputs', ?)", (ours,))
            self._db = db
            self.watermark, self._valid = int(meta["watermark"]), int(meta["snapshot"])
            self._newest_mark = int(db.execute("SELECT coalesce(max(time), 0) FROM marks").fetchone()[0])
            newest = int(db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])
            self.last = self.committed = max(newest, self.watermark, self._valid)
            self.id = str(meta["id"])
            # A file of before there were pledges: anything may have been published.
            self.pledged = int(meta.get("pledged", self.last + PLEDGE))
            self.states_owed = bool(int(meta.get("states_owed", 0)))
            self.bundle = str(meta.get("bundle", "")), int(meta.get("bundle_since", 0))
        except (KeyError, ValueError, sqlite3.DatabaseError) as e:
            db.close()
            if isinstance(e, sqlite3.OperationalError):
                raise
            return "corrupt"
        return ""

    def _one(self, query: str, *values: Any) -> Any:
        """The only value that the query gives. Raises JournalError."""
        try:
            return self._db.execute(query, values).fetchone()[0]
        except sqlite3.Error as e:
            raise self._error("read", e) from e

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> str:
        """Run `work` in one transaction. Returns "", or why nothing was written for now. Raises JournalError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            work(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error as e:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(e, sqlite3.OperationalError) and any(words in str(e) for words in _PASSING):
                return str(e)
            raise self._error("write", e) from e
        return ""

    def _error(self, operation: str, e: Exception) -> JournalError:
        damaged = type(e) is sqlite3.DatabaseError or isinstance(e, ValueError)  # malformed, or an entry that is none
        if damaged:
            suspect(self._path)
        hint = "the next start sets the file aside and begins a new one" if damaged else ""
        return JournalError(f"{operation} journal", str(self._path), str(e), hint=hint)

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

    def answered_by(self, sha256: str, since: int) -> None:
        """Note in the open transaction, beside its entry, which bundle answers what lies above `since`."""
        self.bundle = sha256, since
        self._noted = [("bundle", sha256), ("bundle_since", since)]

    def wait(self, now: float) -> float:
        """Seconds until the open transaction has to be committed; infinite while it is empty."""
        if not self._pending:
            return float("inf")
        if len(self._pending) >= self._settings.commit_rows:
            return 0.0
        return max(0.0, self._pending_since + self._settings.commit_ms / 1000 - now)

    def commit(self, watermark: int, alarms: Iterable[AlarmRow] = (), *, wall: int, pledge: int = 0) -> bool:
        """Write the open transaction, the watermark and the alarm rows that it covers. wall: epoch seconds. pledge: seq
        that no answer will exceed before the next commit; one that is lower than the last changes nothing.

        Returns False, with the reason in `full`, where the disk has no room; nothing is lost, and it may be tried
        again. Raises JournalError for anything else.
        """
        # A clock that was set back counts too, or nothing would grow old until it has caught up.
        marks = [(wall, self.last)] if self._pending and abs(wall - self._newest_mark) >= 60 else []

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO entries VALUES (?, ?)", self._pending)
            db.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?)", marks)
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._noted)
            self._put_watermark(db, watermark, alarms, pledge)

        self.full = (self._no_room() if self._pending else "") or self._write(write)
        if self.full:
            return False
        if marks:
            self._newest_mark = wall
        self._pending.clear()
        self._noted.clear()
        self._pending_since = 0.0
        self.committed = self.last
        self._put(watermark, pledge)
        return True

    def mark(self, watermark: int, alarms: Iterable[AlarmRow] = (), *, pledge: int = 0) -> bool:
        """As `commit`, without the entries; the watermark is at most `committed`. Returns whether it was written.

        While the disk is full the answers to what was taken in before go on, and what they free has to become free.
        """
        if self._write(lambda db: self._put_watermark(db, watermark, alarms, pledge)):
            return False
        self._put(watermark, pledge)
        return True

    def _put(self, watermark: int, pledge: int) -> None:
        self.watermark = max(self.watermark, watermark)
        self.pledged = max(self.pledged, pledge)

    def owe_states(self, owed: bool) -> bool:
        """Note that retained states have to be published again, or that they were. Returns whether it was written.

        The watermark does not tell: an answer that was given unretained counts as given.
        """
        row = ("states_owed", int(owed))
        if self._write(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)):
            return False
        self.states_owed = owed
        return True

    def _put_watermark(self, db: sqlite3.Connection, watermark: int, alarms: Iterable[AlarmRow], pledge: int) -> None:
        if watermark > self.watermark:
            db.execute("UPDATE meta SET value = ? WHERE key = 'watermark'", (watermark,))
        if pledge > self.pledged:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('pledged', ?)", (pledge,))
        rows = [(encode_key(row.asset), row.blob) for row in alarms]
        db.executemany("INSERT OR REPLACE INTO alarms VALUES (?, ?)", [row for row in rows if row[1]])
        db.executemany("DELETE FROM alarms WHERE asset = ?", [row[:1] for row in rows if not row[1]])

    def _no_room(self) -> str:
        """Below `min_free` ingest stops, so that the watermark, deletions and a checkpoint still fit. Pages that
        deletions have freed count as room: the file never shrinks, so it could not recover otherwise."""
        free, least = self.free, self._settings.min_free
        if free >= least:
            return ""
        reusable = self._one("PRAGMA freelist_count") * self._one("PRAGMA page_size")
        if free + reusable >= least:
            return ""
        return f"{free} bytes free and {reusable} of the journal's own, min_free is {least}"

    def read(self, after: int, limit: int) -> list[Numbered]:
        """At most `limit` entries whose seq is above `after`, in order, the open transaction's too.

        These are given as fleeting: how they came is not kept, and to answer them once they are durable is always
        right. Raises JournalError.
        """
        query = "SELECT seq, entry FROM entries WHERE seq > ? ORDER BY seq LIMIT ?"
        try:
            found = [Numbered(seq, unpack(entry)) for seq, entry in self._db.execute(query, (after, limit))]
        except (sqlite3.Error, ValueError) as e:
            raise self._error("read", e) from e
        if len(found) < limit:
            start = found[-1].seq if found else after
            found += [Numbered(seq, unpack(entry), True) for seq, entry in self._pending if seq > start]
        return found[:limit]

    # -- snapshots --------------------------------------------------------------------------------------------------

    def begin_round(self, applied: int) -> None:
        """Begin to snapshot every asset that changed up to `applied`; one round at a time."""
        self._round_from, self._round_upto = applied, applied

    @property
    def in_round(self) -> bool:
        """Whether a round was begun and is not valid yet."""
        return self._round_from >= 0

    def snapshot(self, applied: int, states: Iterable[tuple[Asset, bytes]]) -> bool:
        """Write some assets' states as of `applied` into the round. False where the disk took none: the round may not
        end without them, so they have to be given again. An empty state tells that the asset was removed: it supersedes
        the one before, and goes with it. Raises JournalError."""
        given, written = list(states), dict[bytes, int]()

        def write(db: sqlite3.Connection) -> None:
            for asset, state in given:
                row = (applied, key := encode_key(asset), state)
                cursor = db.execute("INSERT INTO snapshots (seq, asset, state) VALUES (?, ?, ?)", row)
                written[key] = int(cursor.lastrowid or 0)

        if self._write(write):
            return False
        self._round.update(written)
        self._gone |= {encode_key(asset) for asset, state in given if not state}
        self._round_upto = applied
        return True

    def end_round(self, *, wall: int) -> bool:
        """Make the round valid if the watermark has reached it, and delete what it supersedes. Returns whether.

        What `trim` may delete is settled here. wall: epoch seconds.
        """
        if self._round_from < 0 or self.watermark < self._round_upto:
            return False
        old = [(self._rows[key],) for key in self._round if key in self._rows]
        old += [(self._round[key],) for key in self._gone]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM snapshots WHERE id = ?", old)
            db.execute("UPDATE meta SET value = ? WHERE key = 'snapshot'", (self._round_from,))

        if self._write(write):
            return False
        self._rows.update(self._round)
        for key in self._gone:
            del self._rows[key]
        self._round.clear()
        self._gone.clear()
        self._valid, self._round_from = self._round_from, -1
        self._delete_upto = min(self._valid, self._too_old(wall))
        return True

    def _too_old(self, wall: int) -> int:
        """The seq up to which entries are older than `keep_hours` or beyond `keep_bytes`."""
        then = wall - self._settings.keep_hours * 3600
        # What follows on something young is young, whatever its mark says: a machine without a clock of its own starts
        # in 1970. A mark of a time to come tells nothing: the clock was ahead.
        query = "SELECT coalesce(min(seq), ?) FROM marks WHERE time BETWEEN ? AND ?"
        young = int(self._one(query, self.last + 1, then, wall))
        old = int(self._one("SELECT coalesce(max(seq), 0) FROM marks WHERE time < ? AND seq < ?", then, young))
        first = int(self._one("SELECT coalesce(min(seq), 0) FROM entries"))
        size = self.size
        if (excess := size - self._settings.keep_bytes) > 0 and self.last > first:
            old = max(old, first + round((self.last - first) * excess / size))
        return old

    def trim(self) -> bool:
        """Delete some of the entries that no restart needs and that need not be kept. Returns whether there is more.

        While the disk is full, what is only kept for a look back yields to what has to be kept.
        """
        target = self._valid if self.full else self._delete_upto
        first = self._one("SELECT coalesce(min(seq), 0) FROM entries") if target else 0
        upto = min(target, first + _DELETE_AT_ONCE - 1)
        if not first or first > upto:
            self._delete_upto = 0
            return False

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM entries WHERE seq <= ?", (upto,))
            db.execute("DELETE FROM marks WHERE seq <= ?", (upto,))

        return not self._write(write)

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
        """What to begin with. Read `snapshots` to its end before anything is written. Raises JournalError."""
        alarms = [(decode_key(key), blob) for key, blob in self._db.execute("SELECT asset, alarms FROM alarms")]
        assets = int(self._one("SELECT count(*) FROM snapshots"))
        return State(self.watermark, self._valid, alarms, self._snapshots(), assets)

    def _snapshots(self) -> Iterator[tuple[int, Asset, bytes]]:
        rows: dict[bytes, int] = {}
        doomed: list[tuple[int]] = []
        try:
            for row, seq, key, state in self._db.execute("SELECT id, seq, asset, state FROM snapshots ORDER BY id"):
                if seq > self.watermark:  # of a round that never became valid
                    doomed.append((row,))
                    continue
                if key in rows:
                    doomed.append((rows.pop(key),))
                if state:
                    rows[key] = row
                else:
                    doomed.append((row,))  # a removed asset's: what it supersedes goes too
                yield seq, decode_key(key), state
        except sqlite3.Error as e:
            raise self._error("read", e) from e
        self._rows = rows
        # Those above the watermark have to go: their seqs will be given to other entries.
        if doomed and (why := self._write(lambda db: db.executemany("DELETE FROM snapshots WHERE id = ?", doomed))):
            raise JournalError("write journal", str(self._path), why)

    def stored(self, asset: Asset) -> bytes | None:
        """The asset's newest valid snapshot. Raises JournalError."""
        if (row := self._rows.get(encode_key(asset))) is None:
            return None
        try:
            return bytes(self._one("SELECT state FROM snapshots WHERE id = ?", row))
        except TypeError as e:
            raise self._error("read", e) from e

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
