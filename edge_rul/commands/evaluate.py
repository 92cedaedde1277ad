"""`edge-rul evaluate`: a bundle's error."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a bundle's error on its data set's test lives"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the directory with the data set's files, or a table"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import evaluate_command

    return evaluate_command(args.bundle, args.data, json=args.json)
