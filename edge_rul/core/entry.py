"""What came in and counts: the entries, and their form in a journal.

Owns which kinds there are and how each is written, so that a journal of an earlier version can still be read. Knows no
journal and no seq.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edge_rul.core.assemble import Overdue
from edge_rul.core.command import Command, ReplyTo
from edge_rul.core.dead_letter import Refused
from edge_rul.core.payload import Part, Reading
from edge_rul.core.standing import Stale
from edge_rul.core.topic import Asset
from edge_rul.errors import Reason

AssetEntry = Reading | Part | Overdue | Command | Stale


class BundleChange(msgspec.Struct, frozen=True):
    """Another bundle, or the same on another engine, answers what comes after. name, sha256: of its manifest.

    since: seq after which it answered already, None where that is this entry's own: after a start with another bundle,
    the watermark; where a bundle failed at its first windows, the change that it came with.
    """

    name: str
    sha256: str
    since: int | None = None


Entry = AssetEntry | Refused | BundleChange

# _RESET: a command of 0.1, without who and why.
_READING, _RESET, _REFUSED, _COMMAND, _STALE, _BUNDLE, _PART, _OVERDUE = range(8)
# An asset and the other fields as they are.
_PLAIN: dict[int, type[Stale | Part | Overdue]] = {_STALE: Stale, _PART: Part, _OVERDUE: Overdue}
_KINDS = {made: kind for kind, made in _PLAIN.items()}
_encode = msgspec.msgpack.Encoder().encode


def pack(entry: Entry) -> bytes:
    """The entry as a journal keeps it: an array in MessagePack, values as little-endian float32."""
    if isinstance(entry, Refused):
        return _encode((_REFUSED, *msgspec.structs.astuple(entry)))
    if isinstance(entry, BundleChange):
        return _encode((_BUNDLE, entry.name, entry.sha256, entry.since))
    asset = (entry.asset.name, entry.asset.levels)
    if isinstance(entry, Command):
        more = (entry.alarm, entry.cycles, *([True] if entry.again else []))
        return _encode((_COMMAND, *asset, entry.action, entry.who, entry.why, entry.reply_to, *more))
    if not isinstance(entry, Reading):
        return _encode((_KINDS[type(entry)], *asset, *msgspec.structs.astuple(entry)[1:]))
    values = entry.values.astype("<f4", copy=False).tobytes()
    key = () if entry.key == "cycle" else (entry.key,)  # nearly all have a number: it costs them nothing
    return _encode((_READING, *asset, entry.cycle, entry.time, values, entry.source, entry.received, *key))


def unpack(data: bytes) -> Entry:
    """The entry that `pack` gave, of this version or an earlier one. Raises ValueError for anything else."""
    try:
        kind, *rest = msgspec.msgpack.decode(data)
        if kind == _REFUSED:
            reason, topic, problem, payload, size, reply_to = rest
            return Refused(Reason(reason), topic, problem, payload, size, _reply_to(reply_to))
        if kind == _BUNDLE:
            bundle, sha256, *since = rest
            return BundleChange(str(bundle), str(sha256), *since)
        name, levels, *rest = rest
        asset = Asset(name, tuple((str(key), str(value)) for key, value in levels))
        if kind == _RESET:
            return Command("reset", asset)
        if kind == _COMMAND:
            action, who, why, reply_to, *more = rest
            return Command(action, asset, who, why, _reply_to(reply_to), *more)
        if (made := _PLAIN.get(kind)) is not None:
            return made(asset, *rest)
        if kind != _READING:
            raise ValueError(f"of kind {kind}")
        cycle, time, values, *more = rest  # a journal of 0.1 has no more
        return Reading(asset, cycle, time, np.frombuffer(values, "<f4").astype(np.float32), *more)
    except (msgspec.DecodeError, TypeError, ValueError) as e:
        raise ValueError(f"not an entry: {e}") from None


def _reply_to(stored: list[Any] | None) -> ReplyTo | None:
    return None if stored is None else ReplyTo(*stored)
