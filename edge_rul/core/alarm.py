"""Alarms on RUL and on health: rules, states, deadband and delays.

Owns the rules, the state table and every asset's alarm states. Data in, events out: it is given predictions in the
order of their cycles, and answers with what changed. Delays count cycle numbers, so that an alarm does not depend on
when a reading came. Knows no clock and no topic.

What an operator does beside it (ISA-18.2, IEC 62682): an alarm that is acknowledged is known until it clears; one that
is shelved, for so many cycles and never for ever, goes on moving in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Literal

import msgspec

from edge_rul.core.topic import Asset

Cycles = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Name = Annotated[
    str,
    msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$", description="a-z, 0-9 and _, a letter first, 64 at most"),
]
Priority = Literal["low", "medium", "high", "urgent"]


class State(str, Enum):
    NORMAL = "normal"
    RAISING = "raising"  # the condition holds, the on-delay runs
    ACTIVE = "active"
    CLEARING = "clearing"  # the condition has gone, the off-delay runs; still an alarm

    @property
    def on(self) -> bool:
        """Whether it is an alarm."""
        return self in (State.ACTIVE, State.CLEARING)


class Signal(str, Enum):
    """What a prediction, or the life of its asset, says to a rule."""

    BEYOND = "beyond the limit"
    BAND = "inside the deadband"
    WITHIN = "back within"
    ELAPSED = "delay over"
    NEW_LIFE = "new life"


class Transition(str, Enum):
    RAISED = "raised"
    CLEARED = "cleared"
    ACKNOWLEDGED = "acknowledged"
    SHELVED = "shelved"
    UNSHELVED = "unshelved"


# (state, signal) -> (next state, event). A pair that is not here changes nothing. An on-delay wants the condition
# without a break, so a value inside the deadband ends it; the deadband only keeps alive an alarm that is there.
TABLE: dict[tuple[State, Signal], tuple[State, Transition | None]] = {
    (State.NORMAL, Signal.BEYOND): (State.RAISING, None),
    (State.RAISING, Signal.BAND): (State.NORMAL, None),
    (State.RAISING, Signal.WITHIN): (State.NORMAL, None),
    (State.RAISING, Signal.NEW_LIFE): (State.NORMAL, None),
    (State.RAISING, Signal.ELAPSED): (State.ACTIVE, Transition.RAISED),
    (State.ACTIVE, Signal.WITHIN): (State.CLEARING, None),
    (State.ACTIVE, Signal.NEW_LIFE): (State.NORMAL, Transition.CLEARED),
    (State.CLEARING, Signal.BEYOND): (State.ACTIVE, None),
    (State.CLEARING, Signal.BAND): (State.ACTIVE, None),
    (State.CLEARING, Signal.NEW_LIFE): (State.NORMAL, Transition.CLEARED),
    (State.CLEARING, Signal.ELAPSED): (State.NORMAL, Transition.CLEARED),
}


class RulAlarm(msgspec.Struct, frozen=True, tag="rul", tag_field="watch", forbid_unknown_fields=True):
    """Raised when RUL falls below `below`, cleared when it is at least `below + deadband`, both in the RUL's unit."""

    name: Name
    below: Annotated[float, msgspec.Meta(gt=0)]
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    on_delay: Cycles = 0
    off_delay: Cycles = 0
    priority: Priority = "medium"

    def signal(self, rul: float, probabilities: dict[str, float]) -> tuple[Signal, float]:
        if rul < self.below:
            return Signal.BEYOND, rul
        return (Signal.WITHIN if rul >= self.below + self.deadband else Signal.BAND), rul


class HealthAlarm(msgspec.Struct, frozen=True, tag="health", tag_field="watch", forbid_unknown_fields=True):
    """Raised when the probability of `classes` together reaches `probability`, cleared below it less `deadband`."""

    name: Name
    classes: Annotated[list[str], msgspec.Meta(min_length=1)]
    probability: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    deadband: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    on_delay: Cycles = 0
    off_delay: Cycles = 0
    priority: Priority = "medium"

    def __post_init__(self) -> None:
        if self.deadband >= self.probability:
            raise ValueError(f"deadband {self.deadband} is not below probability {self.probability}: it never clears")
        if twice := {name for name in self.classes if self.classes.count(name) > 1}:
            raise ValueError(f"classes names {', '.join(sorted(twice))} twice: its probability would count twice")

    def signal(self, rul: float, probabilities: dict[str, float]) -> tuple[Signal, float]:
        value = sum(probabilities[name] for name in self.classes)
        if value >= self.probability:
            return Signal.BEYOND, value
        return (Signal.WITHIN if value < self.probability - self.deadband else Signal.BAND), value


Rule = RulAlarm | HealthAlarm


class Status(msgspec.Struct, frozen=True):
    """One alarm of one asset. since: the cycle at which `state` began. value: what the rule looked at then;
    not at every cycle since, of which a restart knows nothing.

    acknowledged: somebody knows of it; only while it is an alarm. shelved_until: the cycle from which on its events are
    told again.
    """

    state: State
    life: int
    since: int
    value: float
    acknowledged: bool = False
    shelved_until: int | None = None

    @property
    def on(self) -> bool:
        """Whether it is an alarm."""
        return self.state.on


class Change(msgspec.Struct, frozen=True):
    """A status to publish, with the event where one happened. cycle: of the prediction that brought it."""

    asset: Asset
    rule: Rule
    status: Status
    cycle: int
    time: int | None
    event: Transition | None


class Alarms:
    """The alarm states of all assets under one set of rules."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self._states: dict[Asset, list[Status | None]] = {}

    def predicted(
        self,
        asset: Asset,
        life: int,
        cycle: int,
        time: int | None,
        rul: float,
        probabilities: dict[str, float],
        unit: int = 1,
    ) -> list[Change]:
        """What a new cycle's prediction changes. The first one of an asset reports every alarm's state. unit: by how
        much `cycle` grows in a cycle."""
        row = self._states.setdefault(asset, [None] * len(self.rules))
        changes = []
        for index, rule in enumerate(self.rules):
            old = row[index]
            signal, value = rule.signal(rul, probabilities)
            new, event = _step(old or Status(State.NORMAL, life, cycle, value), rule, signal, life, cycle, value, unit)
            row[index] = new
            if old is None or new.state is not old.state or new.shelved_until != old.shelved_until:
                changes.append(Change(asset, rule, new, cycle, time, event))
        return changes

    def states(self, asset: Asset, cycle: int | None = None) -> list[Change]:
        """Every alarm of the asset as it stands, to publish again. cycle: of its newest prediction; without one, as in
        a new life, the cycle at which each state began."""
        known = zip(self._states.get(asset, []), self.rules, strict=False)
        return [Change(asset, r, s, s.since if cycle is None else cycle, None, None) for s, r in known if s is not None]

    def counts(self) -> tuple[int, int, int]:
        """Alarms that are on and not shelved, those of them that are acknowledged, and all that are shelved."""
        on = acknowledged = shelved = 0
        # Over every asset, for each statistics message: a name of this function costs a tenth of a call of `Status.on`.
        normal, raising = State.NORMAL, State.RAISING
        for row in self._states.values():
            for status in row:
                if status is None:
                    continue
                if status.shelved_until is not None:
                    shelved += 1
                elif status.state is not normal and status.state is not raising:
                    on += 1
                    acknowledged += status.acknowledged
        return on, acknowledged, shelved

    @property
    def names(self) -> list[str]:
        return [rule.name for rule in self.rules]

    def replace(self, rules: list[Rule]) -> None:
        """Other rules from the next prediction on. An alarm that bears the same name keeps its states."""
        names = self.names
        for asset, row in self._states.items():
            known = dict(zip(names, row, strict=True))
            self._states[asset] = [known.get(rule.name) for rule in rules]
        self.rules = rules

    def remove(self, asset: Asset) -> None:
        self._states.pop(asset, None)

    def dump(self, asset: Asset) -> bytes:
        """The asset's alarms by name, as they are stored; empty where it has none."""
        if asset not in self._states:
            return b""
        row = self._states.get(asset, [])
        return msgspec.msgpack.encode({r.name: s for s, r in zip(row, self.rules, strict=False) if s is not None})

    def load(self, asset: Asset, blob: bytes) -> list[str]:
        """Take what `dump` gave. Returns the names of alarms that the configuration no longer has."""
        stored = msgspec.msgpack.decode(blob, type=dict[str, Status])
        self._states[asset] = [stored.get(rule.name) for rule in self.rules]
        return [name for name in stored if name not in self.names]

    def new_life(self, asset: Asset, life: int, cycle: int, time: int | None) -> list[Change]:
        """A new life clears the old one's alarms. cycle: the first of the new life."""
        changes = []
        row = self._states.get(asset, [])
        for index, (old, rule) in enumerate(zip(row, self.rules, strict=False)):
            if old is None:
                continue
            state, event = TABLE.get((old.state, Signal.NEW_LIFE), (old.state, None))
            row[index] = new = Status(state, life, cycle, old.value)
            if state is not old.state or old.shelved_until is not None:
                told = event or (Transition.UNSHELVED if old.shelved_until is not None else None)
                changes.append(Change(asset, rule, new, cycle, time, told))
        return changes

    def acknowledge(self, asset: Asset, alarm: str, cycle: int) -> list[Change]:
        """Of one alarm, or of all that stand where `alarm` is empty. cycle: the asset's newest.

        Raises ValueError that says why there is nothing to acknowledge.
        """

        def known(status: Status) -> Status | None:
            return msgspec.structs.replace(status, acknowledged=True) if status.on and not status.acknowledged else None

        if not (changes := self._tend(asset, alarm, cycle, Transition.ACKNOWLEDGED, known)):
            raise ValueError("nothing to acknowledge: no such alarm is on, or somebody acknowledged it already")
        return changes

    def shelve(self, asset: Asset, alarm: str, cycle: int, cycles: int, unit: int = 1) -> list[Change]:
        """Keep quiet about it for the next `cycles`; 0 ends that now. unit: see `predicted`. Raises ValueError."""
        until = cycle + cycles * unit if cycles else None

        def shelved(status: Status) -> Status | None:
            new = msgspec.structs.replace(status, shelved_until=until)
            return new if new != status else None

        event = Transition.SHELVED if cycles else Transition.UNSHELVED
        if not (changes := self._tend(asset, alarm, cycle, event, shelved)):
            raise ValueError("nothing to shelve: no alarm has a state yet, or all stand like this already")
        return changes

    def _tend(
        self, asset: Asset, alarm: str, cycle: int, event: Transition, tended: Callable[[Status], Status | None]
    ) -> list[Change]:
        """tended: the status after what the operator did, None where it does not apply."""
        if alarm and alarm not in self.names:
            raise ValueError(f"there is no alarm {alarm!r}; there are {', '.join(self.names) or 'none'}")
        changes = []
        row = self._states.get(asset, [])
        for index, (old, rule) in enumerate(zip(row, self.rules, strict=False)):
            if old is not None and alarm in ("", rule.name) and (new := tended(old)) is not None:
                row[index] = new
                changes.append(Change(asset, rule, new, cycle, None, event))
        return changes


def _step(
    old: Status, rule: Rule, signal: Signal, life: int, cycle: int, value: float, unit: int
) -> tuple[Status, Transition | None]:
    state, event = TABLE.get((old.state, signal), (old.state, None))
    since = old.since if state is old.state else cycle
    delay = {State.RAISING: rule.on_delay, State.CLEARING: rule.off_delay}.get(state)
    if delay is not None and round((cycle - since) / unit) >= delay:
        state, event = TABLE[state, Signal.ELAPSED]
        since = cycle
    until = old.shelved_until
    seen = old.value if state is old.state else value
    new = Status(state, life, since, seen, shelved_until=until if until is not None and cycle < until else None)
    if new.shelved_until is not None:
        event = None  # it moves in silence
    elif until is not None:
        event = event or Transition.UNSHELVED
    return msgspec.structs.replace(new, acknowledged=old.acknowledged and new.on), event
