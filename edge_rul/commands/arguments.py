"""What the commands' arguments have in common: the parser's exit code, and the types of values. Knows no command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from edge_rul.errors import EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """Argparse's own exit code for wrong usage is 2, ours 64."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def usage(command: str, problem: str) -> int:
    """Say on stderr what is wrong with the arguments. Returns the exit code."""
    print(f"edge-rul {command}: {problem}", file=sys.stderr)
    return EXIT_USAGE


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument's type: a whole number from `low`, to `high` where there is one."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            expected = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected a whole number {expected}, found {text!r}")
        return value

    return parse


def seconds(text: str) -> float:
    """An argument's type: how long to wait, from 0.1 s to an hour."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, found {text!r}")
    return value


def level(text: str) -> tuple[str, str]:
    """An argument's type: NAME=VALUE, a level of an asset's topic."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def table(text: str) -> Path:
    """An argument's type: the name of a CSV or Parquet file."""
    if Path(text).suffix not in (".csv", ".parquet"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv or .parquet, found {text!r}")
    return Path(text)


def add_config(parser: argparse.ArgumentParser, help_: str | None = None) -> None:
    """The daemon's configuration, which most commands read."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=help_)


def add_levels(parser: argparse.ArgumentParser) -> None:
    """What, besides its name, tells one asset from another."""
    parser.add_argument(
        "--level", type=level, action="append", default=[], metavar="NAME=VALUE", help="a level of its topic, line=A"
    )
