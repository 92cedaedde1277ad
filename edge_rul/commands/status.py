"""`edge-rul status`: whether the daemon serves, and how it does.

It asks over MQTT. Each configuration has a broker, while the status page is there only where `http` is set and only on
this machine; and what is heard is what the plant hears. A broker that is down is told as such, exit code 77.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from edge_rul.commands.arguments import seconds
from edge_rul.commands.visiting import add_visit, visit
from edge_rul.errors import EXIT_FOUND, EXIT_OK
from edge_rul.told import Told, ask

HELP = "whether the daemon serves, and how it does"
WAIT = 12.0  # seconds; statistics come every five


def add(parser: argparse.ArgumentParser) -> None:
    add_visit(parser)
    parser.add_argument("--wait", type=seconds, default=WAIT, metavar="S", help=f"for its next statistics ({WAIT:g})")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings

    settings, source = load_settings(args.config)
    with visit(args, settings, source) as there:
        told = ask(there, settings.topics, args.wait)
    if args.json:
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    else:
        print("\n".join(lines(told, f"{settings.mqtt.client_id} on {settings.mqtt.host}:{settings.mqtt.port}")))
    return EXIT_OK if told.serves else EXIT_FOUND


def lines(told: Told, who: str) -> list[str]:
    """As a person reads it."""
    from edge_rul.adapters.http.words import facts

    status = told.status or {}
    what = f"serves {status['words']}" if "words" in status else "serves"
    said = [f"{who} {what if told.serves else f'does not serve: {told.why}'}"]
    reload = status.get("reload")
    if reload:
        took = (
            f"was refused: {reload['problem']}"
            if reload["problem"]
            else f"took {', '.join(reload['changed']) or 'nothing'}"
        )
        said.append(f"the last reload, {reload['ts']}, {took}")
    if candidate := status.get("candidate"):
        said.append(_beside(candidate))
    said += [f"alarm of the daemon: {name}" for name in sorted(told.alarms)]
    if told.statistics is not None:
        rows = facts(told.statistics)
        rows += [(f"Dropped, {reason}", f"{count:,}") for reason, count in sorted(told.statistics["dropped"].items())]
        width = max(len(name) for name, _ in rows)
        said += [f"{name:<{width}} {value}" for name, value in rows]
    return said


def _beside(candidate: dict[str, Any]) -> str:
    """How a candidate differs from what serves."""
    name, windows = candidate["bundle"]["name"], candidate["windows"]
    if candidate["problem"]:
        return f"the candidate {name} scores no more: {candidate['problem']}"
    if not windows:
        return f"the candidate {name} has scored no window yet"
    return (
        f"the candidate {name} differs over {windows:,} windows by {candidate['rul_mean']:.2f} in RUL on average, by "
        f"{candidate['rul_largest']:.2f} at most, and tells another health class of {candidate['disagreement']:.1%}"
    )
