"""Files written whole or not at all.

Owns the draft beside the file and its removal. Must not know what is in a file, or who reads it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write the file so that a reader finds the old content or the new, never a part; also where several write at once.

    mode: from the first byte on no wider than this. durable: the content is on the disk before it has the name, so that
    a power failure leaves no empty file; not needed for what can be done without. Raises OSError, and leaves no draft.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # for its owner alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
