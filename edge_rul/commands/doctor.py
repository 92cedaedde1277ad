"""`edge-rul doctor`: what keeps the daemon from serving well, and what to do about it; in one file on demand."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_rul.commands.arguments import seconds
from edge_rul.commands.visiting import add_visit, login
from edge_rul.config import Settings
from edge_rul.doctor import Finding, bad
from edge_rul.errors import EXIT_FOUND, EXIT_OK, EdgeRulError, JournalError
from edge_rul.told import Told, ask
from edge_rul.yaml_file import Source

HELP = "what keeps the daemon from serving well, and what to do about it"
_DROPPED, _VERSION = "$SYS/broker/publish/messages/dropped", "$SYS/broker/version"
_LINES = 300  # of the log
_LOG = 256 * 1024  # bytes of a log file's end


def add(parser: argparse.ArgumentParser) -> None:
    add_visit(parser)
    parser.add_argument("--wait", type=seconds, default=12.0, metavar="S", help="for the daemon's statistics (12)")
    parser.add_argument("--probe", action="store_true", help="find the broker's queue limit by 1,100 small messages")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="write all of it, without secrets, as .tar.gz")
    parser.add_argument("--unit", default="edge-rul.service", metavar="NAME", help="whose log goes into the archive")
    parser.add_argument("--log", type=Path, metavar="FILE", help="take the log from this file and not from journald")


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings

    settings, source = load_settings(args.config)
    heard: list[Finding] = []
    told = _broker(args, settings, source, heard)
    findings = [*_machine(settings, source, serves=told.serves), *heard]
    if args.json:
        sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
    else:
        for one in findings:
            print(f"{one.grade:<5} {one.what:<17} {one.said}")
            if one.hint:
                print(f"{'':<23} hint: {one.hint}")
    if args.archive is not None:
        size = _archive(args, settings, source, findings, told)
        print(f"{args.archive}: {size} bytes; look through it before you send it", file=sys.stderr)
    return EXIT_FOUND if any(one.grade == "bad" for one in findings) else EXIT_OK


def _machine(settings: Settings, source: Source, *, serves: bool) -> Iterator[Finding]:
    from edge_rul.adapters.kernel_clock import synchronised
    from edge_rul.doctor import machine
    from edge_rul.wiring import state_directory

    yield machine.clock(synchronised())
    yield machine.disk(state_directory(settings, source), settings.journal)
    yield machine.bundle(source.path.parent / settings.bundle)
    if settings.http is not None and not serves:
        yield machine.port(settings.http.host, settings.http.port)
    yield from machine.engines(settings.engine, source.path.parent)


def _broker(args: argparse.Namespace, settings: Settings, source: Source, findings: list[Finding]) -> Told:
    """Adds to the findings, and returns what the daemon tells."""
    from edge_rul.adapters.mqtt_probe import COUNT, probe
    from edge_rul.adapters.mqtt_visit import Visit, a_name
    from edge_rul.doctor import broker

    told = Told(why="the broker was not reached")
    try:
        who = login(args, settings, source)
        # Only who asks for a session to be kept is told for how long it would be. The next visit ends it.
        name = a_name(who.mqtt)
        with Visit(*who, name=name, keep=who.mqtt.session_expiry) as asking:
            findings += broker.access(who.mqtt)
            findings += broker.limits(asking.told, who.mqtt)
        with Visit(*who, name=name) as visit:
            visit.subscribe([_DROPPED, _VERSION])
            itself = {heard.topic: heard.payload.decode("utf-8", "replace") for heard in visit.listen(1.0)}
            count = itself.get(_DROPPED, "")
            findings.append(broker.dropped(int(count) if count.isdigit() else None, itself.get(_VERSION, "")))
            told = ask(visit, settings.topics, args.wait)
            findings += broker.daemon(told)
        found = None
        if args.probe:
            found = broker.Probe(COUNT, *probe(*who, f"{settings.topics.availability}/probe-{name}"))
        findings += broker.queue(found, who.mqtt)
    except EdgeRulError as e:
        findings.append(bad("broker", f"{e.operation}: {e.object}: {e.problem}", e.hint))
    return told


def _archive(args: argparse.Namespace, settings: Settings, source: Source, findings: list[Finding], told: Told) -> int:
    """Returns the archive's bytes. Raises EdgeRulError where it cannot be written."""
    from edge_rul import secrets
    from edge_rul.doctor import archive
    from edge_rul.wiring import state_directory

    known = secrets.known(settings, source, args.unit)
    if args.password_file is not None:
        known.append(secrets.password_in(args.password_file))
    state = state_directory(settings, source)
    manifest = source.path.parent / settings.bundle / "manifest.json"
    parts = {
        "about.json": archive.about(),
        "configuration.json": settings,  # as it was understood: a comment in the file may hold anything
        "findings.json": findings,
        "daemon.json": told,
        "state.json": {"files": archive.listing(state), "journal": _journal(state)},
        "bundle.json": manifest.read_text(encoding="utf-8", errors="replace") if manifest.is_file() else "",
        "log.txt": _log(args.unit) if args.log is None else archive.tail(args.log, _LOG),
    }
    try:
        return archive.write(args.archive, parts, known)
    except OSError as e:
        raise EdgeRulError("write archive", str(args.archive), str(e)) from None


def _journal(state: Path) -> dict[str, Any]:
    """What can be told of it while a daemon may go on writing it."""
    from edge_rul.adapters.journal_file import FILE
    from edge_rul.adapters.journal_reader import read_journal

    try:
        with read_journal(state / FILE) as journal:
            return journal.counts()
    except JournalError as e:
        return {"problem": str(e)}


def _log(unit: str) -> str:
    """The unit's last warnings and errors, as journald has them; else why not."""
    command = ["journalctl", "--unit", unit, "--priority", "warning", "--lines", str(_LINES), "--no-pager"]
    try:
        done = subprocess.run([*command, "--output", "short-iso"], capture_output=True, text=True, check=False)
    except OSError as e:
        return f"journalctl cannot be run: {e.strerror}\n"
    return done.stdout or done.stderr
