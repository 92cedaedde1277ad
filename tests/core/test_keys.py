"""Readings without a number: known by their event times, against an oracle that sorts them first, or by arrival."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core.test_pipeline import NOW, Tail, drain, make, predictions, put, send
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.alarm import RulAlarm
from edge_rul.core.command import Command
from edge_rul.core.life import Applied, Lives
from edge_rul.core.payload import NO_NUMBER, Key, Reading
from edge_rul.core.topic import Asset
from edge_rul.core.window import Rings
from edge_rul.errors import Reason

X = Asset("x")
T, LATE, STEP = 4, 3, 10_000
NAN = float("nan")

Sent = tuple[int, tuple[float, float]]  # time, values


def make_lives(max_gap: int = 0, seconds: float | None = STEP / 1000, *, restart: bool = False) -> Lives:
    rings = Rings(T, 2, max_late=LATE, max_gap=max_gap, changes=True, seconds_per_cycle=seconds, restart=restart)
    return Lives(rings, 10)


def feed(lives: Lives, cycle: int, values: tuple[float, float] = (1.0, 2.0), key: Key = "time") -> Applied | Reason:
    time = cycle if key == "time" else None
    return lives.apply(Reading(X, cycle, time, np.array(values, np.float32), key=key))


def accepted(result: Applied | Reason) -> Applied:
    assert isinstance(result, Applied), result
    return result


def missing(before: int, after: int) -> int:
    """Cycles that never came between two neighbours."""
    return max(0, round((after - before) / STEP) - 1)


def oracle(
    lives: list[list[Sent]], max_gap: int, *, restart: bool
) -> dict[tuple[int, int], tuple[list[list[float]], int]]:
    """Windows and what is missing in them, by (life, time): each life sorted, what is missing filled, slid over.

    restart: what comes before a longer gap is not in a window after it.
    """
    windows = {}
    for number, life in enumerate(lives):
        rows: list[tuple[int, list[float]]] = []  # index of the reading that the row shows, and what it holds
        times = sorted(time for time, _ in life)
        for index, (time, values) in enumerate(sorted(life)):
            if rows:
                before = rows[-1][1]
                gap = missing(times[index - 1], time)
                rows += [(index - 1, before)] * (gap if gap <= max_gap else 0)
                rows = [] if restart and gap > max_gap else rows
                values = tuple(b if np.isnan(v) else v for v, b in zip(values, before, strict=True))  # noqa: PLW2901
            rows.append((index, list(values)))
            if len(rows) >= T:
                shown = rows[-T:]
                first = max(shown[0][0] - 1, 0)  # as the window's first change counts from there
                absent = sum(missing(times[i], times[i + 1]) for i in range(first, index))
                windows[number, time] = [row for _, row in shown], absent
    return windows


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Sent]], list[list[Sent]], int, bool]:
    """Lives, the order in which each one's readings are sent, late by two at most, a max_gap, and what is beyond it.

    Their times jitter about multiples of 10 s, with gaps; where these count by less than a quarter of a cycle, as
    beyond that a late reading may make its neighbours' distance less than it was, and a window that was full is not.
    """
    max_gap, restart = draw(st.integers(0, 3)), draw(st.booleans())
    far = 2400 if max_gap or restart else 4000
    lives: list[list[Sent]] = []
    orders: list[list[Sent]] = []
    time = NOW
    for number in range(draw(st.integers(1, 3))):
        life = list[Sent]()
        for step, jitter in draw(
            st.lists(st.tuples(st.integers(1, 4), st.integers(-far, far)), min_size=1, max_size=14)
        ):
            time += step * STEP
            held = draw(st.booleans()) and bool(life)
            life.append((time + jitter, (NAN if held else float(len(life)), float(number))))
        # The first one opens the life and is never late.
        keys = [i if i == 0 else i + draw(st.sampled_from([0.0, 0.0, 1.5, 2.5])) for i in range(len(life))]
        lives.append(life)
        orders.append([life[i] for i in sorted(range(len(life)), key=lambda i, keys=keys: (keys[i], i))])  # type: ignore[misc]
    return lives, orders, max_gap, restart


@settings(max_examples=200)
@given(
    history=histories(),
    repeats=st.lists(st.integers(0, 50), max_size=20),
    restarts=st.sets(st.integers(0, 40)),
)
def test_final_revisions_equal_sliding_windows_over_the_sorted_series(
    history: tuple[list[list[Sent]], list[list[Sent]], int, bool], repeats: list[int], restarts: set[int]
) -> None:
    """Whatever their order, however often one comes, and wherever the state is stored and taken up again."""
    series, orders, max_gap, restart = history
    lives = make_lives(max_gap, restart=restart)
    found: dict[tuple[int, int], tuple[int, list[list[float]], int]] = {}
    sent: list[Sent] = []
    for number, order in enumerate(orders):
        if number:
            lives.reset(Command("reset", X))
        for reading in order:
            if len(sent) in restarts:
                blob, lives = lives.dump(X) if X in lives else b"", make_lives(max_gap, restart=restart)
                lives.load(X, blob)
            applied = accepted(feed(lives, *reading))
            assert (applied.life, applied.cycle) == (number, reading[0])
            for answer in applied.answers:
                key = applied.life, answer.cycle
                assert answer.revision == (found[key][0] + 1 if key in found else 0)
                found[key] = answer.revision, answer.window.readings.values.tolist(), answer.window.missing
            sent.append(reading)
            if len(sent) <= len(repeats):
                # Those of a life before are told to be so; of this one each is the same again, or has left the ring.
                verdict = feed(lives, *sent[repeats[len(sent) - 1] % len(sent)])
                assert verdict in (Reason.DUPLICATE, Reason.OLD_LIFE, Reason.LATE)
    assert {key: (window, absent) for key, (_, window, absent) in found.items()} == oracle(
        series, max_gap, restart=restart
    )


def test_the_same_time_with_other_values_is_a_conflict() -> None:
    lives = make_lives()
    accepted(feed(lives, NOW))
    assert feed(lives, NOW) is Reason.DUPLICATE
    assert feed(lives, NOW, (7.0, 7.0)) is Reason.CONFLICT
    accepted(feed(lives, NOW + 1))  # at least one cycle further, however near


def test_no_time_begins_a_life() -> None:
    lives = make_lives()
    for time in (NOW, NOW + STEP, NOW + 10**9):
        assert accepted(feed(lives, time)).ended is None
    assert feed(lives, NOW - STEP) is Reason.OLD_LIFE
    assert lives.reset(Command("reset", X)) == (1, NOW + 10**9)
    assert feed(lives, NOW + 10**9) is Reason.OLD_LIFE
    assert accepted(feed(lives, NOW + 10**9 + STEP)).life == 1


def test_gaps_are_told_only_where_somebody_said_how_long_a_cycle_is() -> None:
    times = [NOW + i * STEP for i in (0, 1, 4, 5, 6)]
    known, unknown = make_lives(), make_lives(seconds=None)
    assert [accepted(feed(known, time)).gap for time in times] == [0, 0, 2, 0, 0]
    assert [accepted(feed(unknown, time)).gap for time in times] == [0, 0, 0, 0, 0]
    for lives, absent, unit, elapsed in ((known, 2, STEP, [1, 3, 1, 1]), (unknown, 0, 5 * STEP // 3, [1, 1, 1, 1])):
        newest = lives.newest(X)
        assert newest is not None
        window = newest[1].window
        assert (window.missing, window.unit) == (absent, unit)
        assert window.readings.elapsed is not None
        assert window.readings.elapsed[:, 0].tolist() == elapsed  # cycles
        assert window.readings.elapsed[:, 1].tolist() == [STEP, 3 * STEP, STEP, STEP]  # milliseconds


KEYS: list[tuple[Key, int]] = [("cycle", 7), ("time", NOW), ("arrival", NO_NUMBER)]


@pytest.mark.parametrize("first", KEYS)
@pytest.mark.parametrize("other", KEYS)
def test_a_life_holds_readings_of_one_key_only(first: tuple[Key, int], other: tuple[Key, int]) -> None:
    if first == other:
        return
    lives = make_lives()
    accepted(feed(lives, first[1], key=first[0]))
    assert feed(lives, other[1], key=other[0]) is Reason.OTHER_KEY
    lives.reset(Command("reset", X))
    assert accepted(feed(lives, other[1], key=other[0])).life == 1


def test_by_arrival_each_is_the_next_through_lives_and_restarts() -> None:
    lives = make_lives()
    numbers = []
    for index in range(8):
        if index == 5:
            lives.reset(Command("reset", X))
        applied = accepted(feed(lives, NO_NUMBER, key="arrival"))
        numbers.append((applied.life, applied.cycle, applied.gap, [a.cycle for a in applied.answers]))
        blob, lives = lives.dump(X), make_lives()
        lives.load(X, blob)
    assert numbers == [(0, c, 0, [c] if c >= T else []) for c in range(1, 6)] + [(1, c, 0, []) for c in (1, 2, 3)]


def by_time(pipeline: Any, tail: Tail, index: float, p: float) -> None:
    send(pipeline, tail, "x", None, p, ts=NOW + round(index * STEP))


def test_delays_count_cycles_of_so_many_seconds() -> None:
    """And a shelved alarm is quiet for so many: its end is a time, as `cycle` is one."""
    rule = RulAlarm(name="low", below=40, on_delay=3)
    pipeline, tail = make(rings={"seconds_per_cycle": STEP / 1000}, rules=[rule]), Tail(100)
    for index in range(3):
        by_time(pipeline, tail, index, 40.0)
    drain(pipeline, tail)
    raised = []
    for index in (3, 3.9, 5.1, 5.9, 7):  # beyond the limit from the first of them on: 5.9 is three cycles later
        by_time(pipeline, tail, index, 12.0)
        raised.append([m.topic for m in drain(pipeline, tail) if m.topic == "out/x/e"])
    assert raised == [[], [], [], ["out/x/e"], []]
    put(pipeline, tail, "cmd", b'{"command": "shelve", "asset": "x", "alarm": "low", "cycles": 20}')
    (shelved,) = (m for m in drain(pipeline, tail) if m.topic == "out/x/a/low")
    assert f'"shelved_until":{NOW + 27 * STEP}'.encode() in shelved.payload


def test_what_is_published_is_known_by_its_time() -> None:
    pipeline, tail = make(), Tail(100)
    for index in (0, 1, 2, 4, 3):
        by_time(pipeline, tail, index, 40.0 + index)
    found = [(p["cycle"], p["ts"][11:19], p["revision"]) for p in predictions(drain(pipeline, tail))]
    assert found == [
        (NOW + 2 * STEP, "00:00:20", 0),
        (NOW + 4 * STEP, "00:00:40", 0),
        (NOW + 3 * STEP, "00:00:30", 0),
        (NOW + 4 * STEP, "00:00:40", 1),
    ]
