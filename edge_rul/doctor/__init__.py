"""Looking for what keeps a daemon from serving well: findings, each with what to do about it.

One module a place: `machine`, `broker`. Each function looks at one thing and returns what it found. None alters
anything, and none needs the daemon to run. `archive` packs it all for somebody far away.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """grade: `ok`; `note`, worth knowing; `bad`, it will cost something. what: was looked at. hint: what to do."""

    what: str
    grade: Literal["ok", "note", "bad"]
    said: str
    hint: str = ""


def ok(what: str, said: str) -> Finding:
    return Finding(what, "ok", said)


def note(what: str, said: str, hint: str = "") -> Finding:
    return Finding(what, "note", said, hint)


def bad(what: str, said: str, hint: str) -> Finding:
    return Finding(what, "bad", said, hint)
