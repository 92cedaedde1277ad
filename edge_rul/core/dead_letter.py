"""What was refused: an entry where it could not be read, and a dead letter that tells somebody.

Owns what is kept of a refused message, and the published shape of a dead letter. Knows neither why a message is refused
(`payload` and `life` judge that) nor the topic on which it is told.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec

from edge_rul.core.command import ReplyTo
from edge_rul.errors import BadMessage, Reason

_TEXT_LIMIT = 1024  # characters of a topic or a problem: a topic may have 65,535

# What a reading met that could be read, but has no place in a window.
_PROBLEMS = {
    Reason.CONFLICT: "this cycle came before with other values; the first stays",
    Reason.LATE: "its place in the window has passed; see windows.max_late",
    Reason.OLD_LIFE: "it is older than the first reading of the asset's life",
    Reason.OTHER_KEY: "its life's readings have cycle numbers and it has none, or the other way round; see reset",
    Reason.MISSING_INPUT: "parts of it have not come in time, and may not be held; see windows.parts_within",
    Reason.NOTHING_TO_HOLD: "a value is missing, and this life has no reading before it to take it from",
    Reason.OUT_OF_RANGE: "a value is beyond its input's valid range, and may not be held",
    Reason.TOO_MANY_ASSETS: "limits.assets are there already",
}


class Refused(msgspec.Struct, frozen=True):
    """An entry: a message, or one element of it, that was refused when it came in.

    payload: its first bytes. size: how many it had. reply_to: where a command wants its answer.
    """

    reason: Reason
    topic: str
    problem: str
    payload: bytes
    size: int
    reply_to: ReplyTo | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """A message, or one element of a list in it, that was not used. `payload` is cut; `size` is what it had, in bytes.

    encoding: of `payload`, base64 where it is no UTF-8. What was refused only once it was read is told as it was read,
    values by name. A dead letter may come twice after a crash.
    """

    schema: Literal["edge-rul/dead-letter/1"]
    reason: Reason
    problem: str
    topic: str
    payload: str
    encoding: Literal["utf-8", "base64"]
    size: Annotated[int, msgspec.Meta(ge=0)]


def refuse(bad: BadMessage, payload: bytes, limit: int, reply_to: ReplyTo | None = None) -> Refused:
    """The refusal as an entry, with at most `limit` bytes of the payload."""
    return Refused(bad.reason, _text(bad.object), _text(bad.problem), bytes(payload[:limit]), len(payload), reply_to)


def told(reason: Reason) -> bool:
    """Whether a reading that was refused for `reason` is worth a dead letter: a repetition does no harm."""
    return reason in _PROBLEMS


def of_reading(reason: Reason, topic: str, reading: bytes, limit: int) -> DeadLetter:
    """The letter of a reading that has no place in a window. reading: as JSON."""
    return of_refused(Refused(reason, _text(topic), _PROBLEMS[reason], reading[:limit], len(reading)))


def of_refused(refused: Refused) -> DeadLetter:
    """The letter of what could not be read."""
    text, encoding = _shown(refused.payload, cut=refused.size > len(refused.payload))
    return DeadLetter(
        schema="edge-rul/dead-letter/1",
        reason=refused.reason,
        problem=refused.problem,
        topic=refused.topic,
        payload=text,
        encoding=encoding,
        size=refused.size,
    )


def _shown(payload: bytes, *, cut: bool) -> tuple[str, Literal["utf-8", "base64"]]:
    try:
        return payload.decode(), "utf-8"
    except UnicodeDecodeError as e:
        if cut and e.start >= len(payload) - 3 and e.reason == "unexpected end of data":
            return payload[: e.start].decode(), "utf-8"  # the limit went through a character
        return base64.b64encode(payload).decode(), "base64"


def _text(text: str) -> str:
    """At most so much of it, and UTF-8: what a lenient reader took may hold half a surrogate pair."""
    return text[:_TEXT_LIMIT].encode(errors="backslashreplace").decode()
