"""How often the daemon has started on its state directory, and how often it had not ended in order before.

Owns one small file. One that cannot be read or written costs the count and nothing else; one that is there and cannot
be read tells of no orderly end, which would have left it whole. Call it only while the directory is locked.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from edge_rul.kept import load, save


class _Kept(msgspec.Struct):
    starts: int = 0
    unclean: int = 0
    running: bool = False


class Starts:
    """The counts, this start among them. `ended` is the last thing of an orderly end. unclean: this start follows on
    none."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "starts.json"
        kept = load(self._path, _Kept) or _Kept(running=self._path.exists())
        self.unclean = kept.running
        self._kept = _Kept(kept.starts + 1, kept.unclean + kept.running, True)
        self._write()

    @property
    def counts(self) -> tuple[int, int]:
        """Starts in all, and those that followed on no orderly end."""
        return self._kept.starts, self._kept.unclean

    def ended(self) -> None:
        self._kept.running = False
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            save(self._path, self._kept, durable=True)  # a power failure is what it has to tell of
