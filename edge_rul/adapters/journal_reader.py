"""A journal read beside the daemon that writes it: what one asset sent, and its state as it was last stored.

Owns the queries of a reader. All answers are of one moment, and neither the journal's lock nor its file is touched.
Knows an entry only as what the core unpacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import msgspec

from edge_rul.adapters.journal_file import open_read_only
from edge_rul.core.entry import AssetEntry, unpack
from edge_rul.core.tail import Numbered
from edge_rul.core.topic import Asset
from edge_rul.errors import EXIT_CONFIG, JournalError


@contextmanager
def read_journal(path: Path) -> Iterator[JournalReader]:
    """path: the file. Raises JournalError where it is missing, another program's or unreadable."""
    with open_read_only(path) as db:
        yield JournalReader(path, db)


class JournalReader:
    """id: the journal's. inputs: names of the inputs of its readings, in order, () where it does not say."""

    def __init__(self, path: Path, db: Connection) -> None:
        self._path = path
        self._db = db
        meta: dict[str, Any] = dict(db.execute("SELECT key, value FROM meta"))
        self.id = str(meta["id"])
        self.inputs: tuple[str, ...] = tuple(msgspec.json.decode(meta.get("inputs", "[]"), type=list[str]))
        self._watermark, self._valid = int(meta["watermark"]), int(meta["snapshot"])

    def counts(self) -> dict[str, Any]:
        """How far it has come, and how many rows it has."""
        first, last, entries = self._db.execute("SELECT min(seq), max(seq), count(*) FROM entries").fetchone()
        rows = {
            table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("snapshots", "alarms")
        }
        known = {"id": self.id, "inputs": self.inputs, "watermark": self._watermark, "valid": self._valid}
        return {**known, "first": first, "last": last, "entries": entries, **rows}

    def assets(self) -> list[Asset]:
        """All that have a snapshot or have sent something since, sorted."""
        found = {decode_key(key) for (key,) in self._db.execute("SELECT DISTINCT asset FROM snapshots")}
        entries = (n.entry for n in self._entries("seq > ?", self._valid))
        found.update(entry.asset for entry in entries if isinstance(entry, AssetEntry))
        return sorted(found)

    def snapshot(self, asset: Asset) -> tuple[int, bytes] | None:
        """(seq, state) of its newest snapshot that counts, or None; also where it was removed since."""
        query = "SELECT seq, state FROM snapshots WHERE asset = ? AND seq <= ? ORDER BY id DESC LIMIT 1"
        found: tuple[int, bytes] | None = self._db.execute(query, (encode_key(asset), self._watermark)).fetchone()
        return found if found and found[1] else None

    def entries(self, asset: Asset) -> Iterator[Numbered]:
        """The asset's entries that are kept, in order. Raises JournalError where one is damaged."""
        # SQLite looks for the packed name first: to unpack a million entries in Python takes seconds.
        name = msgspec.msgpack.encode(asset.name)
        entries = self._entries("instr(entry, ?) > 0", name)
        return (n for n in entries if isinstance(n.entry, AssetEntry) and n.entry.asset == asset)

    def reached(self, wall: float) -> int:
        """The seq that had come in by `wall`, epoch seconds, to the minute before."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM marks WHERE time <= ?", (wall,)).fetchone()[0])

    def _entries(self, where: str, value: object) -> Iterator[Numbered]:
        for seq, data in self._db.execute(f"SELECT seq, entry FROM entries WHERE {where} ORDER BY seq", (value,)):
            try:
                yield Numbered(seq, unpack(data))
            except ValueError as e:
                problem = f"entry {seq} is damaged: {e}"
                raise JournalError("read journal", str(self._path), problem, exit_code=EXIT_CONFIG) from None


def encode_key(asset: Asset) -> bytes:
    """An asset as the tables name it."""
    return msgspec.msgpack.encode((asset.name, asset.levels))


def decode_key(key: bytes) -> Asset:
    name, levels = msgspec.msgpack.decode(key, type=tuple[str, tuple[tuple[str, str], ...]])
    return Asset(name, levels)
