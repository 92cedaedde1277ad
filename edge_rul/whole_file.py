"""Files written whole or not at all.

Owns the draft beside the file and its removal. Must not know what is in a file, or who reads it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, *, mode: int | None = None, durable: bool = True) -> None:
    """Write the file so that a reader finds the old content or the new, never a part; also where several write at once.

    mode: whatever the umask says, and from the first byte on no wider; None leaves it to the umask, as for any new file
    (the service's is 077). durable: the content is on the disk before it has the name, so that a power failure leaves
    no empty file; not needed for what can be done without. Raises OSError, and leaves no draft.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    handle = os.open(draft, flags, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
