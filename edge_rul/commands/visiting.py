"""The options with which a command speaks to the broker, and the visit that they lead to. Knows no command."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge_rul.commands.arguments import add_config
from edge_rul.config import Mqtt, Settings
from edge_rul.yaml_file import Source

if TYPE_CHECKING:
    from edge_rul.adapters.mqtt_visit import Visit


def add_visit(parser: argparse.ArgumentParser) -> None:
    """The daemon's configuration says where the broker is and who we are; a person may be somebody else."""
    add_config(parser, "the daemon's, which says where the broker is")
    parser.add_argument("--username", metavar="NAME", help="at the broker, instead of mqtt.username")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its password, instead of the daemon's")


class Login(NamedTuple):
    """What a connection to the broker needs."""

    mqtt: Mqtt
    password: str | None
    context: ssl.SSLContext | None


def login(args: argparse.Namespace, settings: Settings, source: Source) -> Login:
    """Raises ConfigError."""
    from edge_rul.secrets import mqtt_password, password_in
    from edge_rul.wiring import tls_context

    mqtt = settings.mqtt if args.username is None else msgspec.structs.replace(settings.mqtt, username=args.username)
    if args.password_file is not None:
        password: str | None = password_in(args.password_file)
    else:
        # The daemon's password is not shown under another's name.
        password = mqtt_password(settings, source) if args.username is None else None
    return Login(mqtt, password, tls_context(settings, source))


def visit(args: argparse.Namespace, settings: Settings, source: Source) -> Visit:
    """Raises ConfigError, TransportError."""
    from edge_rul.adapters.mqtt_visit import Visit

    return Visit(*login(args, settings, source))
