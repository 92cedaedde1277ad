"""The alarm table, deadband and delays."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.alarm import TABLE, Alarms, Change, HealthAlarm, RulAlarm, Signal, State, Transition
from edge_rul.core.topic import Asset

ASSET = Asset("pump-1")
RULE = RulAlarm(name="rul_low", below=30, deadband=5, on_delay=2, off_delay=3)


def run(rule: RulAlarm | HealthAlarm, series: list[tuple[int, float]]) -> list[tuple[int, str, str | None]]:
    """(cycle, new state, event) of each change. series: (cycle, RUL)."""
    alarms = Alarms([rule])
    changes: list[Change] = []
    for cycle, rul in series:
        changes += alarms.predicted(ASSET, 0, cycle, None, rul, {})
    return [(c.cycle, c.status.state.value, c.event.value if c.event else None) for c in changes]


def test_the_first_prediction_reports_the_state() -> None:
    assert run(RULE, [(30, 100.0), (31, 99.0)]) == [(30, "normal", None)]


def test_raised_after_the_on_delay_and_cleared_after_the_off_delay_above_the_deadband() -> None:
    series = [(1, 31), (2, 29), (3, 28), (4, 27), (5, 33), (6, 36), (7, 37), (8, 36), (9, 38), (10, 40)]
    assert run(RULE, series) == [
        (1, "normal", None),
        (2, "raising", None),
        (4, "active", "raised"),
        (6, "clearing", None),
        (9, "normal", "cleared"),
    ]


def test_the_on_delay_wants_the_condition_without_a_break() -> None:
    assert run(RULE, [(1, 29), (2, 31), (3, 29), (4, 29), (5, 29)])[-2:] == [
        (3, "raising", None),
        (5, "active", "raised"),
    ]


def test_the_off_delay_starts_again_when_the_value_falls_back_into_the_deadband() -> None:
    rule = msgspec.structs.replace(RULE, on_delay=0)
    series = [(1, 29), (2, 36), (3, 36), (4, 34), (5, 36), (6, 36), (7, 36), (8, 36)]
    assert run(rule, series) == [
        (1, "active", "raised"),
        (2, "clearing", None),
        (4, "active", None),
        (5, "clearing", None),
        (8, "normal", "cleared"),
    ]


def test_delays_count_cycle_numbers_and_not_readings() -> None:
    assert run(RULE, [(10, 29), (15, 29)]) == [(10, "raising", None), (15, "active", "raised")]


def test_without_delays_one_prediction_raises_and_one_clears() -> None:
    rule = RulAlarm(name="x", below=30)
    assert run(rule, [(1, 30), (2, 29.99), (3, 30)]) == [
        (1, "normal", None),
        (2, "active", "raised"),
        (3, "normal", "cleared"),
    ]


def test_health_looks_at_the_probability_of_its_classes_together() -> None:
    rule = HealthAlarm(name="bad", classes=["degrading", "critical"], probability=0.6, deadband=0.2)
    alarms = Alarms([rule])
    states = []
    for cycle, critical in enumerate([0.1, 0.5, 0.3, 0.15]):
        probabilities = {"healthy": 0.8 - critical, "degrading": 0.2, "critical": critical}
        states += [c.status.state for c in alarms.predicted(ASSET, 0, cycle, None, 100.0, probabilities)]
    assert states == [State.NORMAL, State.ACTIVE, State.NORMAL]


def test_a_new_life_clears_with_an_event_only_what_was_an_alarm() -> None:
    alarms = Alarms([msgspec.structs.replace(RULE, name="slow"), RulAlarm(name="fast", below=30)])
    alarms.predicted(ASSET, 0, 1, None, 10.0, {})
    changes = alarms.new_life(ASSET, 1, 1, 5)
    assert [(c.rule.name, c.status.state, c.event) for c in changes] == [
        ("slow", State.NORMAL, None),
        ("fast", State.NORMAL, Transition.CLEARED),
    ]
    assert alarms.new_life(ASSET, 2, 1, 6) == []
    assert alarms.new_life(Asset("never seen"), 1, 1, 6) == []


def test_assets_do_not_share_states() -> None:
    alarms = Alarms([RulAlarm(name="x", below=30)])
    alarms.predicted(ASSET, 0, 1, None, 10.0, {})
    (other,) = alarms.predicted(Asset("pump-2"), 0, 1, None, 50.0, {})
    assert other.status.state is State.NORMAL


def test_every_state_can_be_left_and_every_event_is_of_a_real_change() -> None:
    for (state, _), (target, event) in TABLE.items():
        assert target is not state
        assert (event is Transition.RAISED) == (target is State.ACTIVE and state is State.RAISING)
    assert {state for state, _ in TABLE} == set(State)
    assert all((state, Signal.NEW_LIFE) in TABLE for state in State if state is not State.NORMAL)


def test_a_health_deadband_that_could_never_clear_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="never clears"):
        msgspec.convert(
            {"watch": "health", "name": "x", "classes": ["c"], "probability": 0.3, "deadband": 0.3},
            RulAlarm | HealthAlarm,
        )


@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([10.0, 32.0, 50.0])), min_size=1, max_size=40),
    on=st.integers(0, 4),
    off=st.integers(0, 4),
)
def test_against_an_oracle_that_looks_back_over_the_series(steps: list[tuple[int, float]], on: int, off: int) -> None:
    """An alarm is on at a cycle if an unbroken run below the limit lasted `on` cycles since it was last off, and no
    unbroken run above the deadband has lasted `off` cycles since."""
    rule = RulAlarm(name="x", below=30, deadband=5, on_delay=on, off_delay=off)
    cycle, series = 0, []
    for step, rul in steps:
        cycle += step
        series.append((cycle, rul))
    active, run_start, expected = False, None, []
    for at, rul in series:
        towards = rul >= 35 if active else rul < 30
        if not towards:
            run_start = None
            continue
        run_start = at if run_start is None else run_start
        if at - run_start >= (off if active else on):
            active, run_start = not active, None
            expected.append((at, "raised" if active else "cleared"))
    assert [(at, event) for at, _, event in run(rule, series) if event] == expected


def test_what_a_new_life_clears_says_the_same_after_a_restart() -> None:
    """States are stored when they change: an event must not say what was looked at since."""
    rule = RulAlarm(name="low", below=20.0)
    kept, restarted = Alarms([rule]), Alarms([rule])
    asset = Asset("x")
    kept.predicted(asset, 0, 1, None, 10.0, {})
    restarted.load(asset, kept.dump(asset))
    kept.predicted(asset, 0, 2, None, 9.0, {})
    assert [c.status for c in kept.new_life(asset, 1, 1, None)] == [
        c.status for c in restarted.new_life(asset, 1, 1, None)
    ]


def test_what_the_configuration_no_longer_has_is_told_when_it_is_forgotten() -> None:
    before = Alarms([RulAlarm(name="low", below=20.0), RulAlarm(name="lower", below=10.0)])
    before.predicted(ASSET, 0, 1, None, 5.0, {})
    after = Alarms([RulAlarm(name="lower", below=10.0), RulAlarm(name="new", below=20.0)])
    assert after.load(ASSET, before.dump(ASSET)) == ["low"]
    assert [(c.rule.name, c.status.state) for c in after.states(ASSET)] == [("lower", State.ACTIVE)]


# -- what an operator does --------------------------------------------------------------------------------------------


def predict(alarms: Alarms, cycle: int, rul: float) -> list[Change]:
    return alarms.predicted(ASSET, 0, cycle, None, rul, {})


def told(changes: list[Change]) -> list[str | None]:
    return [c.event.value if c.event else None for c in changes]


PLAIN = RulAlarm(name="low", below=30)


def test_an_alarm_is_acknowledged_until_it_clears() -> None:
    alarms = Alarms([PLAIN])
    for rul in (None, 50.0):
        if rul is not None:
            predict(alarms, 1, rul)
        with pytest.raises(ValueError, match="nothing to acknowledge"):
            alarms.acknowledge(ASSET, "", 1)
    predict(alarms, 2, 20.0)
    assert alarms.counts() == (1, 0, 0)
    (change,) = alarms.acknowledge(ASSET, "low", 2)
    assert alarms.counts() == (1, 1, 0)
    assert (change.status.acknowledged, change.status.state, told([change])) == (True, State.ACTIVE, ["acknowledged"])
    with pytest.raises(ValueError, match="acknowledged it already"):
        alarms.acknowledge(ASSET, "low", 2)
    with pytest.raises(ValueError, match="there is no alarm 'high'; there are low"):
        alarms.acknowledge(ASSET, "high", 2)
    assert predict(alarms, 3, 19.0) == [], "it goes on as it was"
    restored = Alarms([PLAIN])
    restored.load(ASSET, alarms.dump(ASSET))
    (change,) = predict(restored, 4, 50.0)
    assert (change.status.acknowledged, told([change])) == (False, ["cleared"])
    (change,) = predict(restored, 5, 20.0)
    assert (change.status.acknowledged, told([change])) == (False, ["raised"]), "the next one is not known yet"


def test_a_shelved_alarm_moves_in_silence_and_not_for_ever() -> None:
    alarms = Alarms([PLAIN])
    predict(alarms, 1, 50.0)
    assert alarms.counts() == (0, 0, 0)
    (change,) = alarms.shelve(ASSET, "", 1, 3)
    assert alarms.counts() == (0, 0, 1)
    assert (change.status.shelved_until, told([change])) == (4, ["shelved"])
    (change,) = predict(alarms, 2, 20.0)
    assert (change.status.state, change.status.shelved_until, told([change])) == (State.ACTIVE, 4, [None])
    restored = Alarms([PLAIN])
    restored.load(ASSET, alarms.dump(ASSET))
    assert predict(restored, 3, 20.0) == []
    (change,) = predict(restored, 4, 20.0)
    assert (change.status.state, change.status.shelved_until, told([change])) == (State.ACTIVE, None, ["unshelved"])
    (change,) = predict(restored, 5, 50.0)
    assert told([change]) == ["cleared"]


def test_what_ends_shelving() -> None:
    alarms = Alarms([PLAIN])
    predict(alarms, 1, 20.0)
    alarms.shelve(ASSET, "low", 1, 100)
    (change,) = alarms.shelve(ASSET, "low", 1, 0)
    assert (change.status.shelved_until, told([change])) == (None, ["unshelved"])
    with pytest.raises(ValueError, match="nothing to shelve"):
        alarms.shelve(ASSET, "low", 1, 0)
    alarms.shelve(ASSET, "low", 1, 100)
    (change,) = alarms.new_life(ASSET, 1, 0, None)
    assert (change.status.state, change.status.shelved_until, told([change])) == (State.NORMAL, None, ["cleared"])
    alarms.shelve(ASSET, "low", 1, 100)
    (change,) = alarms.new_life(ASSET, 2, 0, None)
    assert (change.status.state, change.status.shelved_until, told([change])) == (State.NORMAL, None, ["unshelved"])


@given(st.lists(st.tuples(st.sampled_from(["ack", "shelve", "end", "rul"]), st.integers(0, 60)), max_size=40))
def test_whatever_an_operator_does_the_alarm_itself_moves_as_it_would(steps: list[tuple[str, int]]) -> None:
    rule = RulAlarm(name="low", below=30, deadband=5, on_delay=1, off_delay=2)
    tended, alone = Alarms([rule]), Alarms([rule])
    for cycle, (what, number) in enumerate(steps):
        if what == "rul":
            for alarms in (tended, alone):
                predict(alarms, cycle, float(number))
        else:
            with contextlib.suppress(ValueError):
                if what == "ack":
                    tended.acknowledge(ASSET, "", cycle)
                else:
                    tended.shelve(ASSET, "", cycle, number if what == "shelve" else 0)
        found = [change.status for change in tended.states(ASSET, 0)]
        plain = [msgspec.structs.replace(s, acknowledged=False, shelved_until=None) for s in found]
        assert plain == [change.status for change in alone.states(ASSET, 0)]
        assert all(status.on or not status.acknowledged for status in found)
