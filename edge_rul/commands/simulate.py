"""`edge-rul simulate`: a fleet to try things with."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

from edge_rul.commands.arguments import whole

HELP = "publish a fleet of simulated engines"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=whole(1, 65535), default=1883)
    parser.add_argument("--mqtt", choices=("5", "3.1.1"), default="5", dest="version", help="protocol version (5)")
    parser.add_argument("--topic", default="plant/{line}/{asset}/cycle", metavar="TEMPLATE")
    parser.add_argument("--username")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--assets", type=whole(1), default=12, metavar="N")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="cycles a second of each engine (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=whole(0), default=30, metavar="N", help="cycles sent at once first (30)")
    parser.add_argument("--cycles", type=whole(0), default=None, metavar="N", help="stop after N cycles of each engine")


def run(args: argparse.Namespace) -> int:
    from edge_rul.simulate import simulate_command

    return simulate_command(**{key: value for key, value in vars(args).items() if key != "command"})
