"""`edge-rul evaluate`: a bundle's error."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a bundle's error on lives that it has not seen, beside a tree's"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the directory with the data set's files, or a table"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write the figures there as HTML with plots, and as JSON"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import evaluate_command

    return evaluate_command(args.bundle, args.data, json=args.json, report=args.report)
