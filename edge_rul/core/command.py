"""What a person tells the daemon to do with an asset, and the answer.

    {"command": "reset", "asset": "engine-7", "levels": {"line": "a"}, "who": "kim", "why": "overhaul 4711"}

Owns the commands' shape, where an answer may go, and the answer's shape. A command is an entry: it takes its place
among the readings, and is answered once it is carried out. Knows nothing of how one is carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec

from edge_rul.core.topic import Asset, Template, name_problem, topic_problem
from edge_rul.errors import BadMessage, Reason

Action = Literal["reset", "remove", "ack", "shelve"]
_Short = Annotated[str, msgspec.Meta(max_length=256)]


class ReplyTo(msgspec.Struct, frozen=True, array_like=True):
    """Where the answer goes. correlation: MQTT 5's data, given back as it came. id: the command's own, likewise."""

    topic: str
    correlation: bytes = b""
    id: str | None = None


class Command(msgspec.Struct, frozen=True):
    """An entry. reset: the asset was overhauled or replaced, its next reading begins a life. remove: it is no more.
    ack: somebody knows of its alarm. shelve: keep quiet about the alarm for so many cycles.

    who, why: as the sender said. alarm: its name, all of the asset's where it is empty. cycles: 0 ends the shelving.
    again: the broker had sent it before, to us or in vain.
    """

    action: Action
    asset: Asset
    who: str = ""
    why: str = ""
    reply_to: ReplyTo | None = None
    alarm: str = ""
    cycles: int = 0
    again: bool = False


class Reply(msgspec.Struct, frozen=True):
    """The answer to a command, once it was carried out or refused. id, who, why: as the command had them.

    asset, levels: None where the command could not be read.
    """

    schema: Literal["edge-rul/reply/1"]
    id: str | None
    command: str | None
    asset: str | None
    levels: dict[str, str] | None
    ok: bool
    error: str | None
    who: str | None
    why: str | None


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    command: Action
    asset: str
    levels: dict[str, str] = {}
    who: _Short = ""
    why: _Short = ""
    reply_to: str | None = None
    id: _Short | None = None
    alarm: _Short | None = None
    cycles: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None


class _Address(msgspec.Struct):
    """What is looked for in a command that may be wrong in anything else."""

    reply_to: Any = None
    id: Any = None


class CommandReader:
    """Reads the messages of the command topic."""

    def __init__(self, levels: Sequence[str], ours: Sequence[Template]) -> None:
        """levels: that an asset has beside its name. ours: topics that the daemon listens to or publishes on."""
        self._levels = tuple(levels)
        self._ours = tuple(ours)
        self._decode = msgspec.json.Decoder(_Sent).decode

    def address(self, topic: str, payload: bytes, given: ReplyTo | None) -> ReplyTo | None:
        """Where the answer to a command goes, however wrong the command is. given: by MQTT 5, and takes precedence.

        Raises BadMessage where nothing may be published there.
        """
        try:
            said = msgspec.json.decode(payload, type=_Address)
        except (msgspec.DecodeError, ValueError, RecursionError):
            said = _Address()
        id = said.id if isinstance(said.id, str) and len(said.id) <= 256 else None
        to = given.topic if given else said.reply_to
        if not isinstance(to, str):
            return None
        if problem := topic_problem(to):
            raise BadMessage(Reason.BAD_COMMAND, topic, f"the reply topic {to[:80]!r} {problem}")
        if any(template.match(to) is not None for template in self._ours):
            problem = f"the reply topic {to[:80]!r} is one that the daemon hears or publishes on itself"
            raise BadMessage(Reason.BAD_COMMAND, topic, problem)
        return ReplyTo(to, given.correlation if given else b"", id)

    def read(
        self, topic: str, payload: bytes, reply_to: ReplyTo | None, *, retained: bool, again: bool = False
    ) -> Command:
        """Raises BadMessage that says what was found and what was expected."""
        if retained:
            problem = "the command is retained, so it would be carried out at each new subscription: clear it"
            raise BadMessage(Reason.BAD_COMMAND, topic, problem)
        if not payload:
            raise BadMessage(Reason.BAD_COMMAND, topic, "the message is empty")
        try:
            sent = self._decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as e:
            known = f"; there are {', '.join(get_args(Action))}" if str(e).endswith("`$.command`") else ""
            raise BadMessage(Reason.BAD_COMMAND, topic, f"{e}{known}") from None
        if set(sent.levels) != set(self._levels):
            expected = ", ".join(self._levels) or "none"
            raise BadMessage(Reason.BAD_COMMAND, topic, f"levels is {sent.levels}, expected {expected}")
        for name in (sent.asset, *sent.levels.values()):
            if wrong := name_problem(name):
                raise BadMessage(Reason.BAD_COMMAND, topic, f"the name {name[:40]!r} {wrong}")
        if sent.alarm is not None and sent.command not in ("ack", "shelve"):
            raise BadMessage(Reason.BAD_COMMAND, topic, f"{sent.command} takes no alarm")
        if (sent.cycles is not None) != (sent.command == "shelve"):
            problem = "expected for how many cycles; 0 ends it" if sent.cycles is None else f"{sent.command} takes none"
            raise BadMessage(Reason.BAD_COMMAND, topic, f"cycles: {problem}")
        asset = Asset(sent.asset, tuple((level, sent.levels[level]) for level in self._levels))
        of_alarm = sent.alarm or "", sent.cycles or 0
        return Command(sent.command, asset, sent.who, sent.why, reply_to, *of_alarm, again)


def reply(command: Command, error: str | None = None) -> Reply:
    """The answer to a command that could be read. error: why it was not carried out."""
    asset, reply_to = command.asset, command.reply_to
    return Reply(
        schema="edge-rul/reply/1",
        id=reply_to.id if reply_to else None,
        command=command.action,
        asset=asset.name,
        levels=dict(asset.levels),
        ok=error is None,
        error=error,
        who=command.who,
        why=command.why,
    )


def refusal(reply_to: ReplyTo, error: str) -> Reply:
    """The answer to a command that could not be read."""
    return Reply("edge-rul/reply/1", reply_to.id, None, None, None, False, error, None, None)
