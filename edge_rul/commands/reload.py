"""`edge-rul reload`: make the running daemon read its configuration again.

A configuration that is not valid is refused here already; the daemon checks it once more and keeps the old one.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import os
import signal
import subprocess
from pathlib import Path

from edge_rul.commands.arguments import whole
from edge_rul.errors import EXIT_OK, EdgeRulError

HELP = "make the running daemon read its configuration again"


def add(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--unit", default="edge-rul.service", metavar="NAME", help="systemd's (edge-rul.service)")
    which.add_argument("--pid", type=whole(2), metavar="N", help="a daemon that runs without systemd")
    parser.add_argument("--config", type=Path, metavar="FILE", help="check this file first")


def run(args: argparse.Namespace) -> int:
    if args.config is not None:
        from edge_rul.config import load_settings

        load_settings(args.config)
    if args.pid is not None:
        _hang_up(args.pid)
    else:
        _reload(args.unit)
    print(f"told {args.unit if args.pid is None else args.pid}; its log and `edge-rul status` say what came of it")
    return EXIT_OK


def _hang_up(pid: int) -> None:
    """Raises EdgeRulError where this is no daemon of ours: SIGHUP ends a program that does not expect it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        if not ({"run", "--config"} <= set(words) and any("edge-rul" in word or "edge_rul" in word for word in words)):
            problem = f"is no `edge-rul run`: {' '.join(words).strip() or 'a kernel thread'}"
            raise EdgeRulError("reload", f"process {pid}", problem, hint="SIGHUP would end it")
        os.kill(pid, signal.SIGHUP)
    except OSError as e:
        problem = "there is no such process" if isinstance(e, FileNotFoundError | ProcessLookupError) else str(e)
        raise EdgeRulError("reload", f"process {pid}", problem) from None


def _reload(unit: str) -> None:
    try:
        done = subprocess.run(["systemctl", "reload", unit], capture_output=True, text=True, check=False)
    except OSError as e:
        raise EdgeRulError("reload", unit, f"systemctl cannot be run: {e.strerror}", hint="--pid N") from None
    if done.returncode:
        problem = done.stderr.strip() or f"systemctl ended with {done.returncode}"
        raise EdgeRulError("reload", unit, problem, hint="without systemd: --pid N; `systemctl status` tells more")
