"""`edge-rul install-service`: systemd's unit in place, and out again."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_rul.commands.arguments import usage

HELP = "put the systemd unit, its user and directories in place"

_BUNDLE = Path("/opt/edge-rul/bundles/cmapss_fd001")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR instead of /")
    parser.add_argument(
        "--venv", type=Path, default=Path(sys.prefix), metavar="DIR", help="environment to run from (this one)"
    )
    parser.add_argument(
        "--bundle", type=Path, default=_BUNDLE, metavar="DIR", help=f"for a new edge-rul.yaml ({_BUNDLE})"
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--engine", choices=("auto", "onnxruntime", "openvino"), default="auto", help="on the CPU: the drop-in (auto)"
    )
    device.add_argument("--gpu", choices=("desktop", "jetson"), help="the drop-in that lets the service see a GPU")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--undo", action="store_true", help="take it back, but for configuration and state")
    parser.add_argument("--purge", action="store_true", help="with --undo: configuration, state and user too")


def run(args: argparse.Namespace) -> int:
    from edge_rul.install import Choice, install_command

    if args.purge and not args.undo:
        return usage("install-service", "--purge goes with --undo")
    choice = Choice(args.root.resolve(), args.venv, args.bundle, args.engine, args.gpu, args.dry_run)
    return install_command(choice, undo=args.undo, purge=args.purge)
