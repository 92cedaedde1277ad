"""The machine: clock, disk, GPU, engine libraries, engine cache.

Owns what is looked at here and the words for it. Must not know a broker, nor load an engine's library.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_rul.config import EngineSettings, JournalSettings
from edge_rul.doctor import Finding, bad, note, ok
from edge_rul.engines.auto import nvidia_driver
from edge_rul.engines.choose import ON_GPU, cache_directory, installed
from edge_rul.engines.failures import gpu_given_up

_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvhost-gpu", "/dev/nvmap")
_MEMORY = {"tmpfs", "ramfs"}
_GIB = 1024**3


def clock(synchronised: bool | None) -> Finding:
    """synchronised: what the kernel says of its clock; None where it does not say."""
    if synchronised is None:
        return note("clock", "the kernel does not tell whether it is synchronised", "`timedatectl` may")
    if not synchronised:
        return bad(
            "clock",
            "not synchronised: readings can look as if they came from the future, and event times mean little",
            "run chrony or systemd-timesyncd (`timedatectl`); a box without a battery clock boots in the past",
        )
    return ok("clock", "synchronised")


def disk(state: Path, settings: JournalSettings, mounts: str = "/proc/self/mounts") -> Finding:
    """Where the journal lies, or will: the nearest directory that is there already."""
    there = next(path for path in (state.absolute(), *state.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{state}: {free / _GIB:.1f} GiB free"
    if (kind := _file_system(there, mounts)) in _MEMORY:
        hint = "set journal.directory, or systemd's StateDirectory, to a directory on a disk"
        return bad("disk", f"{said}, and it is {kind}, in memory: a restart of the machine loses the journal", hint)
    if not os.access(there, os.W_OK | os.X_OK):
        return bad(
            "disk", f"{state}: we may not write there", "run this as the daemon's user, or set journal.directory"
        )
    if free < settings.min_free:
        hint = "make room: below journal.min_free nothing is taken in and nothing acknowledged"
        return bad("disk", f"{said}, below journal.min_free, {settings.min_free / _GIB:.2f} GiB", hint)
    kept = _size(state)
    if free + kept < settings.min_free + settings.keep_bytes:
        hint = "lower journal.keep_bytes or journal.keep_hours, or make room"
        return note("disk", f"{said}, less than journal.keep_bytes and min_free may come to take", hint)
    return ok("disk", said)


def _file_system(path: Path, mounts: str) -> str:
    """Of the longest mount point above `path`; "" where that cannot be read."""
    best, kind = "", ""
    try:
        rows = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for row in rows:
        point, type_ = row.split()[1:3]
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_
    return kind


def _size(directory: Path) -> int:
    """Bytes of the files in it, as far as we may see them."""
    try:
        return sum(p.stat().st_size for p in directory.iterdir() if p.is_file())
    except OSError:
        return 0


def engines(settings: EngineSettings, base: Path) -> Iterator[Finding]:
    """What the settings ask for against what is installed and what GPU is there. base: of a relative engine.cache."""
    here = installed()
    yield ok("engines", ", ".join(f"{name} {version}" for name, version in here.items()) or "none is installed")
    driver = nvidia_driver()
    wanted = settings.name in ON_GPU or settings.provider != "cpu" or settings.require_gpu
    if not driver and wanted:
        hint = "install NVIDIA's driver (`nvidia-smi` must work), or take engine: {name: auto} to serve from the CPU"
        yield bad("GPU", f"engine.name {settings.name} wants one, and there is no NVIDIA driver", hint)
    elif not driver:
        yield ok("GPU", "none, and the configuration wants none")
    elif closed := [name for name in _DEVICES if Path(name).exists() and not os.access(name, os.R_OK | os.W_OK)]:
        hint = "the daemon's user needs the groups video and render: `edge-rul install-service --gpu ...`"
        yield (bad if wanted else note)("GPU", f"{driver}; we may not use {', '.join(closed)}", hint)
    elif not wanted and not set(ON_GPU) & set(here):
        hint = "pip install 'edge-rul[tensorrt-rtx]', or [tensorrt]; docs/engines.md says which"
        yield note("GPU", f"{driver}; it is not used, as no TensorRT is installed", hint)
    else:
        yield ok("GPU", driver)
    if wanted and settings.name in ON_GPU and settings.name not in here:
        extra = settings.name.replace("_", "-")
        yield bad(
            "TensorRT", f"engine.name is {settings.name}, which is not installed", f"pip install 'edge-rul[{extra}]'"
        )
    yield _cache(cache_directory(settings, base))


def _cache(directory: Path) -> Finding:
    if why := gpu_given_up(directory):
        return bad("engine cache", why, "look for Xid in `dmesg`: heat, power and a failing card are the usual causes")
    if not directory.is_dir():
        return ok("engine cache", f"{directory}: not there yet; the first start makes it")
    built = sorted(path.stem for path in directory.glob("*.engine"))
    said = f"{directory}: {len(built)} engines, {_size(directory) / 1024**2:.1f} MiB"
    if not os.access(directory, os.W_OK | os.X_OK):
        return bad(
            "engine cache", f"{said}; we may not write there", "run this as the daemon's user, or set engine.cache"
        )
    return ok("engine cache", said)
