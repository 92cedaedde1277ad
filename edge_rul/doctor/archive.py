"""One file for a support case: versions, configuration, findings, counters, last errors, and no secret.

Owns what goes in and the sieve that everything passes. Must not know where any of it comes from.
"""

from __future__ import annotations

import io
import os
import platform
import re
import tarfile
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from edge_rul import __version__
from edge_rul.whole_file import write_whole

_MASK = "[removed]"
_LONG = 6  # characters from which a secret is looked for inside of words too


def about() -> dict[str, Any]:
    """Versions of program, Python, system and packages. Not the machine's name."""
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {
        "edge_rul": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def listing(directory: Path) -> list[dict[str, Any]]:
    """The files of a directory, by name, with size and age in seconds; empty where we may not look."""
    now = time.time()
    try:
        found = sorted((p.name, p.stat()) for p in directory.iterdir())
    except OSError:
        return []
    return [
        {"name": name, "bytes": s.st_size, "age": round(now - s.st_mtime), "mode": f"{s.st_mode:o}"}
        for name, s in found
    ]


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a text file, or why not."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError as e:
        return f"{path} cannot be read: {e.strerror}\n"


def write(path: Path, parts: Mapping[str, Any], secrets: Iterable[str]) -> int:
    """A tar.gz that only its owner may read, whole or not at all. Returns its bytes.

    parts: file name -> text, or what becomes JSON. secrets: what must be in none of them.
    """
    sieve = _Sieve(secrets)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, part in parts.items():
            if isinstance(part, str):
                data = sieve.text(part).encode("utf-8", "replace")
            else:
                data = msgspec.json.format(msgspec.json.encode(sieve.inside(part)))
            info = tarfile.TarInfo(f"edge-rul-support/{name}")
            info.size, info.mode, info.mtime = len(data), 0o600, round(time.time())
            archive.addfile(info, io.BytesIO(data))
    write_whole(path, packed.getbuffer(), mode=0o600)
    return len(packed.getbuffer())


class _Sieve:
    """Takes secrets out: of the texts in a value before it becomes JSON, and out of text that may hold JSON itself."""

    def __init__(self, secrets: Iterable[str]) -> None:
        words = set()
        for secret in secrets:
            lines = secret.split("\n")
            # Of a key's many lines the last may be `==`, which tells nothing and would eat much.
            words |= {line for line in map(str.strip, lines) if line and (len(lines) == 1 or len(line) >= _LONG)}
        words |= {msgspec.json.encode(word).decode()[1:-1] for word in words}
        # A short secret is taken out where it stands alone: a password `a` must not eat every a.
        patterns = [
            re.escape(word) if len(word) >= _LONG else rf"(?<!\w){re.escape(word)}(?!\w)"
            for word in sorted(words, key=len, reverse=True)
        ]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def text(self, text: str) -> str:
        return self._pattern.sub(_MASK, text) if self._pattern else text

    def inside(self, part: Any) -> Any:
        part = msgspec.to_builtins(part)
        if isinstance(part, dict):
            return {self.text(str(key)): self.inside(value) for key, value in part.items()}
        if isinstance(part, list):
            return [self.inside(value) for value in part]
        return self.text(part) if isinstance(part, str) else part
