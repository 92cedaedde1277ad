"""The journal's file: its schema, its lock, opening it, its check, and what becomes of one that cannot be used.

Owns the tables and their version, who may open the file, and the names under which an unusable one is kept. Knows
nothing of what an entry, a snapshot or a watermark means.

Checked at each start are the schema and every table but the entries: these are up to `keep_bytes`, so that checking
them takes seconds (1.5 s of CPU and as much reading for 840 MB). A damaged page among them is met when it is read,
written or deleted; `suspect` then leaves a mark, and the next start sets the file aside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, JournalError

SCHEMA_VERSION = 3
FILE = "journal.db"
PLEDGE = 64  # entries that may be answered before the first commit says how many
_TABLES = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE marks (time INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE alarms (asset BLOB PRIMARY KEY, alarms BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, asset BLOB NOT NULL, state BLOB NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""
# From version -> statements that lead to the next one; each step is one transaction. A file of a version that is not
# here, such as a newer program's, is refused. A step may hold no statement: then what is new are kinds of entries,
# which an older program must refuse to read.
# 2: refused messages; commands with who and why. 3: readings without a number, parts of readings.
_MIGRATIONS: dict[int, tuple[str, ...]] = {1: (), 2: ()}
_CHECKED = ("meta", "marks", "alarms", "snapshots")
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # what a restart may find mended


def lock(directory: Path) -> int:
    """Make the state directory and take its lock; the descriptor that holds it. Raises JournalError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        hint = "set journal.directory to a directory that the daemon's user may write, or grant the right"
        code = EXIT_INTERNAL if e.errno in _PASSING else EXIT_CONFIG
        problem = f"cannot be used: {e.strerror}"
        raise JournalError("open journal", str(directory), problem, hint=hint, exit_code=code) from e
    try:
        os.lockf(descriptor, os.F_TLOCK, 0)
    except OSError as e:
        os.close(descriptor)
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            raise JournalError("open journal", str(directory), f"cannot be locked: {e.strerror}") from e
        hint = "each daemon needs a state directory of its own: set journal.directory or mqtt.client_id"
        raise JournalError("open journal", str(directory), "another process uses it", hint=hint) from None
    return descriptor


def open_file(path: Path, durability: str) -> sqlite3.Connection:
    """The journal at `path`, made or migrated where that is needed.

    Raises JournalError where it is another program's or cannot be opened now, sqlite3.DatabaseError, which is no
    OperationalError, where it is corrupt.
    """
    if _mark(path).exists():
        raise sqlite3.DatabaseError("was found damaged by the run before")
    db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA journal_size_limit = 67108864")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _run(db, (*_TABLES.strip().splitlines(), *_first_rows()), SCHEMA_VERSION)
        while version in _MIGRATIONS and 0 < version < SCHEMA_VERSION:
            _run(db, _MIGRATIONS[version], version + 1)
            version += 1
        check_version(path, db)
        for table in _CHECKED:
            if (result := db.execute(f"PRAGMA quick_check({table})").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(result)
    except BaseException:
        db.close()
        raise
    return db


def check_version(path: Path, db: sqlite3.Connection) -> None:
    """Raises JournalError where the file is of another schema than this program's."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        older = version in _MIGRATIONS
        raise JournalError(
            "open journal",
            str(path),
            f"has schema version {version}, this program reads {SCHEMA_VERSION}",
            hint="the daemon brings it to this form when it starts"
            if older
            else "run the version that wrote it, or move the file away: windows then begin anew",
            exit_code=EXIT_CONFIG,
        )


def _first_rows() -> tuple[str, ...]:
    rows = f"('id', '{uuid.uuid4().hex}'), ('watermark', 0), ('snapshot', 0), ('pledged', {PLEDGE})"
    return (f"INSERT INTO meta VALUES {rows}",)


def _run(db: sqlite3.Connection, statements: tuple[str, ...], version: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in statements:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {version}")
    db.execute("COMMIT")


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def suspect(path: Path) -> None:
    """Leave a mark, so that the next start sets the file aside instead of meeting the same damage."""
    with contextlib.suppress(OSError):
        _mark(path).touch()


def set_aside(path: Path, why: str, wall: int) -> tuple[Path, int]:
    """Keep an unusable journal under another name, never delete it. why: part of the name. wall: epoch seconds.

    Returns the new path, and how many assets it knew, 0 where that cannot be told any more.
    """
    try:
        with contextlib.closing(sqlite3.connect(_uri(path, "mode=ro"), uri=True)) as db:
            assets = int(db.execute("SELECT count(DISTINCT asset) FROM snapshots").fetchone()[0])
    except sqlite3.Error:
        assets = 0
    names = (f"{path.name}.{why}-{wall}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
    target = next(t for name in names if not (t := path.with_name(name)).exists())  # a rename would replace it
    # The main file last: a -wal without one would be deleted by SQLite, had we died between the two.
    for suffix in ("-wal", "-shm", ""):
        part = Path(f"{path}{suffix}")
        if part.exists():
            part.rename(f"{target}{suffix}")
    _mark(path).unlink(missing_ok=True)
    return target, assets


@contextlib.contextmanager
def open_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """The journal as it stands at one moment, while a daemon may go on writing it. Takes no lock, writes nothing.

    Raises JournalError where there is none or it cannot be read.
    """
    if not path.is_file():
        hint = "the daemon makes it when it starts; is this its configuration, and its environment?"
        raise JournalError("read journal", str(path), "there is no such file", hint=hint, exit_code=EXIT_CONFIG)
    try:
        db = _connect_read_only(path)
    except sqlite3.Error as e:
        hint = "run as the daemon's user: sudo -u edge-rul ..." if "unable to open" in str(e) else ""
        raise JournalError("read journal", str(path), str(e), hint=hint, exit_code=EXIT_CONFIG) from e
    try:
        check_version(path, db)
        yield db
    except sqlite3.Error as e:
        raise JournalError("read journal", str(path), str(e), exit_code=EXIT_CONFIG) from e
    finally:
        db.close()


def _connect_read_only(path: Path) -> sqlite3.Connection:
    options = ["mode=ro"]
    if not Path(f"{path}-wal").exists():
        # Nobody writes it, and a reader without rights in the directory could not make the files of a shared WAL.
        options.append("mode=ro&immutable=1")
    for option in options:
        db = sqlite3.connect(_uri(path, option), uri=True, isolation_level=None)
        try:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot begins with the first read
            return db
        except sqlite3.OperationalError:
            db.close()
            if option == options[-1]:
                raise
    raise AssertionError


def _uri(path: Path, options: str) -> str:
    return f"file:{urllib.parse.quote(str(path))}?{options}"
