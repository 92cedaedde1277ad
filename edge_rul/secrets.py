"""Secrets: where they may come from, and who may read them. None is ever written, logged or shown.

Owns the order of the sources and the refusal of a file that others can use. Must not know what a secret opens.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edge_rul.config import Settings
from edge_rul.errors import ConfigError
from edge_rul.yaml_file import Source

_CREDENTIALS = Path("/run/credentials")  # systemd's copies, for each unit that runs


def mqtt_password(settings: Settings, source: Source) -> str | None:
    """From mqtt.password_file, systemd's credential `mqtt_password`, or the environment, in this order.

    Raises ConfigError where the file cannot be read, or everybody can read it.
    """
    key = "mqtt.password_file"
    if settings.mqtt.password_file is not None:
        path = source.file(key, settings.mqtt.password_file)
        refuse_open_secret(path, key, source)
    elif (directory := os.environ.get("CREDENTIALS_DIRECTORY")) and (Path(directory) / "mqtt_password").exists():
        path = Path(directory) / "mqtt_password"
    else:
        return os.environ.get("EDGE_RUL_MQTT_PASSWORD")
    return _read(path, key, source).rstrip("\r\n")


def password_in(path: Path) -> str:
    """The password in a file that somebody named at a terminal. Raises ConfigError."""
    try:
        if (mode := path.stat().st_mode & 0o777) & 0o007:
            problem = f"every user of this machine may use it: its mode is {mode:o}"
            raise ConfigError("read password", str(path), problem, hint=f"chmod o= {path}")
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError("read password", str(path), f"cannot be read: {e}") from None


def http_token(settings: Settings, source: Source) -> str | None:
    """From http.token_file, None without one. Raises ConfigError where it is empty, or everybody can read it."""
    key = "http.token_file"
    if settings.http is None or settings.http.token_file is None:
        return None
    path = source.file(key, settings.http.token_file)
    refuse_open_secret(path, key, source)
    if not (token := _read(path, key, source).strip()):
        raise source.error(key, f"{path} is empty, expected a token")
    return token


def known(settings: Settings, source: Source, unit: str) -> list[str]:
    """Every secret that this configuration, systemd or the environment leads to and that we may read, so that it can be
    taken out of what is shown. unit: of the service, whose credentials root sees. Nothing is refused here."""
    base, http, tls = source.path.parent, settings.http, settings.mqtt.tls
    named = [settings.mqtt.password_file, tls.key if tls else None]
    named += [http.token_file, http.tls_key] if http else []
    files = [base / name for name in named if name is not None]
    for directory in (os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere"), _CREDENTIALS / unit):
        with contextlib.suppress(OSError):
            files += Path(directory).iterdir()
    found = [os.environ.get("EDGE_RUL_MQTT_PASSWORD", "")]
    for path in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found.append(path.read_text(encoding="utf-8").strip())
    return [secret for secret in found if secret]


def refuse_open_secret(path: Path, key: str, source: Source) -> None:
    """Raises ConfigError where users other than the file's owner and group may use it. systemd's credentials lie in a
    directory that only the service enters, so that their own mode does not matter."""
    if (directory := os.environ.get("CREDENTIALS_DIRECTORY")) and path.is_relative_to(directory):
        return
    if (mode := path.stat().st_mode & 0o777) & 0o007:
        problem = f"{path} is a secret, and every user of this machine may use it: its mode is {mode:o}"
        raise source.error(key, problem, f"chmod o= {path}; its owner or group must be the user that runs the daemon")


def _read(path: Path, key: str, source: Source) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise source.error(key, f"{path} cannot be read: {e}") from None
