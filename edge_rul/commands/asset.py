"""`edge-rul asset`: tell the daemon what became of a machine, by the command topic, and wait for its answer."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import getpass
import os
import platform
import secrets
import sys
from typing import Any

import msgspec

from edge_rul.commands.arguments import add_levels, seconds, usage, whole
from edge_rul.commands.visiting import add_visit, visit
from edge_rul.errors import EXIT_FOUND, EXIT_OK

HELP = "reset or remove an asset, acknowledge or shelve its alarms, by the command topic"
_ACTIONS = {
    "reset": "it was overhauled or replaced: its next reading begins a life",
    "remove": "it is no more: its window, alarms and retained states go",
    "ack": "somebody knows of its alarm",
    "shelve": "no events of its alarm for so many cycles",
}
_WAIT = 10.0  # seconds


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=list(_ACTIONS), help="; ".join(f"{k}: {v}" for k, v in _ACTIONS.items()))
    parser.add_argument("asset", metavar="ASSET")
    add_visit(parser)
    add_levels(parser)
    parser.add_argument("--alarm", metavar="NAME", help="for ack and shelve: one alarm (all of the asset's)")
    parser.add_argument("--cycles", type=whole(0, 1_000_000), metavar="N", help="for shelve: how many; 0 ends it")
    parser.add_argument("--why", required=True, metavar="TEXT", help="kept with the command: a work order, a reason")
    parser.add_argument("--who", default=None, metavar="NAME", help="kept with the command (you, on this machine)")
    parser.add_argument("--wait", type=seconds, default=_WAIT, metavar="S", help=f"for the answer ({_WAIT:g})")
    parser.add_argument("--json", action="store_true", help="the answer as it came, on stdout")


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings

    if args.alarm is not None and args.action not in ("ack", "shelve"):
        return usage("asset", f"{args.action} takes no --alarm")
    if (args.cycles is not None) != (args.action == "shelve"):
        return usage("asset", "shelve takes --cycles N, and nothing else does")
    settings, source = load_settings(args.config)
    if settings.topics.command is None:
        raise source.error("topics.command", "the daemon takes no commands", "name a topic, and restart it")
    token = secrets.token_hex(8)
    reply_to = f"{settings.topics.command}/reply/{token}"
    command = {
        **{"command": args.action, "asset": args.asset, "levels": dict(args.level)},
        **{"who": args.who or _who(), "why": args.why, "reply_to": reply_to, "id": token},
    }
    command |= {key: value for key in ("alarm", "cycles") if (value := getattr(args, key)) is not None}
    with visit(args, settings, source) as there:
        if refused := there.subscribe([reply_to]):
            print(f"edge-rul asset: the broker lets us not read the answer: {refused[reply_to]}", file=sys.stderr)
            return EXIT_FOUND
        there.publish(settings.topics.command, msgspec.json.encode(command), reply_to=reply_to)
        reply = next((heard.payload for heard in there.listen(args.wait)), None)
    if reply is None:
        print(
            f"edge-rul asset: no answer within {args.wait:g} s. The broker has the command, and a daemon that is away "
            "carries it out when it comes back: see `edge-rul status`",
            file=sys.stderr,
        )
        return EXIT_FOUND
    answer: dict[str, Any] = msgspec.json.decode(reply)
    if args.json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    elif answer["ok"]:
        print(f"{args.action} {args.asset}: done")
    else:
        print(f"edge-rul asset: the daemon refuses: {answer['error']}", file=sys.stderr)
    return EXIT_OK if answer["ok"] else EXIT_FOUND


def _who() -> str:
    """The person behind sudo, where there is one."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        name = str(os.getuid())
    return f"{name}@{platform.node()}"
