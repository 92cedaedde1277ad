"""Small JSON files that the daemon keeps from one start to the next, and can do without.

Owns how they are read and written. A file that cannot be read counts as absent. Must not know what is in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_rul.whole_file import write_whole

T = TypeVar("T")


def load(path: Path, type: type[T]) -> T | None:
    """The file's content, None where it is absent, cannot be read or is not of this type."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except (OSError, ValueError):  # text that is not UTF-8 too, which is no DecodeError
        return None


def save(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write the file, so that a reader finds the old content or the new; where `durable`, also after a power failure.
    Raises OSError."""
    write_whole(path, msgspec.json.encode(value), durable=durable)
