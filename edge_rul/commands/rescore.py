"""`edge-rul rescore`: an export through another bundle."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

from edge_rul.commands.arguments import table, whole

HELP = "an export's readings through another bundle, side by side"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=table, metavar="FILE", help="of `edge-rul export`, .csv or .parquet")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    parser.add_argument("--max-gap", type=whole(0), metavar="N", help="as windows.max_gap")
    parser.add_argument(
        "--beyond-gap", choices=("restart", "span"), default="restart", help="as windows.beyond_gap (restart)"
    )
    parser.add_argument(
        "--seconds-per-cycle", type=float, metavar="S", help="as windows.seconds_per_cycle, the bundle's by default"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, with every row")
    parser.add_argument("--out", type=table, metavar="FILE", help="write every row, .csv or .parquet")


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import WindowSettings
    from edge_rul.lookback import rescore_command

    windows = WindowSettings(
        max_late=0, max_gap=args.max_gap, beyond_gap=args.beyond_gap, seconds_per_cycle=args.seconds_per_cycle
    )
    return rescore_command(args.file, args.bundle, windows, json=args.json, out=args.out)
