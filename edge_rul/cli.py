"""The commands' names; errors to messages and exit codes. No domain in here.

What a command takes and calls stands in `commands`, one module each. It imports what it needs when it runs, so that
`edge-rul run` never loads torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol

from edge_rul import __version__
from edge_rul.commands import (
    asset,
    calibrate,
    check,
    doctor,
    evaluate,
    export,
    install_service,
    model,
    reload,
    rescore,
    run,
    simulate,
    status,
    train,
)
from edge_rul.commands import compile as compile_
from edge_rul.commands.arguments import Parser
from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, EXIT_OK, EdgeRulError


class Command(Protocol):
    """A module of `commands`."""

    HELP: str

    def add(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


COMMANDS: dict[str, Command] = {
    "run": run,
    "check": check,
    "status": status,
    "doctor": doctor,
    "asset": asset,
    "reload": reload,
    "train": train,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "model": model,
    "export": export,
    "rescore": rescore,
    "compile": compile_,
    "simulate": simulate,
    "install-service": install_service,
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="edge-rul", description="Remaining useful life, health and alarms, next to the machine.")
    parser.add_argument("--version", action="version", version=f"edge-rul {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        command.add(commands.add_parser(name, help=command.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code = COMMANDS[args.command].run(args)
        sys.stdout.flush()  # here, and not at the interpreter's end, where a closed pipe could not be caught
        return code
    except EdgeRulError as e:
        print(f"edge-rul: {e}", file=sys.stderr)
        return e.exit_code
    except ModuleNotFoundError as e:
        if e.name not in {"torch", "onnx", "rich", "matplotlib", "sklearn"}:
            raise
        print(f"edge-rul: {args.command} needs {e.name}\n  hint: pip install 'edge-rul[train]'", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        print(f"edge-rul: internal error: {e!r}", file=sys.stderr)
        traceback.print_exc()
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
