"""What came in and counts: the entries, and their form in a journal.

Owns which kinds there are and how each is written, so that a journal of an earlier version can still be read. Knows no
journal and no seq.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edge_rul.core.dead_letter import Refused
from edge_rul.core.payload import Reading, Reset
from edge_rul.core.topic import Asset
from edge_rul.errors import Reason

AssetEntry = Reading | Reset
Entry = AssetEntry | Refused

_READING, _RESET, _REFUSED = range(3)
_encode = msgspec.msgpack.Encoder().encode


def pack(entry: Entry) -> bytes:
    """The entry as a journal keeps it: an array in MessagePack, values as little-endian float32."""
    if isinstance(entry, Refused):
        return _encode((_REFUSED, *msgspec.structs.astuple(entry)))
    asset = (entry.asset.name, entry.asset.levels)
    if isinstance(entry, Reset):
        return _encode((_RESET, *asset))
    values = entry.values.astype("<f4", copy=False).tobytes()
    return _encode((_READING, *asset, entry.cycle, entry.time, values, entry.source))


def unpack(data: bytes) -> Entry:
    """The entry that `pack` gave, of this version or an earlier one. Raises ValueError for anything else."""
    try:
        kind, *rest = msgspec.msgpack.decode(data)
        if kind == _REFUSED:
            reason, *kept = rest
            return Refused(Reason(reason), *kept)
        name, levels, *rest = rest
        asset = Asset(name, tuple((str(key), str(value)) for key, value in levels))
        if kind == _RESET:
            return Reset(asset)
        if kind != _READING:
            raise ValueError(f"of kind {kind}")
        cycle, time, values, *source = rest  # a journal of 0.1 has no source
        return Reading(asset, cycle, time, np.frombuffer(values, "<f4").astype(np.float32), *source)
    except (msgspec.DecodeError, TypeError, ValueError) as e:
        raise ValueError(f"not an entry: {e}") from None
