"""The configuration, read again: whether what its file says now may take the place of what serves.

Owns what may change while the daemon serves, and the words for what may not. Puts nothing in place: the `reload` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.config import Settings, load_settings
from edge_rul.core.topic import Template
from edge_rul.engines import Engine
from edge_rul.engines.choose import open_configured
from edge_rul.errors import ConfigError
from edge_rul.succession import unlike
from edge_rul.wiring import candidate_bundle, check_bundle
from edge_rul.yaml_file import Source

# What was handed to a thread, a socket or a file of its own. A restart loses nothing.
_FIXED = ("candidate", "mqtt", "journal", "http", "assets", "windows", "limits", "topics.availability")
_RESTART = "systemctl restart edge-rul: nothing is lost, the broker keeps what comes meanwhile"
_SHOWN = 60  # characters of a value


class Serving(NamedTuple):
    """What serves now, by which file."""

    settings: Settings
    source: Source
    bundle: Bundle
    engine: Engine
    lost: int = 0  # how many times the GPU was, where the CPU serves for that
    anew: str = ""  # why the windows have to begin anew for this; "" where they stay


class Change(NamedTuple):
    """A key with its value before and now, None where there is none, as of a section that came or went."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{_shown(self.old)} became {_shown(self.new)}"


def read(serving: Serving, log: Any) -> Serving:
    """The configuration as its file says now, with another bundle or engine open where it wants one.

    Raises ConfigError, BundleError or EngineError where it cannot take the place of `serving`.
    """
    settings, source = load_settings(serving.source.path)
    old = serving.settings
    if fixed := [c for c in changes(old, settings) if any(f"{c.key}.".startswith(f"{key}.") for key in _FIXED)]:
        raise _refusal(source, fixed)
    if (found := levels(settings)) != (expected := levels(old)):
        problem = f"the levels are {found}, expected {expected} as before: every asset would be another one"
        hint = "systemctl restart edge-rul takes it, and all windows begin anew"
        raise source.error("topics.readings", problem, hint)
    bundle = bundles.load(source.file("bundle", settings.bundle))
    check_bundle(settings, source, bundle)
    anew = unlike(serving.bundle.manifest, bundle.manifest)
    if anew and not settings.service.restart_windows:
        hint = "service.restart_windows: true lets all windows begin anew"
        raise source.error("bundle", f"the windows of {serving.bundle.manifest.name} cannot go on in it: {anew}", hint)
    if anew:
        candidate_bundle(settings, source, bundle)  # or the process that begins anew would refuse what this one took
    if bundle.sha256 == serving.bundle.sha256 and settings.engine == old.engine:
        return Serving(settings, source, serving.bundle, serving.engine, serving.lost)
    opened = open_configured(settings.engine, bundle, source.path.parent, lambda text: log.info("engine", note=text))
    return Serving(settings, source, bundle, opened.engine, opened.lost, anew)


def changes(old: msgspec.Struct, new: msgspec.Struct, below: str = "") -> Iterator[Change]:
    """What differs, key by key, in the order of the settings."""
    for name in old.__struct_fields__:
        before, now, key = getattr(old, name), getattr(new, name), f"{below}{name}"
        if isinstance(before, msgspec.Struct) and type(before) is type(now):
            yield from changes(before, now, f"{key}.")
        elif before != now:
            yield Change(key, before, now)


def _refusal(source: Source, fixed: list[Change]) -> ConfigError:
    first, others = fixed[0], "".join(f"; nor can {c.key}, where {c}" for c in fixed[1:])
    return source.error(first.key, f"{first}, which cannot change while the daemon serves{others}", _RESTART)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def levels(settings: Settings) -> str:
    """The named levels that make an asset's identity, in its order, but its name, which a payload may bring too."""
    return ", ".join(f"{{{name}}}" for name in Template(settings.topics.readings[0]).levels) or "none"
