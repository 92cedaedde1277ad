"""Predictions and alarms to messages, and the JSON schemas that they keep.

Owns topics, quality of service, retention and the published shapes. Knows no client.

    prediction    QoS 1, retained       an asset's newest state, found by whoever subscribes later
    alarm         QoS 1, retained       the current state of one alarm of one asset
    alarm event   QoS 1, not retained   it happened once
    availability  QoS 1, retained       `online`, or `offline` as the last will
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec

from edge_rul.core.alarm import Change, Priority
from edge_rul.core.prediction import Prediction
from edge_rul.core.topic import Asset, Template

_encoder = msgspec.json.Encoder()


class Message(msgspec.Struct, frozen=True):
    """A message to publish. seq: of the entry that it comes from."""

    topic: str
    payload: bytes
    retain: bool
    seq: int
    qos: int = 1


class AlarmState(msgspec.Struct, frozen=True):
    """The current state of one alarm of one asset. `active` and `clearing` are alarms; `raising` is not one yet.

    value: the RUL, or the probability, that the rule looked at. cycle: of the newest change, since it `state` holds.
    """

    schema: Literal["edge-rul/alarm/1"]
    asset: str
    levels: dict[str, str]
    alarm: str
    priority: Priority
    state: Literal["normal", "raising", "active", "clearing"]
    life: Annotated[int, msgspec.Meta(ge=0)]
    cycle: int
    ts: str | None
    value: float


class AlarmEvent(msgspec.Struct, frozen=True):
    """An alarm was raised or cleared. id: the same for the same event, should it be published twice."""

    schema: Literal["edge-rul/alarm-event/1"]
    id: str
    asset: str
    levels: dict[str, str]
    alarm: str
    priority: Priority
    event: Literal["raised", "cleared"]
    life: Annotated[int, msgspec.Meta(ge=0)]
    cycle: int
    ts: str | None
    value: float


PUBLISHED: dict[str, Any] = {"prediction": Prediction, "alarm": AlarmState, "alarm-event": AlarmEvent}


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema (2020-12) of each published shape, by name."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {name: {"$schema": dialect, **msgspec.json.schema(shape)} for name, shape in PUBLISHED.items()}


def iso(time: int | None) -> str | None:
    """Epoch milliseconds -> ISO 8601 UTC with milliseconds."""
    if time is None:
        return None
    return datetime.fromtimestamp(time / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Outgoing:
    """Makes messages, on the topics of one configuration."""

    def __init__(self, prediction: Template, alarm: Template, alarm_event: Template) -> None:
        self._prediction = prediction
        self._alarm = alarm
        self._event = alarm_event

    def prediction(self, asset: Asset, prediction: Prediction, seq: int) -> Message:
        return Message(self._prediction.format(asset.fields()), _encoder.encode(prediction), True, seq)

    def alarm(self, change: Change, seq: int) -> list[Message]:
        """The new state, and before it the event that led there, if one did."""
        asset, rule, status = change.asset, change.rule, change.status
        messages = []
        if change.event is not None:
            event = AlarmEvent(
                schema="edge-rul/alarm-event/1",
                id=f"{asset}/{status.life}/{change.cycle}/{rule.name}/{change.event.value}",
                asset=asset.name,
                levels=dict(asset.levels),
                alarm=rule.name,
                priority=rule.priority,
                event=change.event.value,
                life=status.life,
                cycle=change.cycle,
                ts=iso(change.time),
                value=status.value,
            )
            messages.append(Message(self._event.format(asset.fields()), _encoder.encode(event), False, seq))
        state = AlarmState(
            schema="edge-rul/alarm/1",
            asset=asset.name,
            levels=dict(asset.levels),
            alarm=rule.name,
            priority=rule.priority,
            state=status.state.value,
            life=status.life,
            cycle=change.cycle,
            ts=iso(change.time),
            value=status.value,
        )
        topic = self._alarm.format({**asset.fields(), "alarm": rule.name})
        messages.append(Message(topic, _encoder.encode(state), True, seq))
        return messages
