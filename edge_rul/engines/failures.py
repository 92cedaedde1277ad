"""How often the GPU was lost of late, so that a box with a dying GPU serves from its CPU and does not restart for ever.

Owns the record beside the engines, and the rule. Must not know CUDA.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edge_rul.engines import Say
from edge_rul.engines.cache import write_json
from edge_rul.kept import load

_FILE = "gpu-failures.json"
LIMIT = 3
WITHIN = 3600.0  # seconds; older failures are forgotten, and the GPU is tried again


class Failures(msgspec.Struct, frozen=True):
    """times: seconds since 1970, of processes that ended with a fatal CUDA error."""

    times: list[float]


def record_failure(cache: Path, say: Say) -> None:
    recent = _recent(cache, time.time())
    write_json(cache / _FILE, Failures([*recent, time.time()]), say)


def losses(cache: Path) -> int:
    """How many processes the GPU has ended of late, where they are too many for the next start to use it; else 0."""
    recent = len(_recent(cache, time.time()))
    return recent if recent >= LIMIT else 0


def gpu_given_up(cache: Path) -> str | None:
    """Why the next start should not use the GPU, None where it should."""
    if not (lost := losses(cache)):
        return None
    return (
        f"the GPU was lost {lost} times within {WITHIN / 60:.0f} minutes; it is tried again once they are over, "
        f"or when {cache / _FILE} is deleted"
    )


def _recent(cache: Path, now: float) -> list[float]:
    kept = load(cache / _FILE, Failures)
    # A stamp ahead of the clock is none: the clock was set back, and it would never grow old.
    return [t for t in kept.times if 0 <= now - t < WITHIN] if kept else []
