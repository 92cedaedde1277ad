"""`edge-rul calibrate`: new intervals for a bundle."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a bundle with new intervals, without training it again"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data that it was trained on")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write")
    parser.add_argument("--level", type=_share, default=0.9, metavar="P", help="share of windows that they hold (0.9)")
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, such as 0.9, found {text!r}")
    return share


def run(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import calibrate_command

    return calibrate_command(args.bundle, args.data, args.out, level=args.level, force=args.force)
