"""`edge-rul check`: what a configuration, its bundle, its engine and its broker would do. Nothing is published."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

from edge_rul.commands.arguments import seconds
from edge_rul.commands.visiting import add_visit, visit
from edge_rul.errors import EXIT_CONFIG, EXIT_FOUND, EXIT_OK, JournalError

HELP = "check a configuration, its bundle, engine and broker, and say what it found"
_WAIT = 5.0  # seconds


def add(parser: argparse.ArgumentParser) -> None:
    add_visit(parser)
    parser.add_argument("--offline", action="store_true", help="do not ask the broker")
    parser.add_argument(
        "--wait", type=seconds, default=_WAIT, metavar="S", help=f"for a message of each topic ({_WAIT:g})"
    )


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings
    from edge_rul.secrets import http_token
    from edge_rul.wiring import (
        build_decoder,
        build_transport,
        check_bundle,
        open_candidate,
        open_engine_and_bundle,
        state_directory,
    )
    from edge_rul.wiring_http import http_files

    settings, source = load_settings(args.config)
    notes: list[str] = []
    bundle, (engine, _) = open_engine_and_bundle(settings, source, notes.append)  # which runs the golden windows
    with engine:
        check_bundle(settings, source, bundle)
        _check_state(state_directory(settings, source))
        build_transport(settings, source, None)
        http_files(settings, source)
        http_token(settings, source)
        notes_beside: list[str] = []
        if (beside := open_candidate(settings, source, bundle, notes_beside.append)) is not None:
            beside[1].close()
    m = bundle.manifest
    within = m.tolerance[engine.precision]
    say("configuration", args.config)
    seen = f"{len(m.inputs)} inputs" + ("" if m.features is None else f", {len(m.features)} features")
    say("bundle", f"{m.name}, {seen}, window {m.window}, sha256 {bundle.sha256[:12]}")
    say("engine", f"{engine.name} {engine.version}, {engine.precision}", *notes)
    answers = f"to within {within.rul:g} {m.rul.unit} and {within.logits:g} in logits"
    say("golden", f"{len(bundle.golden.rul)} windows answered {answers}")
    if beside is not None:
        other, computes = beside
        say("candidate", f"{other.manifest.name}, sha256 {other.sha256[:12]}, on {computes.name}", *notes_beside)
    say("alarms", ", ".join(rule.name for rule in settings.alarms) or "none")
    command = settings.topics.command
    topics = ", ".join([*settings.topics.readings, *([command] if command else [])])
    say("subscribes to", f"{topics} at QoS 1, on {settings.mqtt.host}:{settings.mqtt.port}")
    if args.offline:
        print("ok")
        return EXIT_OK
    from edge_rul.sample import sample

    with visit(args, settings, source) as there:
        say(
            "broker", f"accepts {settings.mqtt.client_id if settings.mqtt.username is None else settings.mqtt.username}"
        )
        refused = there.subscribe([command]) if command else {}
        samples = sample(there, settings.topics.readings, build_decoder(settings, bundle), args.wait)
    for one in samples:
        say("sample", *(f"{one.template}: {one.said}" if settings.topics.readings[1:] else one.said).splitlines())
    for topic, why in refused.items():
        say("commands", f"{topic}: the broker lets us not read it: {why}")
    if refused or not all(one.good for one in samples):
        print("the daemon could not use all of this")
        return EXIT_FOUND
    print("ok")
    return EXIT_OK


def _check_state(state: Path) -> None:
    """Raises JournalError where the daemon, as this user, could not open its journal. Nothing is made here."""
    from edge_rul.doctor.machine import unusable

    if why := unusable(state):
        hint = "set journal.directory to a directory that the daemon's user may write, and run this as that user"
        raise JournalError("open journal", str(state), f"cannot be used: {why}", hint=hint, exit_code=EXIT_CONFIG)


def say(what: str, *lines: object) -> None:
    """A line with its name, and what belongs to it below."""
    for index, line in enumerate(lines):
        print(f"{what if index == 0 else '':<14} {line}")
