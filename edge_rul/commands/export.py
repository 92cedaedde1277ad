"""`edge-rul export`: an asset out of the journal."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import time

from edge_rul.commands.arguments import add_config, add_levels, table, usage

HELP = "an asset's readings and predictions out of the journal"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("asset", metavar="ASSET")
    add_config(parser, "the daemon's, which may run")
    add_levels(parser)
    parser.add_argument(
        "--since", metavar="TIME", help="readings of this time on: 2026-01-31T12:00, or 6h, 2d, 30m ago"
    )
    parser.add_argument("--out", type=table, metavar="FILE", help=".csv or .parquet (CSV on stdout)")


def run(args: argparse.Namespace) -> int:
    from edge_rul.lookback import export_command, parse_since

    try:
        since = None if args.since is None else parse_since(args.since, time.time())
    except ValueError as e:
        return usage("export", f"--since: {e}")
    return export_command(args.config, args.asset, dict(args.level), since, args.out)
