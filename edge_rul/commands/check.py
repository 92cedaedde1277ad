"""`edge-rul check`: what a configuration, its bundle and its engine would do."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse

from edge_rul.commands.arguments import add_config
from edge_rul.errors import EXIT_OK

HELP = "check a configuration, its bundle and its engine, and say what it found"


def add(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings
    from edge_rul.engines import verify
    from edge_rul.wiring import build_transport, check_bundle, open_engine_and_bundle

    settings, source = load_settings(args.config)
    notes: list[str] = []
    bundle, engine = open_engine_and_bundle(settings, source, notes.append)
    with engine:
        check_bundle(settings, source, bundle)
        build_transport(settings, source, None)
        rul, logits = verify(engine, bundle)
    m = bundle.manifest
    print(f"configuration  {args.config}")
    print(f"bundle         {m.name}, {len(m.inputs)} inputs, window {m.window}, sha256 {bundle.sha256[:12]}")
    print(f"engine         {engine.name} {engine.version}, {engine.precision}")
    for note in notes:
        print(f"               {note}")
    print(f"golden         {len(bundle.golden.rul)} windows, off by {rul:.2g} {m.rul.unit} and {logits:.2g} in logits")
    print(f"subscribes to  {', '.join(settings.topics.readings)} on {settings.mqtt.host}:{settings.mqtt.port}")
    print(f"alarms         {', '.join(rule.name for rule in settings.alarms) or 'none'}")
    print("ok")
    return EXIT_OK
