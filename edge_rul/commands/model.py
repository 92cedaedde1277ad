"""`edge-rul model summary`: the network's stages."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse

from edge_rul.commands.arguments import Parser, whole
from edge_rul.errors import EXIT_OK

HELP = "about the network"


def add(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND", parser_class=Parser)
    summary = commands.add_parser("summary", help="its stages, shapes and parameters")
    summary.add_argument("--c-in", type=whole(1), default=14, metavar="N", help="inputs (14)")
    summary.add_argument("--window", type=whole(1), default=30, metavar="T", help="cycles in a window (30)")
    summary.add_argument("--classes", type=whole(1), default=3, metavar="C", help="health classes (3)")


def run(args: argparse.Namespace) -> int:
    from edge_rul.model.summary import summary

    print(summary(args.c_in, args.window, args.classes))
    return EXIT_OK
