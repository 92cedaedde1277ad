"""`edge-rul run`: the daemon."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse

from edge_rul.commands.arguments import add_config

HELP = "serve: cycles in over MQTT, predictions and alarms out"


def add(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from edge_rul.daemon import run as daemon

    return daemon(args.config)
