"""How many threads an engine may use on this machine.

Owns the two limits that a process has: the CPUs that it may run on, and the share of them that its control group
grants. Must not know any engine.
"""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_threads(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """CPUs that this process may run on, or its cgroup's `cpu.max` in whole CPUs where that is less; at least 1.

    More threads than the quota's CPUs would be stopped together for the rest of each period.
    """
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus, int(_quota(groups, own, float(cpus)))))


def _quota(groups: Path, own: Path, without: float) -> float:
    """CPUs that control groups version 2 grant to us, the least of our group's and its parents'."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return without
    # 0::/system.slice/edge-rul.service; lines of other hierarchies are version 1.
    inside = next((line[3:] for line in lines if line.startswith("0::")), None)
    if inside is None:
        return without
    group = groups / inside.strip("/")
    granted = without
    for directory in (group, *group.parents):
        if directory != groups and groups not in directory.parents:
            break
        try:
            quota, period = (directory / "cpu.max").read_text(encoding="ascii").split()
            granted = min(granted, int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such file at the root; "max" is no number
    return granted
