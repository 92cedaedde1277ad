"""RUL over cycles in a bounded number of points."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.trace import POINTS, Trace

LIVES = st.lists(st.tuples(st.integers(1, 700), st.integers(1, 40)), min_size=1, max_size=4)


@given(LIVES)
def test_however_long_it_is_bounded_in_order_and_ends_with_the_present(lives: list[tuple[int, int]]) -> None:
    trace, said = Trace(), {}
    for life, (count, step) in enumerate(lives):
        for cycle in range(5, 5 + count * step, step):
            said[life, cycle] = float(cycle % 97)
            trace.put(life, cycle, said[life, cycle])
            assert len(trace) <= POINTS
    points = trace.points()
    keys = [(p.life, p.cycle) for p in points]
    assert keys == sorted(set(keys))
    assert all(said[p.life, p.cycle] == p.rul for p in points)
    assert keys[-1] == max(said)
    newest = [p.cycle for p in points if p.life == len(lives) - 1]
    count, step = lives[-1]
    assert newest[0] == 5, "the newest life is there from its first cycle on"
    widest = max((b - a for a, b in pairwise(newest)), default=0)
    assert widest <= max(step, count * step // (POINTS // 8)), "and evenly"


def test_a_revision_corrects_its_own_point_and_nothing_else() -> None:
    trace = Trace()
    for cycle in (1, 2, 3):
        trace.put(0, cycle, 100.0 - cycle, 90.0, 110.0)
    trace.put(0, 2, 50.0, 40.0, 60.0)
    trace.put(0, 3, 7.0)
    trace.put(0, 0, 1.0)
    assert [(p.cycle, p.rul, p.low) for p in trace.points()[:2]] == [(1, 99.0, 90.0), (2, 50.0, 40.0)]
    assert trace.points()[2].rul == 7.0 and math.isnan(trace.points()[2].low)
    assert len(trace) == 3


def test_the_change_is_that_of_the_newest_life_and_none_where_it_is_young() -> None:
    trace = Trace()
    assert trace.change(20) is None
    for cycle in range(30):
        trace.put(0, cycle, 100.0 - 2 * cycle)
    assert trace.change(20) == pytest.approx(-40.0)
    for cycle in range(20):
        trace.put(1, cycle, 125.0)
        assert trace.change(20) is None
    trace.put(1, 24, 119.0)
    assert trace.change(20) == pytest.approx(-6.0 * 20 / 20)


def test_what_are_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match="7 bytes"):
        Trace(packed=bytearray(7)).check()
