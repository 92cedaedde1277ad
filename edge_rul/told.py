"""What the daemon tells of itself over MQTT, gathered and judged for whoever asks at a terminal.

Owns which topics say it, and when the daemon counts as serving. Must not know a client, a socket or a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from edge_rul.config import Topics
from edge_rul.core.topic import Template


class Heard(Protocol):
    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...


class Visit(Protocol):
    """What is needed of a visit to the broker; `mqtt_visit` documents each."""

    def subscribe(self, filters: list[str], qos: int = 1) -> dict[str, str]: ...
    def listen(self, seconds: float) -> Iterator[Any]: ...


class Told(msgspec.Struct):
    """serves: whether statistics came, which only a daemon that goes round sends. why: why not, or "".

    availability: `online`, `offline`, or None where nobody ever said. status, statistics: as published; the status is
    kept by the broker, so of a daemon that is away it is the last one. alarms: names of the daemon's own that stand.
    """

    serves: bool = False
    why: str = ""
    availability: str | None = None
    status: dict[str, Any] | None = None
    statistics: dict[str, Any] | None = None
    alarms: list[str] = []


def ask(visit: Visit, topics: Topics, seconds: float) -> Told:
    """Returns once the daemon's next statistics came or it is known to be away; after `seconds` at the latest.

    Raises TransportError.
    """
    told = Told()
    alarm = Template(topics.daemon_alarm)
    refused = visit.subscribe([topics.availability, topics.status, topics.statistics, alarm.filter])
    if refused:
        told.why = "; ".join(f"the broker lets us not read {topic}: {why}" for topic, why in refused.items())
        return told
    for heard in visit.listen(seconds):
        if heard.topic == topics.availability:
            told.availability = heard.payload.decode("utf-8", "replace")
            if told.availability == "offline":
                break
        elif heard.topic == topics.status:
            told.status = _object(heard.payload)
        elif heard.topic == topics.statistics:
            told.statistics = _object(heard.payload)
            told.serves = True
            break
        elif (levels := alarm.match(heard.topic)) and _object(heard.payload).get("state") == "active":
            told.alarms.append(levels["alarm"])
    if not told.serves:
        told.why = _why(told.availability, seconds)
    return told


def _object(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError):
        return {}


def _why(availability: str | None, seconds: float) -> str:
    if availability is None:
        return f"no daemon was ever here, and none came within {seconds:g} s; has it the same topics?"
    if availability == "offline":
        return "it is offline"
    return f"it counts as {availability}, and sent no statistics for {seconds:g} s: it hangs, or has only just gone"
