"""Lives, duplicates, gaps, late readings and windows, against an oracle that cleans the series first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_rul.core.command import Command
from edge_rul.core.life import Applied, Lives
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.core.window import Rings
from edge_rul.errors import Reason

T, F = 4, 2
NAN = float("nan")


class Bench:
    """Lives and rings of a small window, fed with one asset's readings."""

    def __init__(self, limit: int = 10, max_late: int = 3, max_gap: int = 0, *, restart: bool = False) -> None:
        self.rings = Rings(T, F, max_late=max_late, max_gap=max_gap, restart=restart)
        self.lives = Lives(self.rings, limit)

    def feed(
        self, cycle: int, time: int | None = None, values: tuple[float, float] | None = None, asset: str = "x"
    ) -> Applied | Reason:
        numbers = (float(cycle), -float(cycle)) if values is None else values
        return self.lives.apply(Reading(Asset(asset), cycle, time, np.array(numbers, np.float32)))

    def newest(self, asset: str = "x") -> list[list[float]]:
        found = self.lives.newest(Asset(asset))
        assert found is not None
        return found[1].window.readings.values.tolist()


def accepted(result: Applied | Reason) -> Applied:
    assert isinstance(result, Applied), result
    return result


def answers(result: Applied | Reason) -> list[tuple[int, int, bool]]:
    """(cycle, revision, newest) of what is due."""
    return [(a.cycle, a.revision, a.newest) for a in accepted(result).answers]


def test_a_window_is_due_from_the_t_th_reading_on() -> None:
    bench = Bench()
    assert [answers(bench.feed(c)) for c in range(1, 7)] == [
        [],
        [],
        [],
        [(4, 0, True)],
        [(5, 0, True)],
        [(6, 0, True)],
    ]
    assert bench.newest() == [[c, -c] for c in (3, 4, 5, 6)]


def test_a_duplicate_and_a_conflict_change_nothing() -> None:
    bench = Bench()
    for cycle in range(5):
        bench.feed(cycle, time=cycle)
    before = bench.newest()
    assert bench.feed(4, time=4) is Reason.DUPLICATE
    assert bench.feed(3, time=3) is Reason.DUPLICATE
    assert bench.feed(4, time=99, values=(7, 7)) is Reason.CONFLICT
    assert bench.newest() == before


def test_gaps_are_counted_and_the_window_is_of_readings() -> None:
    bench = Bench()
    assert [accepted(bench.feed(c)).gap for c in (1, 2, 5, 6)] == [0, 0, 2, 0]
    assert bench.newest() == [[c, -c] for c in (1, 2, 5, 6)]


def test_a_short_gap_is_held_and_never_due_itself() -> None:
    bench = Bench(max_gap=2)
    assert answers(bench.feed(1)) == []
    assert answers(bench.feed(4)) == [(4, 0, True)]
    assert bench.newest() == [[1, -1], [1, -1], [1, -1], [4, -4]]
    assert answers(bench.feed(8)) == [(8, 0, True)]  # a gap of three is too long to hold
    assert bench.newest() == [[1, -1], [1, -1], [4, -4], [8, -8]]


def test_beyond_a_longer_gap_the_window_begins_anew_where_it_shall_until_a_late_reading_closes_it() -> None:
    bench = Bench(max_gap=1, restart=True)
    assert [accepted(bench.feed(cycle)).restarted for cycle in (1, 2, 3, 5)] == [False] * 4
    after = accepted(bench.feed(8))
    assert (after.gap, after.restarted, after.answers) == (2, True, [])
    assert after.standing is not None
    assert after.standing.readings == 1
    late = accepted(bench.feed(6))
    assert answers(late) == [(6, 0, True), (8, 0, True)]  # none of a newer cycle was answered
    assert [a.window.readings.values[:, 0].tolist() for a in late.answers] == [[3, 3, 5, 6], [5, 6, 6, 8]]
    assert late.standing is not None
    assert late.standing.readings == T
    assert accepted(bench.feed(9)).standing is None


def test_behind_a_long_gap_the_newest_answer_stays_what_it_was() -> None:
    """So that a broker that forgot it is told again, and an operator may see to its alarms."""
    bench = Bench(max_gap=1, restart=True)
    for cycle in (1, 2, 3, 4, 5):
        bench.feed(cycle)
    before = bench.lives.newest(Asset("x"))
    for cycle in (20, 21, 22):
        bench.feed(cycle)
        found = bench.lives.newest(Asset("x"))
        assert before is not None
        assert found is not None
        assert (found[0], found[1].cycle, found[1].revision, found[1].newest) == (0, 5, 0, True)
        assert found[1].window.same(before[1].window)
    assert answers(bench.feed(23)) == [(23, 0, True)]
    assert bench.newest() == [[c, -c] for c in (20, 21, 22, 23)]
    for cycle in range(40, 200, 10):  # until the last window that was answered is not held any more
        bench.feed(cycle)
    assert bench.lives.newest(Asset("x")) is None


def test_a_late_reading_is_put_in_its_place_and_what_it_touches_is_due_again() -> None:
    bench = Bench()
    for cycle in (1, 2, 3, 5, 6):
        bench.feed(cycle, time=cycle)
    result = accepted(bench.feed(4, time=1000))  # whatever its time says
    assert result.late
    assert answers(result) == [(4, 0, False), (5, 1, False), (6, 1, True)]
    assert [a.window.readings.values[:, 0].tolist() for a in result.answers] == [
        [1, 2, 3, 4],
        [2, 3, 4, 5],
        [3, 4, 5, 6],
    ]
    assert bench.feed(4) is Reason.DUPLICATE


def test_a_late_reading_that_changes_nothing_of_a_window_does_not_make_it_due() -> None:
    bench = Bench(max_gap=3, max_late=10)
    for cycle in (1, 2, 4, 5, 6, 7, 8, 9):
        bench.feed(cycle)
    late = answers(bench.feed(3))
    assert late == [(4, 1, False), (5, 1, False), (6, 1, False)]  # of cycle 3 itself there are not four rows yet


def test_the_last_revision_that_there_is_stays() -> None:
    bench = Bench()
    for cycle in (*range(1, T + 1), 10**9):
        bench.feed(cycle)
    found = [bench.rings.revise(0, T) for _ in range(2**15)]
    assert found[-3:] == [2**15 - 2, 2**15 - 1, 2**15 - 1]
    assert answers(bench.feed(T + 1)) == [(T + 1, 0, False), (10**9, 2**15 - 1, True)]


def test_too_late_is_lost_and_counted() -> None:
    bench = Bench(max_late=2)
    for cycle in (1, 2, 3, 5, 6, 7):
        bench.feed(cycle)
    assert bench.feed(4) is Reason.LATE
    assert Bench(max_late=0).feed(1) is not Reason.LATE


def test_a_lower_cycle_with_a_newer_time_begins_a_life() -> None:
    bench = Bench()
    for cycle in range(10, 16):
        bench.feed(cycle, time=cycle)
    first = accepted(bench.feed(1, time=100))
    assert (first.life, first.ended, first.answers, first.gap) == (1, 0, [], 0)
    assert bench.feed(15, time=15) is Reason.OLD_LIFE  # sent again, although its number lies ahead


def test_the_old_lifes_last_reading_that_comes_late_is_not_the_new_ones_newest() -> None:
    bench = Bench()
    for cycle in range(10, 16):
        bench.feed(cycle, time=cycle)
    accepted(bench.feed(1, time=100))
    assert bench.feed(16, time=16) is Reason.OLD_LIFE
    for cycle in range(2, 18):
        assert accepted(bench.feed(cycle, time=100 + cycle)).life == 1


@pytest.mark.parametrize("reached", [3, 15])
def test_a_clock_that_was_set_back_costs_no_more_than_a_window_beyond_the_old_life(reached: int) -> None:
    bench = Bench()
    for cycle in range(10, 16):
        bench.feed(cycle, time=cycle)
    for cycle in range(1, reached + 1):
        bench.feed(cycle, time=100 + cycle)
    lost = [cycle for cycle in range(reached + 1, 30) if bench.feed(cycle, time=cycle) is Reason.OLD_LIFE]
    assert lost == (list(range(4, 15 + T + 1)) if reached < 15 else [])


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
    assert bench.lives.reset(Command("reset", Asset("x"))) == (1, 14)
    assert bench.lives.reset(Command("reset", Asset("x"))) is None
    assert accepted(bench.feed(1)).life == 1
    assert bench.lives.reset(Command("reset", Asset("unknown"))) is None


def test_what_came_before_a_reset_does_not_begin_the_next_life() -> None:
    bench = Bench()
    bench.feed(14, time=140)
    bench.lives.reset(Command("reset", Asset("x")))
    assert bench.feed(14, time=140) is Reason.OLD_LIFE
    assert accepted(bench.feed(1, time=150)).life == 1


def test_an_older_time_with_a_lower_cycle_is_of_the_old_life() -> None:
    bench = Bench()
    bench.feed(50, time=500)
    assert bench.feed(7, time=70) is Reason.OLD_LIFE


def test_what_has_left_the_ring_is_late() -> None:
    bench = Bench()
    for cycle in range(1, 20):
        bench.feed(cycle, time=cycle)
    assert bench.feed(2, time=2) is Reason.LATE


def test_a_missing_value_is_held_from_the_reading_before() -> None:
    bench = Bench()
    for cycle in range(1, 4):
        bench.feed(cycle)
    (due,) = accepted(bench.feed(4, values=(NAN, 9.0))).answers
    assert due.window.readings.values[-1].tolist() == [3.0, 9.0]
    assert due.window.held == 1
    (due,) = accepted(bench.feed(5, values=(NAN, NAN))).answers
    assert due.window.readings.values[-1].tolist() == [3.0, 9.0]
    assert due.window.held == 3


def test_a_held_value_outlives_the_reading_that_it_came_from() -> None:
    bench = Bench(max_late=0)
    bench.feed(1, values=(7.0, 0.0))
    for cycle in range(2, 30):
        bench.feed(cycle, values=(NAN, cycle))
    assert bench.newest() == [[7.0, c] for c in (26, 27, 28, 29)]


@pytest.mark.parametrize("max_late", [3, 2, 0])
def test_a_held_value_outlives_it_in_a_ring_that_was_made_smaller_too(max_late: int) -> None:
    before, after = Bench(max_late=3), Bench(max_late=max_late)
    before.feed(1, values=(7.0, 0.0))
    for cycle in range(2, 9):
        before.feed(cycle, values=(NAN, cycle))
    after.lives.load(Asset("x"), before.lives.dump(Asset("x")))
    assert after.newest() == [[7.0, c] for c in (5, 6, 7, 8)]
    assert answers(after.feed(9, values=(NAN, 9.0))) == [(9, 0, True)]
    assert after.newest() == [[7.0, c] for c in (6, 7, 8, 9)]


def test_a_late_value_is_held_by_the_readings_after_it() -> None:
    bench = Bench()
    for cycle in (1, 2, 3):
        bench.feed(cycle)
    bench.feed(5, values=(NAN, 5.0))
    bench.feed(6, values=(NAN, 6.0))
    late = accepted(bench.feed(4))
    assert [a.window.readings.values[:, 0].tolist() for a in late.answers] == [[1, 2, 3, 4], [2, 3, 4, 4], [3, 4, 4, 4]]


def test_a_held_reading_that_comes_again_is_a_duplicate() -> None:
    bench = Bench()
    bench.feed(1)
    bench.feed(2, values=(NAN, 9.0))
    assert bench.feed(2, values=(NAN, 9.0)) is Reason.DUPLICATE
    assert bench.feed(2, values=(NAN, 8.0)) is Reason.CONFLICT


def test_nothing_is_held_across_lives() -> None:
    bench = Bench()
    assert bench.feed(1, values=(NAN, 1.0)) is Reason.NOTHING_TO_HOLD
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
        assert bench.newest(f"a{asset}") == [[cycle, asset] for cycle in range(1, T + 1)]


@pytest.mark.parametrize("first", [0, 2**53])
def test_extreme_cycle_numbers(first: int) -> None:
    assert accepted(Bench().feed(first)).life == 0


Sent = tuple[int, int, tuple[float, float]]  # cycle, time, values


def oracle(lives: list[list[Sent]], max_gap: int, *, restart: bool = False) -> dict[tuple[int, int], list[list[float]]]:
    """Windows by (life, cycle): missing values and short gaps filled forward over each life, then slid over.

    restart: what comes before a longer gap is not in a window after it.
    """
    windows = {}
    for number, life in enumerate(lives):
        rows: list[tuple[int | None, list[float]]] = []
        for cycle, _, values in sorted(life):
            if rows:
                last, before = next((c, v) for c, v in reversed(rows) if c is not None)
                gap = cycle - last - 1
                rows += [(None, before)] * (gap if gap <= max_gap else 0)
                rows = [] if restart and gap > max_gap else rows
                filled = [b if np.isnan(v) else v for v, b in zip(values, before, strict=True)]
            else:
                filled = list(values)
            rows.append((cycle, filled))
            if len(rows) >= T:
                windows[number, cycle] = [v for _, v in rows[-T:]]
    return windows


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Sent]], list[Sent]]:
    """Cleaned lives, and the order in which their readings are sent: late within a life, some of them twice."""
    lives: list[list[Sent]] = []
    order: list[Sent] = []
    time = 0
    for number in range(draw(st.integers(1, 3))):
        cycle, life = 0, list[Sent]()
        for step in draw(st.lists(st.integers(1, 4), min_size=1, max_size=14)):
            cycle, time = cycle + step, time + 10
            held = draw(st.booleans()) and bool(life)
            life.append((cycle, time, (NAN if held else float(cycle), float(number))))
        # Each reading is delayed by at most two others, so that none is later than max_late; the first one opens the
        # life and is never late. A new life is told by its first cycle being below the last one's.
        keys = [i if i == 0 else i + draw(st.sampled_from([0.0, 0.0, 1.5, 2.5])) for i in range(len(life))]
        delayed = [life[i] for i in sorted(range(len(life)), key=lambda i, keys=keys: (keys[i], i))]  # type: ignore[misc]
        lives.append(life)
        order += delayed
    return lives, order


@settings(max_examples=300)
@given(
    history=histories(),
    repeats=st.lists(st.integers(0, 50), max_size=20),
    max_gap=st.integers(0, 3),
    restart=st.booleans(),
)
def test_final_revisions_equal_sliding_windows_over_the_cleaned_series(
    history: tuple[list[list[Sent]], list[Sent]], repeats: list[int], max_gap: int, restart: bool
) -> None:
    lives, order = history
    # A life whose first cycle is not below the one before it cannot be told from its continuation.
    for before, after in pairwise(lives):
        oldest_in_ring = before[-(T + 3 + max_gap + 1) :][0][0]
        assume(after[0][0] < before[-1][0] and after[0][0] <= oldest_in_ring)
    bench = Bench(max_late=3, max_gap=max_gap, restart=restart)
    found: dict[tuple[int, int], tuple[int, list[list[float]]]] = {}
    for index, (cycle, time, values) in enumerate(order):
        result = bench.feed(cycle, time=time, values=values)
        for answer in accepted(result).answers:
            key = (accepted(result).life, answer.cycle)
            assert answer.revision == (found[key][0] + 1 if key in found else 0)
            assert answer.newest == (key >= max(found, default=key))  # what is retained never goes backwards
            found[key] = (answer.revision, answer.window.readings.values.tolist())
        if index < len(repeats):
            again = order[repeats[index] % (index + 1)]
            assert isinstance(bench.feed(*again), Reason)
    assert {key: window for key, (_, window) in found.items()} == oracle(lives, max_gap, restart=restart)


@settings(max_examples=100)
@given(history=histories(), cut=st.integers(0, 40), max_gap=st.integers(0, 3), restart=st.booleans())
def test_a_state_that_was_stored_goes_on_as_if_nothing_had_happened(
    history: tuple[list[list[Sent]], list[Sent]], cut: int, max_gap: int, restart: bool
) -> None:
    whole, first, second = (Bench(max_late=3, max_gap=max_gap, restart=restart) for _ in range(3))
    _, order = history
    for cycle, time, values in order[:cut]:
        whole.feed(cycle, time, values)
        first.feed(cycle, time, values)
    for asset in first.lives.assets:
        second.lives.load(asset, first.lives.dump(asset))
    for cycle, time, values in order[cut:]:
        expected, found = whole.feed(cycle, time, values), second.feed(cycle, time, values)
        if isinstance(expected, Reason):
            assert found is expected
        else:
            assert answers(found) == answers(expected)
            for a, b in zip(accepted(found).answers, expected.answers, strict=True):
                assert a.window.same(b.window)
                assert a.time == b.time


@settings(max_examples=60)
@given(
    cycles=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=60),
    evictions=st.sets(st.integers(0, 60)),
    max_gap=st.integers(0, 2),
    restart=st.booleans(),
)
def test_an_evicted_asset_that_returns_goes_on_as_if_it_had_stayed(
    cycles: list[tuple[int, int]], evictions: set[int], max_gap: int, restart: bool
) -> None:
    """cycles: which asset sends, and by how much its cycle grows. evictions: before which readings all idle ones go."""
    stays, goes = Bench(max_gap=max_gap, restart=restart), Bench(max_gap=max_gap, restart=restart)
    disk: dict[Asset, bytes] = {}
    goes.lives.bring_back = disk.get
    at = [0] * 4
    for index, (n, step) in enumerate(cycles):
        if index in evictions:
            disk.update({asset: goes.lives.dump(asset) for asset in goes.lives.changed})
            goes.lives.changed.clear()
            goes.lives.evict(heard_before=1)
            assert goes.rings.count(0) == 0  # nobody is left in memory
        at[n] += step
        expected, found = (bench.feed(at[n], asset=f"a{n}") for bench in (stays, goes))
        assert answers(found) == answers(expected)
        for a, b in zip(accepted(found).answers, accepted(expected).answers, strict=True):
            assert a.window.same(b.window)
    assert sorted(goes.lives.assets) == sorted(stays.lives.assets)
    for asset in stays.lives.assets:
        assert goes.lives.dump(asset) == stays.lives.dump(asset)
