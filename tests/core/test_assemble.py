"""Readings that come in parts, one sensor a message, against the same readings sent whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from core.test_pipeline import NOW, OUTGOING, Tail, drain, engine, make, predictions
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.assemble import OPEN, Assembled, Overdue
from edge_rul.core.life import Applied, Lives
from edge_rul.core.outgoing import Message
from edge_rul.core.payload import Decoder, Part, Reading
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.topic import Asset, Template
from edge_rul.core.window import Rings
from edge_rul.errors import Reason

X = Asset("x")
T, F, LATE = 4, 3, 4
NAN = float("nan")
HOLD = np.array([True, True, False])

Sent = tuple[int, int]  # cycle, input


def make_lives() -> Lives:
    return Lives(Rings(T, F, max_late=LATE), 10)


def part(cycle: int, number: int, value: float | None = None, time: int | None = None) -> Part:
    return Part(X, cycle, time, number, float(10 * cycle + number) if value is None else value)


def cycles(ended: list[Assembled] | Reason) -> list[tuple[int, list[float], Reason | None]]:
    assert not isinstance(ended, Reason)
    return [(a.reading.cycle, a.reading.values.tolist(), a.refused) for a in ended]


@st.composite
def plants(draw: st.DrawFn) -> tuple[dict[int, list[int]], list[Sent | Overdue]]:
    """Which inputs come of each cycle, and everything in order of arrival: parts of one reading among those of its
    neighbours, and the deadline of one that is incomplete behind them."""
    sent: dict[int, list[int]] = {}
    order: list[tuple[float, Sent | Overdue]] = []
    for cycle in range(draw(st.integers(1, 12))):
        lacking = draw(st.sampled_from([None, None, None, 0, 1, 2])) if cycle else None
        sent[cycle] = [number for number in range(F) if number != lacking]
        delays = [draw(st.sampled_from([0.0, 0.5, 1.5, 2.5])) if cycle else 0.0 for _ in sent[cycle]]
        order += [(cycle + delay, (cycle, number)) for delay, number in zip(delays, sent[cycle], strict=True)]
        if lacking is not None:
            order.append((cycle + 3.0, Overdue(X, cycle)))
    return sent, [entry for _, entry in sorted(order, key=lambda at: at[0])]


@settings(max_examples=150)
@given(plant=plants(), repeats=st.lists(st.integers(0, 9), max_size=20), restarts=st.sets(st.integers(0, 40)))
def test_parts_in_any_order_give_the_windows_of_whole_readings(
    plant: tuple[dict[int, list[int]], list[Sent | Overdue]], repeats: list[int], restarts: set[int]
) -> None:
    """Also where the state is stored and taken up again between two parts, and where a part comes twice."""
    sent, order = plant
    lives = make_lives()
    windows: dict[int, list[list[float]]] = {}
    used = {cycle for cycle, numbers in sent.items() if 2 in numbers}  # the others lack what may not be held
    for index, entry in enumerate(order):
        if index in restarts:
            blob, lives = lives.dump(X), make_lives()
            lives.load(X, blob)
        ended = lives.assemble(entry if isinstance(entry, Overdue) else part(*entry), HOLD)
        assert not isinstance(ended, Reason)
        for assembled in ended:
            assert (assembled.refused is None) == (assembled.reading.cycle in used)
            if assembled.refused is None:
                applied = lives.apply(assembled.reading)
                assert isinstance(applied, Applied)
                windows |= {a.cycle: a.window.readings.values.tolist() for a in applied.answers}
        recent = [e for e in order[: index + 1] if not isinstance(e, Overdue) and e[0] in used][-5:]
        if recent and index < len(repeats):
            assert lives.assemble(part(*recent[repeats[index] % len(recent)]), HOLD) is Reason.DUPLICATE
    whole, expected = make_lives(), {}
    for cycle in sorted(used):
        values = [float(10 * cycle + n) if n in sent[cycle] else NAN for n in range(F)]
        applied = whole.apply(Reading(X, cycle, None, np.array(values, np.float32)))
        assert isinstance(applied, Applied)
        expected |= {a.cycle: a.window.readings.values.tolist() for a in applied.answers}
    assert windows == expected
    assert lives.assembly.open(X) == []


def test_a_reading_has_the_newest_time_of_its_parts() -> None:
    lives = make_lives()
    for number, time in ((0, 5), (1, 9)):
        assert lives.assemble(part(1, number, time=time), HOLD) == []
    ended = lives.assemble(part(1, 2), HOLD)
    assert cycles(ended) == [(1, [10.0, 11.0, 12.0], None)]
    assert not isinstance(ended, Reason)
    assert ended[0].reading.time == 9


def test_the_same_part_with_another_value_is_a_conflict_and_one_behind_the_deadline_is_late() -> None:
    lives = make_lives()
    lives.assemble(part(1, 0), HOLD)
    assert lives.assemble(part(1, 0, 7.0), HOLD) is Reason.CONFLICT
    lives.assemble(part(1, 1, NAN), HOLD)
    assert lives.assemble(part(1, 1, NAN), HOLD) is Reason.DUPLICATE
    assert lives.assemble(part(1, 1, 7.0), HOLD) is Reason.CONFLICT
    lives = make_lives()
    for entry in (part(1, 0), part(1, 1), part(1, 2), part(2, 1), part(2, 2), Overdue(X, 2)):
        ended = lives.assemble(entry, HOLD)
        assert not isinstance(ended, Reason)
        for assembled in ended:
            assert isinstance(lives.apply(assembled.reading), Applied)
    assert lives.assemble(part(2, 0), HOLD) is Reason.LATE
    assert lives.assemble(part(2, 1), HOLD) is Reason.DUPLICATE
    assert lives.assemble(part(2, 1, 7.0), HOLD) is Reason.CONFLICT


def test_a_reading_that_an_overhaul_left_open_does_not_lead_the_new_life() -> None:
    lives = make_lives()
    for cycle in range(1, 10):
        lives.apply(Reading(X, cycle, cycle, np.zeros(F, np.float32)))
    lives.assemble(part(10, 2, time=10), HOLD)  # the machine stops in the middle of it
    assert isinstance(applied := lives.apply(Reading(X, 1, 100, np.zeros(F, np.float32))), Applied)
    assert applied.ended == 0
    (left,) = lives.close(X, HOLD)
    assert (left.reading.cycle, left.refused) == (10, None)
    assert lives.apply(left.reading) is Reason.OLD_LIFE
    assert lives.standing(X).cycle == 1


def test_an_asset_has_so_many_open_readings_and_no_more() -> None:
    lives = make_lives()
    for cycle in range(OPEN):
        assert lives.assemble(part(cycle, 2), HOLD) == []
    assert cycles(lives.assemble(part(OPEN, 0), HOLD))[0][0] == 0
    assert len(lives.assembly.open(X)) == OPEN
    for cycle in range(1000, 3000):
        lives.assemble(part(cycle, 0), HOLD)
    assert len(lives.assembly.open(X)) == OPEN


def test_what_is_removed_or_of_too_many_assets_is_not_kept() -> None:
    lives = Lives(Rings(T, F), 1)
    lives.assemble(part(1, 0), HOLD)
    assert lives.assemble(Part(Asset("y"), 1, None, 0, 1.0), HOLD) is Reason.TOO_MANY_ASSETS
    lives.remove(X)
    assert lives.assembly.open(X) == []
    assert lives.assemble(Overdue(X, 1), HOLD) == []


# -- through the corridor --------------------------------------------------------------------------------------------


def make_pipeline(**more: Any) -> Pipeline:
    """Two inputs, of which `p` may be held; parts come within 10 s."""
    pipeline = make(**more)
    templates = [Template("in/{asset}"), Template("parts/{asset}/{sensor}")]
    pipeline.decoder = Decoder(["p", "q"], templates, command=Template("cmd"), hold=["p"])
    return pipeline


def send(pipeline: Pipeline, tail: Tail, sensor: str, payload: Any, topic: str = "parts/x/") -> None:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    decoded = pipeline.decode(f"{topic}{sensor}", data, NOW)
    tail.put([*decoded.entries, *decoded.rejected])


def letters(messages: list[Message]) -> list[tuple[str, str, str]]:
    said = [json.loads(m.payload) for m in messages if m.topic == "out/dead"]
    return [(letter["reason"], letter["topic"], letter["payload"]) for letter in said]


def test_parts_become_a_prediction_and_what_is_missing_at_the_deadline_is_held_or_refused() -> None:
    pipeline, tail = make_pipeline(), Tail(100)
    for cycle in (1, 2, 3):
        send(pipeline, tail, "p", {"cycle": cycle, "value": 40.0 + cycle})
        send(pipeline, tail, "q", [{"cycle": cycle, "value": 0.5, "ts": NOW}])
    send(pipeline, tail, "q", {"cycle": 4, "value": 0.5})
    send(pipeline, tail, "p", {"cycle": 5, "value": 45.0})
    send(pipeline, tail, "unknown", {"cycle": 5, "value": 1.0})
    messages = drain_at(pipeline, tail, 100.0)
    assert [(p["cycle"], p["rul"], p["ts"]) for p in predictions(messages)] == [(3, 43.0, "2026-01-01T00:00:00.000Z")]
    assert pipeline.tick(110.0, 0, 0.0) == []
    assert pipeline.tick(111.0, 0, 105.0) == [], "nobody could be heard before"
    overdue = pipeline.tick(116.0, 0, 105.0, all_applied=False)
    assert overdue == [Overdue(Asset("x"), 4), Overdue(Asset("x"), 5)]
    assert pipeline.tick(200.0, 0, 105.0) == [], "each is told once"
    tail.put(list(overdue))
    messages = drain_at(pipeline, tail, 117.0)
    (held,) = predictions(messages)
    assert (held["cycle"], held["rul"], held["quality"]["held"]) == (4, 43.0, 1)
    refused = {"cycle": 5, "ts": None, "values": {"p": 45.0, "q": None}}
    assert letters(messages) == [("missing_input", "parts/x/+", json.dumps(refused, separators=(",", ":")))]
    assert (pipeline.counts["readings"], pipeline.counts["parts"]) == (5, 8)


def drain_at(pipeline: Pipeline, tail: Tail, now: float) -> list[Message]:
    messages: list[Message] = []
    while (batch := pipeline.fill(tail, tail.last, now=now)) is not None:
        messages += pipeline.complete(batch, *engine(batch.x)).messages
    return messages


def test_a_reset_ends_what_is_open_in_the_life_that_it_came_in() -> None:
    pipeline, tail = make_pipeline(), Tail(100)
    for cycle in (1, 2, 3):
        for sensor in "qp" if cycle < 3 else "q":
            send(pipeline, tail, sensor, {"cycle": cycle, "value": 0.5})
    tail.put(pipeline.decode("cmd", b'{"command": "reset", "asset": "x"}', NOW).entries)
    send(pipeline, tail, "q", {"cycle": 1, "value": 0.5})
    found = predictions(drain(pipeline, tail))
    assert [(p["life"], p["cycle"]) for p in found] == [(0, 3)]
    assert pipeline.lives.assembly.open(X) == [1]


def test_a_reset_that_comes_again_does_not_end_what_is_open_of_the_life_that_it_began() -> None:
    pipeline, tail = make_pipeline(), Tail(100)
    for sensor in "qp":
        send(pipeline, tail, sensor, {"cycle": 9, "value": 0.5})
    for again in (False, True):
        tail.put(pipeline.decode("cmd", b'{"command": "reset", "asset": "x"}', NOW, again=again).entries)
        send(pipeline, tail, "q", {"cycle": 1, "value": 0.5})
    send(pipeline, tail, "p", {"cycle": 1, "value": 7.0})
    drain(pipeline, tail)
    assert pipeline.counts["readings"] == 2
    assert pipeline.dropped == {}
    assert pipeline.lives.standing(X).life == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"value": 1.0}, Reason.NO_KEY),
        (b"642.1", Reason.BAD_SHAPE),
        ({"cycle": 1, "values": [1.0, 2.0]}, Reason.BAD_SHAPE),
        ({"cycle": 1, "value": "1"}, Reason.BAD_VALUE),
        ({"cycle": 1, "value": None}, Reason.MISSING_INPUT),
        (b'{"cycle": 1, "value": NaN}', Reason.NOT_FINITE),
        (b'{"cycle": 1, "value": 1e39}', Reason.NOT_FINITE),
        ({"cycle": -1, "value": 1.0}, Reason.BAD_CYCLE),
        ({"ts": 1, "value": 1.0}, Reason.BAD_TIME),
    ],
)
def test_each_mistake_in_a_part_has_its_counter(payload: Any, reason: Reason) -> None:
    pipeline, tail = make_pipeline(outgoing=OUTGOING), Tail(100)
    send(pipeline, tail, "q", payload)
    assert dict(pipeline.dropped) == {reason: 1}
    assert letters(drain(pipeline, tail))[0][:2] == (reason.value, "parts/x/q")
