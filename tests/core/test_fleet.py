"""The fleet as it is looked at: order, filters, pages, and what is kept of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from page_fleet import CRITICAL, LOW, make_fleet, prediction

from edge_rul.core.alarm import Change, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.command import Command
from edge_rul.core.fleet import Fleet, Query
from edge_rul.core.payload import Part, Reading
from edge_rul.core.prediction import Quality
from edge_rul.core.standing import Stale
from edge_rul.core.topic import Asset


def asset(name: str) -> Asset:
    return Asset(name, (("line", "A"),))


def hear(fleet: Fleet, name: str, cycle: int, time: int | None = None, wall: float = 1.0, value: float = 1.0) -> None:
    fleet.heard(Reading(asset(name), cycle, time, np.array([value], np.float32)), wall)


def answer(fleet: Fleet, name: str, rul: float, cycle: int = 40, **changes: Any) -> None:
    fleet.answered(Answered(asset(name), prediction(asset(name), 0, cycle, rul, **changes), True))


def alarm(fleet: Fleet, name: str, rule: Any, state: State, **tended: Any) -> None:
    fleet.alarm(Change(asset(name), rule, Status(state, 0, 38, 1.0, **tended), 40, None, None))


def names(fleet: Fleet, **query: Any) -> list[str]:
    return [record.asset.name for record in fleet.select(Query(**query)).records]


@pytest.fixture
def fleet() -> Fleet:
    fleet = Fleet(100)
    for name, rul in (("fine", 90.0), ("short", 12.0), ("urgent", 40.0), ("high", 30.0)):
        answer(fleet, name, rul)
    hear(fleet, "new", 3)
    alarm(fleet, "urgent", CRITICAL, State.CLEARING)
    alarm(fleet, "high", LOW, State.ACTIVE)
    alarm(fleet, "fine", LOW, State.RAISING)
    return fleet


def test_who_is_in_alarm_comes_first_then_who_has_the_least_life_and_last_who_has_no_answer(fleet: Fleet) -> None:
    assert names(fleet) == ["urgent", "high", "short", "fine", "new"]
    alarm(fleet, "urgent", CRITICAL, State.NORMAL)
    assert names(fleet) == ["high", "short", "urgent", "fine", "new"]


def test_an_asset_whose_sensors_send_apart_is_shown_with_the_newest_of_each(fleet: Fleet) -> None:
    for cycle, number, value in ((1, 1, 5.0), (2, 0, 7.0), (1, 0, 6.0)):
        fleet.heard(Part(asset("parts"), cycle, None, number, value), 3.0)
    (record,) = fleet.select(Query(text="parts")).records
    assert (record.cycle, record.values, record.seen) == (2, [7.0, 5.0], 3.0)


def test_what_an_operator_knows_of_comes_behind_and_what_was_shelved_is_no_alarm(fleet: Fleet) -> None:
    alarm(fleet, "fine", CRITICAL, State.ACTIVE)
    assert names(fleet, show="alarm") == ["urgent", "fine", "high"], "as their RUL"
    alarm(fleet, "urgent", CRITICAL, State.ACTIVE, acknowledged=True)
    assert names(fleet, show="alarm") == ["fine", "urgent", "high"]
    alarm(fleet, "fine", CRITICAL, State.ACTIVE, shelved_until=60)
    assert (names(fleet, show="alarm"), names(fleet, show="shelved")) == (["urgent", "high"], ["fine"])
    record = fleet.find("A/fine")
    assert record is not None and record.rank == 0
    alarm(fleet, "fine", CRITICAL, State.NORMAL, shelved_until=60)
    assert names(fleet, show="shelved") == ["fine"], "one at rest is shelved all the same"
    alarm(fleet, "fine", CRITICAL, State.NORMAL)
    assert names(fleet, show="shelved") == []


def test_any_column_sorts_both_ways_and_what_lacks_it_stays_behind(fleet: Fleet) -> None:
    assert names(fleet, sort="rul") == ["short", "high", "urgent", "fine", "new"]
    assert names(fleet, sort="rul", reverse=True) == ["fine", "urgent", "high", "short", "new"]
    assert names(fleet, sort="asset") == ["fine", "high", "new", "short", "urgent"]
    assert names(fleet, sort="health", reverse=True)[0] == "short"
    assert names(fleet, sort="cycle") == ["new", "urgent", "high", "short", "fine"]


def test_filters(fleet: Fleet) -> None:
    answer(fleet, "short", 12.0, quality=Quality("uncertain", 1, 0, [], 0))
    assert names(fleet, text="UR") == ["urgent"]
    assert names(fleet, text="a/s") == ["short"], "the levels belong to the name"
    assert names(fleet, show="alarm") == ["urgent", "high"]
    assert names(fleet, show="uncertain") == ["short"]
    assert names(fleet, show="waiting") == ["new"]
    fleet.heard(Stale(asset("short"), 0, 0), 9.0)
    assert names(fleet, show="stale") == ["short"]
    assert set(names(fleet, health="critical")) <= {"short", "urgent", "high"}
    assert "new" not in names(fleet, health="critical") and "short" in names(fleet, health="critical")
    assert fleet.select(Query(show="stale")).counts == {
        "all": 5,
        "alarm": 2,
        "shelved": 0,
        "uncertain": 1,
        "waiting": 1,
        "stale": 1,
    }
    ur = fleet.select(Query(text="ur", show="stale"))
    assert (ur.matches, ur.counts["all"], ur.counts["alarm"], ur.counts["stale"]) == (0, 1, 1, 0), "of urgent alone"
    assert set(fleet.select(Query(text="nobody")).counts.values()) == {0}
    critical = fleet.select(Query(health="critical"))
    assert (critical.counts["all"], critical.counts["waiting"]) == (critical.matches, 0)


def test_pages_are_cut_after_sorting_and_one_beyond_the_last_is_the_last() -> None:
    fleet = make_fleet(25, 1000.0, cycles=40)
    whole = [r.name for r in fleet.select(Query(size=100)).records]
    cut = [[r.name for r in fleet.select(Query(size=10, page=page)).records] for page in (1, 2, 3)]
    assert [name for page in cut for name in page] == whole and len(whole) == 25
    beyond = fleet.select(Query(size=10, page=99))
    assert (beyond.page, beyond.pages, beyond.matches) == (3, 3, 25)
    empty = fleet.select(Query(text="nobody", page=7))
    assert (empty.page, empty.pages, empty.records) == (1, 1, [])


def test_a_late_reading_is_heard_but_does_not_turn_the_values_back() -> None:
    fleet = Fleet(10)
    hear(fleet, "x", 9, time=9000, wall=1.0, value=9.0)
    hear(fleet, "x", 4, time=4000, wall=2.0, value=4.0)
    record = fleet.find("A/x")
    assert record is not None and (record.cycle, record.values, record.seen) == (9, [9.0], 2.0)
    hear(fleet, "x", 1, time=10_000, wall=3.0, value=1.0)  # a new life
    assert (record.cycle, record.values) == (1, [1.0])
    fleet.heard(Command("reset", asset("x")), 4.0)
    fleet.heard(Command("reset", asset("nobody")), 4.0)
    assert (record.cycle, record.seen, len(fleet)) == (1, 3.0, 1)


def test_a_reading_ends_a_silence_and_a_new_life_the_answer_of_the_old_one() -> None:
    fleet = Fleet(10)
    fleet.heard(Stale(asset("x"), 0, 0), 9.0)
    assert len(fleet) == 0
    hear(fleet, "x", 1, time=None, wall=1.0, value=1.0)
    answer(fleet, "x", 50.0)
    fleet.heard(Stale(asset("x"), 0, 0), 9.0)
    record = fleet.find("A/x")
    assert record is not None and record.stale and record.seen == 1.0
    hear(fleet, "x", 2, time=None, wall=2.0, value=1.0)
    assert not record.stale
    fleet.renewed(asset("x"), 0)
    assert record.answer is not None
    fleet.renewed(asset("x"), 1)
    assert record.answer is None


def test_a_revision_of_an_older_cycle_leaves_the_newest_answer() -> None:
    fleet = Fleet(10)
    answer(fleet, "x", 50.0, cycle=40)
    fleet.answered(Answered(asset("x"), prediction(asset("x"), 0, 39, 70.0, revision=1), False))
    record = fleet.find("A/x")
    assert record is not None and record.answer is not None and record.answer.rul == 50.0


def test_there_are_never_more_assets_than_allowed() -> None:
    fleet = Fleet(3)
    for n in range(10):
        hear(fleet, f"x{n}", 1)
        answer(fleet, f"y{n}", 1.0)
    assert len(fleet) == 3
    fleet.forget(asset("x0"))
    hear(fleet, "z", 1)
    assert fleet.find("A/z") is not None and fleet.find("A/x0") is None


def test_what_is_dumped_comes_back_but_the_alarms_which_are_the_journals() -> None:
    fleet, again = make_fleet(12, 1000.0, cycles=60), Fleet(12)
    for record in fleet.records():
        blob = fleet.dump(record.asset)
        assert blob is not None
        again.load(blob)
    for record in fleet.records():
        other = again.find(record.name)
        assert other is not None and other.alarms == []
        assert (other.answer, other.trace, other.values, other.seen, other.trend) == (
            record.answer,
            record.trace,
            record.values,
            record.seen,
            record.trend,
        )
