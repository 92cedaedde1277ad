"""The machine: clock, disk, bundle, the status page's port, GPU, engine libraries, engine cache.

Owns what is looked at here and the words for it. Must not know a broker, nor load an engine's library.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from edge_rul import bundle as bundles
from edge_rul.config import EngineSettings, JournalSettings
from edge_rul.doctor import Finding, bad, note, ok
from edge_rul.engines.auto import nvidia_driver
from edge_rul.engines.choose import ON_GPU, cache_directory, installed
from edge_rul.engines.failures import gpu_given_up
from edge_rul.errors import BundleError

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
    if why := unusable(state):
        return bad("disk", f"{state}: {why}", "run this as the daemon's user, or set journal.directory")
    there = _nearest(state)
    free = shutil.disk_usage(there).free
    said = f"{state}: {free / _GIB:.1f} GiB free"
    if (kind := _file_system(there, mounts)) in _MEMORY:
        hint = "set journal.directory, or systemd's StateDirectory, to a directory on a disk"
        return bad("disk", f"{said}, and it is {kind}, in memory: a restart of the machine loses the journal", hint)
    if free < settings.min_free:
        hint = "make room: below journal.min_free nothing is taken in and nothing acknowledged"
        return bad("disk", f"{said}, below journal.min_free, {settings.min_free / _GIB:.2f} GiB", hint)
    kept = _size(state)
    if free + kept < settings.min_free + settings.keep_bytes:
        hint = "lower journal.keep_bytes or journal.keep_hours, or make room"
        return note("disk", f"{said}, less than journal.keep_bytes and min_free may come to take", hint)
    return ok("disk", said)


def unusable(directory: Path) -> str:
    """Why we could not make the directory or write in it, or "". Nothing is made here."""
    there = _nearest(directory)
    if not there.is_dir():
        return f"{there} is no directory"
    if not os.statvfs(there).f_blocks:
        return f"{there} keeps no files"  # such as /proc
    return "" if os.access(there, os.W_OK | os.X_OK) else f"we may not write to {there}"


def _nearest(path: Path) -> Path:
    """The path, or what is there already of those above it."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.lexists(p))


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
    if why := unusable(directory):
        return bad("engine cache", f"{directory}: {why}", "run this as the daemon's user, or set engine.cache")
    if not directory.is_dir():
        return ok("engine cache", f"{directory}: not there yet; the first start makes it")
    built = sorted(path.stem for path in directory.glob("*.engine"))
    return ok("engine cache", f"{directory}: {len(built)} engines, {_size(directory) / 1024**2:.1f} MiB")


def bundle(directory: Path) -> Finding:
    """Whether it is whole, as the daemon reads it."""
    try:
        found = bundles.load(directory)
    except BundleError as e:
        return bad("bundle", f"{e.object}: {e.problem}", e.hint or "bring the bundle again, or mend `bundle`")
    return ok("bundle", f"{found.manifest.name}, sha256 {found.sha256[:12]}")


def port(host: str, number: int) -> Finding:
    """Whether the status page's can be had. Asked only while no daemon is known to have it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            tried.bind(address)
    except OSError as e:
        hint = "`ss -ltnp` says who has it, unless it is this daemon; choose another http.host or http.port"
        return bad("status page", f"{host}:{number}: {e.strerror}", hint)
    return ok("status page", f"{host}:{number} is free")
