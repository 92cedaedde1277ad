"""Predictions and alarms to messages, and the JSON schemas that they keep.

Owns topics, quality of service, retention and the published shapes. Knows no client.

    prediction    QoS 1, retained       an asset's newest state, found by whoever subscribes later
    state         QoS 1, retained       how an asset stands: warming up, predicting, stale
    alarm         QoS 1, retained       the current state of one alarm of one asset
    alarm event   QoS 1, not retained   it happened once
    dead letter   QoS 1, not retained   a message that was not used, and why
    reply         QoS 1, not retained   what became of a command
    statistics    QoS 0, not retained   how the daemon does
    status        QoS 1, retained       what serves
    availability  QoS 1, retained       `online`, or `offline` as the last will
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec

from edge_rul.core.alarm import Change, Priority
from edge_rul.core.command import Reply, ReplyTo
from edge_rul.core.dead_letter import DeadLetter
from edge_rul.core.prediction import Prediction
from edge_rul.core.standing import AssetState, Standing, published
from edge_rul.core.status import Status
from edge_rul.core.topic import Asset, Template

_encoder = msgspec.json.Encoder()


class Message(msgspec.Struct, frozen=True):
    """A message to publish. seq: of the entry that it comes from. correlation: MQTT 5's, of a reply."""

    topic: str
    payload: bytes
    retain: bool
    seq: int
    qos: int = 1
    correlation: bytes = b""


class AlarmState(msgspec.Struct, frozen=True):
    """The current state of one alarm of one asset. `active` and `clearing` are alarms; `raising` is not one yet.

    value: the RUL, or the probability, that the rule looked at. cycle: of the newest change, since it `state` holds.
    acknowledged: somebody knows of the alarm. shelved_until: no events are told before this cycle.
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
    acknowledged: bool = False
    shelved_until: int | None = None


class AlarmEvent(msgspec.Struct, frozen=True):
    """An alarm was raised or cleared, or an operator saw to it. `unshelved`: its time is over, or was ended.

    id: the same for the same event, should it be published twice. One that a command brought about ends with that
    one's number in the journal: the same may be done twice at one cycle.
    """

    schema: Literal["edge-rul/alarm-event/1"]
    id: str
    asset: str
    levels: dict[str, str]
    alarm: str
    priority: Priority
    event: Literal["raised", "cleared", "acknowledged", "shelved", "unshelved"]
    life: Annotated[int, msgspec.Meta(ge=0)]
    cycle: int
    ts: str | None
    value: float


class Statistics(msgspec.Struct, frozen=True):
    """How the daemon does, every few seconds. Counters run from its start. Times in seconds, `ts` by its own clock.

    lag_entries: that came in and are not applied. oldest_unanswered: age of the oldest entry whose answers the broker
    has not acknowledged. journal_rate: bytes an hour that the journal has grown by since the start. alarms_on: of all
    assets, not shelved; alarms_acknowledged: of these.
    """

    schema: Literal["edge-rul/statistics/1"]
    ts: str
    uptime: float
    assets: int
    stale_assets: int
    alarms_on: int
    alarms_acknowledged: int
    alarms_shelved: int
    readings: int
    parts: int
    predictions: int
    revisions: int
    late: int
    gaps: int
    restarted: int
    skipped: int
    invalid_values: int
    held_too_long: int
    dead_letters: int
    dropped: dict[str, int]
    lag_entries: int
    lag_seconds: float
    oldest_unanswered: float
    unpublished: int
    publish_refused: int
    watermark: int
    journal: str
    journal_bytes: int
    journal_rate: float
    disk_free: int
    connected: bool


PUBLISHED: dict[str, Any] = {
    "prediction": Prediction,
    "state": AssetState,
    "alarm": AlarmState,
    "alarm-event": AlarmEvent,
    "dead-letter": DeadLetter,
    "reply": Reply,
    "statistics": Statistics,
    "status": Status,
}


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema (2020-12) of each published shape, by name."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {name: {"$schema": dialect, **msgspec.json.schema(shape)} for name, shape in PUBLISHED.items()}


def iso(time: int | None) -> str | None:
    """Epoch milliseconds -> ISO 8601 UTC with milliseconds."""
    if time is None:
        return None
    return datetime.fromtimestamp(time / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_id(change: Change, command: int | None = None) -> str:
    """The same for the same event, should it be told twice. change: one with an event. command: the seq of that which
    brought it about. A reading's would not do: after a crash it may come again in another place."""
    event = change.event.value if change.event else ""
    id = f"{change.asset}/{change.status.life}/{change.cycle}/{change.rule.name}/{event}"
    return id if command is None else f"{id}/{command}"


def withdrawn(topic: str, seq: int) -> Message:
    """Makes the broker forget what it holds for the topic."""
    return Message(topic, b"", True, seq)


class Outgoing:
    """Makes messages, on the topics of one configuration."""

    def __init__(
        self,
        prediction: Template,
        alarm: Template,
        alarm_event: Template,
        *,
        statistics: Template,
        status: Template,
        daemon_alarm: Template,
        state: Template | None = None,
        dead_letter: Template | None = None,
    ) -> None:
        """state: None tells of no asset's state. dead_letter: None tells of no refused message."""
        self._prediction = prediction
        self._alarm = alarm
        self._event = alarm_event
        self._statistics = statistics
        self._status = status
        self._daemon_alarm = daemon_alarm
        self._state = state
        self._dead_letter = dead_letter

    def prediction(self, asset: Asset, prediction: Prediction, *, newest: bool, seq: int) -> Message:
        """newest: see `Due`. Nothing else is retained, so that an asset's state never goes backwards."""
        return Message(self._prediction.format(asset.fields()), _encoder.encode(prediction), newest, seq)

    def alarm(self, change: Change, seq: int, *, commanded: bool = False) -> list[Message]:
        """The new state, and before it the event that led there, if one did. commanded: by an operator."""
        asset, rule, status = change.asset, change.rule, change.status
        messages = []
        if change.event is not None:
            event = AlarmEvent(
                schema="edge-rul/alarm-event/1",
                id=event_id(change, seq if commanded else None),
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
            acknowledged=status.acknowledged,
            shelved_until=status.shelved_until,
        )
        messages.append(Message(self.alarm_topic(asset, rule.name), _encoder.encode(state), True, seq))
        return messages

    def reply(self, reply: Reply, to: ReplyTo, seq: int) -> Message:
        return Message(to.topic, _encoder.encode(reply), False, seq, correlation=to.correlation)

    def state(self, asset: Asset, standing: Standing, window: int, seq: int) -> list[Message]:
        """window: T."""
        if self._state is None:
            return []
        payload = _encoder.encode(published(asset, standing, window, iso(standing.time)))
        return [Message(self._state.format(asset.fields()), payload, True, seq)]

    def dead_letter(self, letter: DeadLetter, seq: int) -> list[Message]:
        if self._dead_letter is None:
            return []
        return [Message(self._dead_letter.text, _encoder.encode(letter), False, seq)]

    def retained(self, asset: Asset, alarms: Iterable[str]) -> set[str]:
        """The topics that hold the asset's prediction, its state and that of these alarms."""
        states = {self._state.format(asset.fields())} if self._state else set[str]()
        return {
            self.prediction_topic(asset),
            *states,
            *(self.alarm_topic(asset, name) for name in alarms),
        }

    def prediction_topic(self, asset: Asset) -> str:
        """The topic of its predictions."""
        return self._prediction.format(asset.fields())

    def alarm_topic(self, asset: Asset, alarm: str) -> str:
        """The topic of its alarm's state. alarm: the name."""
        return self._alarm.format({**asset.fields(), "alarm": alarm})

    def statistics(self, statistics: Statistics) -> Message:
        return Message(self._statistics.text, _encoder.encode(statistics), False, 0, qos=0)

    @property
    def topics(self) -> dict[str, str]:
        """What each kind of message goes to, as configured."""
        return {name: template.text for name, template in vars(self).items() if template is not None}

    def status(self, status: Status, seq: int) -> Message:
        return Message(self._status.text, _encoder.encode(status), True, seq)

    def daemon_alarm(self, name: str, *, active: bool, value: float, time: int, seq: int) -> Message:
        """An alarm of the daemon's own, of the reserved asset `_daemon`."""
        state = AlarmState(
            schema="edge-rul/alarm/1",
            asset="_daemon",
            levels={},
            alarm=name,
            priority="high",
            state="active" if active else "normal",
            life=0,
            cycle=0,
            ts=iso(time),
            value=value,
        )
        return Message(self._daemon_alarm.format({"alarm": name}), _encoder.encode(state), True, seq)
