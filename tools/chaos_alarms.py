"""What the alarms of a chaos run have to say, and whether they said it: events, their ids, and the state that is left.

Owns a second, plain account of one RUL alarm with deadband and delays, and the comparison with what was published. Must
not use the daemon's own alarm table, whose faults it is there to find.

An alarm moves with the first answer to each new cycle, in the order in which they were published. Those are held
against the offline run by chaos_witness; here they are taken as said, since the first answer to a window with a hole in
it depends on what came late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

# High and narrow, so that there are many: an engine's predictions begin near 125 cycles and waver.
NAME, BELOW, DEADBAND, ON_DELAY, OFF_DELAY = "rul_low", 110.0, 2.0, 2, 2


class Event(NamedTuple):
    """What a published event says, without its id. value: the RUL at the last change."""

    life: int
    cycle: int
    event: str
    value: float


class Step(NamedTuple):
    """The first answer to a new cycle, or, where `rul` is None, the first reading of a new life."""

    life: int
    cycle: int
    rul: float | None


def expected(asset: str, steps: Iterable[Step]) -> tuple[dict[str, Event], str]:
    """The events of one asset by id, and the state at the end. asset: with its levels, as the ids name it."""
    events: dict[str, Event] = {}
    state, since, value = "normal", 0, 0.0

    def happened(event: str, step: Step) -> None:
        events[f"{asset}/{step.life}/{step.cycle}/{NAME}/{event}"] = Event(step.life, step.cycle, event, value)

    for step in steps:
        if step.rul is None:
            if state in ("active", "clearing"):
                happened("cleared", step)
            state = "normal"
            continue
        before = state
        if step.rul < BELOW:
            state = {"normal": "raising", "clearing": "active"}.get(state, state)
        elif state == "raising":
            state = "normal"
        elif state == "active" and step.rul >= BELOW + DEADBAND:
            state = "clearing"
        elif state == "clearing" and step.rul < BELOW + DEADBAND:
            state = "active"
        if state != before:
            since, value = step.cycle, step.rul
        if state in ("raising", "clearing") and step.cycle - since >= (ON_DELAY if state == "raising" else OFF_DELAY):
            state, value = ("active" if state == "raising" else "normal"), step.rul
            happened("raised" if state == "active" else "cleared", step)
    return events, state


def compare(right: Mapping[str, Event], said: Mapping[str, set[Event]], close: float) -> tuple[list[str], list[str]]:
    """(ids of events that were never published, ids of those that should not have been, or said something else).

    said: by id; an event may be published twice around a crash, and has to say the same then. close: what a value may
    differ by, as a window's answer moves in its last digits with the batch that it is in.
    """

    def alike(one: Event | None, other: Event) -> bool:
        return one is not None and one[:3] == other[:3] and abs(one.value - other.value) <= close

    missing = [id_ for id_ in right if id_ not in said]
    wrong = [id_ for id_, found in said.items() if not all(alike(right.get(id_), event) for event in found)]
    return missing, wrong
