"""Lives, duplicates, gaps and windows, against an oracle that cleans the series first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.life import Applied, Lives
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.core.window import Rings
from edge_rul.errors import Reason

T, F = 4, 2
NAN = float("nan")


class Bench:
    """Lives and rings of a small window, fed with one asset's readings."""

    def __init__(self, limit: int = 10) -> None:
        self.rings = Rings(T, F)
        self.lives = Lives(self.rings, limit)

    def feed(
        self, cycle: int, time: int | None = None, values: tuple[float, float] | None = None, asset: str = "x"
    ) -> Applied | Reason:
        numbers = (float(cycle), -float(cycle)) if values is None else values
        return self.lives.apply(Reading(Asset(asset), cycle, time, np.array(numbers, np.float32)))

    def window(self, row: int = 0) -> list[list[float]]:
        out = np.empty((T, F), np.float32)
        self.rings.copy(row, out)
        return out.tolist()


def accepted(result: Applied | Reason) -> Applied:
    assert isinstance(result, Applied), result
    return result


def test_a_window_is_due_from_the_t_th_reading_on() -> None:
    bench = Bench()
    assert [accepted(bench.feed(c)).due for c in range(1, 7)] == [False, False, False, True, True, True]
    assert bench.window() == [[c, -c] for c in (3, 4, 5, 6)]


def test_a_duplicate_and_a_conflict_change_nothing() -> None:
    bench = Bench()
    for cycle in range(5):
        bench.feed(cycle, time=cycle)
    before = bench.window()
    assert bench.feed(4, time=4) is Reason.DUPLICATE
    assert bench.feed(3, time=3) is Reason.DUPLICATE
    assert bench.feed(4, time=99, values=(7, 7)) is Reason.CONFLICT
    assert bench.window() == before


def test_gaps_are_counted_and_the_window_is_of_readings() -> None:
    bench = Bench()
    assert [accepted(bench.feed(c)).gap for c in (1, 2, 5, 6)] == [0, 0, 2, 0]
    assert bench.window() == [[c, -c] for c in (1, 2, 5, 6)]


def test_a_cycle_that_fills_a_hole_is_late_whatever_its_time() -> None:
    bench = Bench()
    for cycle in (1, 2, 4, 5):
        bench.feed(cycle, time=cycle)
    assert bench.feed(3, time=3) is Reason.LATE
    assert bench.feed(3, time=1000) is Reason.LATE


def test_a_lower_cycle_with_a_newer_time_begins_a_life() -> None:
    bench = Bench()
    for cycle in range(10, 16):
        bench.feed(cycle, time=cycle)
    first = accepted(bench.feed(1, time=100))
    assert (first.life, first.ended, first.due, first.gap) == (1, 0, False, 0)
    assert bench.feed(15, time=15) is Reason.OLD_LIFE  # sent again, although its number lies ahead
    assert accepted(bench.feed(16, time=16)).life == 1  # beyond the old life: a clock that was set back


def test_a_lower_cycle_that_the_ring_still_holds_begins_a_life_too() -> None:
    bench = Bench()
    for cycle in (1, 2, 3):
        bench.feed(cycle, time=cycle)
    assert accepted(bench.feed(1, time=50)).ended == 0
    assert bench.feed(1, time=50) is Reason.DUPLICATE


def test_without_event_times_only_a_reset_begins_a_life() -> None:
    bench = Bench()
    for cycle in range(10, 15):
        bench.feed(cycle)
    assert bench.feed(1) is Reason.OLD_LIFE
    assert bench.lives.reset(Asset("x")) == (1, 14)
    assert bench.lives.reset(Asset("x")) is None
    assert accepted(bench.feed(1)).life == 1
    assert bench.lives.reset(Asset("unknown")) is None


def test_what_came_before_a_reset_does_not_begin_the_next_life() -> None:
    bench = Bench()
    bench.feed(14, time=140)
    bench.lives.reset(Asset("x"))
    assert bench.feed(14, time=140) is Reason.OLD_LIFE
    assert accepted(bench.feed(1, time=150)).life == 1


def test_an_older_time_with_a_lower_cycle_is_of_the_old_life() -> None:
    bench = Bench()
    bench.feed(50, time=500)
    assert bench.feed(7, time=70) is Reason.OLD_LIFE


def test_what_has_left_the_ring_is_late() -> None:
    bench = Bench()
    for cycle in range(1, 9):
        bench.feed(cycle, time=cycle)
    assert bench.feed(2, time=2) is Reason.LATE


def test_a_missing_value_is_held_from_the_reading_before() -> None:
    bench = Bench()
    for cycle in range(1, 4):
        bench.feed(cycle)
    assert accepted(bench.feed(4, values=(NAN, 9.0))).due
    assert bench.window()[-1] == [3.0, 9.0]
    assert bench.rings.held(0) == 1
    accepted(bench.feed(5, values=(NAN, NAN)))
    assert bench.window()[-1] == [3.0, 9.0]
    assert bench.rings.held(0) == 3


def test_a_held_reading_that_comes_again_is_a_duplicate() -> None:
    bench = Bench()
    bench.feed(1)
    bench.feed(2, values=(NAN, 9.0))
    assert bench.feed(2, values=(NAN, 9.0)) is Reason.DUPLICATE
    assert bench.feed(2, values=(NAN, 8.0)) is Reason.CONFLICT


def test_nothing_is_held_across_lives() -> None:
    bench = Bench()
    assert bench.feed(1, values=(NAN, 1.0)) is Reason.NOTHING_TO_HOLD
    assert len(bench.lives) == 0
    bench.feed(5, time=5)
    assert bench.feed(1, time=9, values=(NAN, 1.0)) is Reason.NOTHING_TO_HOLD
    assert accepted(bench.feed(6, time=10)).life == 0  # the refused reading ended nothing


def test_the_number_of_assets_is_bounded() -> None:
    bench = Bench(limit=2)
    accepted(bench.feed(1, asset="a"))
    accepted(bench.feed(1, asset="b"))
    assert bench.feed(1, asset="c") is Reason.TOO_MANY_ASSETS
    accepted(bench.feed(2, asset="a"))
    assert len(bench.lives) == 2


def test_rows_keep_their_readings_while_the_memory_grows() -> None:
    bench = Bench(limit=1000)
    for cycle in range(1, T + 1):
        for asset in range(300):
            bench.feed(cycle, values=(cycle, asset), asset=f"a{asset}")
    for asset in (0, 63, 64, 299):
        assert bench.window(asset) == [[cycle, asset] for cycle in range(1, T + 1)]


@settings(max_examples=300)
@given(
    lives=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=12), min_size=1, max_size=4),
    repeats=st.lists(st.integers(0, 200), max_size=30),
)
def test_windows_equal_sliding_windows_over_each_cleaned_life(lives: list[list[int]], repeats: list[int]) -> None:
    """Each life is a list of steps between cycles. Readings are sent in order, each now and then sent again later."""
    sent: list[tuple[int, int, int]] = []  # life, cycle, time
    time = 0
    for number, steps in enumerate(lives):
        cycle = 0
        for step in steps:
            cycle += step
            time += 1
            sent.append((number, cycle, time))
    oracle: dict[tuple[int, int], list[list[float]]] = {}
    number, series = 0, list[tuple[int, int]]()
    for _, cycle, at in sent:
        if series and cycle <= series[-1][0]:
            hole = cycle not in [c for c, _ in series[-T:]] and cycle > series[-T:][0][0]
            if hole or cycle == series[-1][0]:
                continue
            number, series = number + 1, []
        series.append((cycle, at))
        if len(series) >= T:
            oracle[number, cycle] = [[float(c), float(t)] for c, t in series[-T:]]

    bench = Bench()
    found: dict[tuple[int, int], list[list[float]]] = {}
    replay = dict(enumerate(repeats))
    for index, (_, cycle, at) in enumerate(sent):
        result = bench.feed(cycle, time=at, values=(cycle, at))
        if isinstance(result, Applied) and result.due:
            assert (result.life, cycle) not in found
            found[result.life, cycle] = bench.window()
        if index in replay:  # redelivery of something older, with its own time
            _, old_cycle, old_time = sent[replay[index] % (index + 1)]
            assert isinstance(bench.feed(old_cycle, time=old_time, values=(old_cycle, old_time)), Reason)
    assert found == oracle


@pytest.mark.parametrize("first", [0, 2**53])
def test_extreme_cycle_numbers(first: int) -> None:
    assert accepted(Bench().feed(first)).life == 0
