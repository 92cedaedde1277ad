"""Rules for single values, applied to a table as the daemon applies them to readings."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_rul.errors import DataError
from edge_rul.training.clean import Rule, clean
from edge_rul.training.table import Table

NAN = float("nan")


def table(values: list[list[float]], lives: list[int]) -> Table:
    n = len(values)
    return Table(
        asset=np.full(n, "a"),
        life=np.array(lives, np.int64),
        cycle=np.arange(1, n + 1),
        inputs=np.array(values, np.float32),
        rul=np.zeros(n, np.float32),
        is_lower_bound=np.zeros(n, bool),
        files={"f.csv": ""},
        rules={"all_zero_dropped": 3},
    )


def test_values_are_held_within_a_life_and_readings_rejected() -> None:
    rules = [Rule("p", (0, 10), "hold", max_hold=4), Rule("q", (0, 10), "reject")]
    given = table(
        [[NAN, 1], [1, 2], [11, 3], [NAN, 4], [4, NAN], [5, 11], [6, 7], [NAN, 8], [9, 9], [-1, 10]],
        [0] * 7 + [1] * 3,
    )
    found = clean(given, rules)
    # Cycle 1 has nothing to hold, and cycle 8 is the first of its life; 5 and 6 lack q.
    assert found.cycle.tolist() == [2, 3, 4, 7, 9, 10]
    assert found.inputs[:, 0].tolist() == [1, 1, 1, 6, 9, 9]
    assert found.held is not None
    assert found.held[:, 0].tolist() == [False, True, True, False, False, True]
    assert found.max_hold == [4, None]
    assert found.rules == {"all_zero_dropped": 3, "values_invalid": 3, "missing_held": 3, "missing_dropped": 4}


def test_a_value_at_the_edge_of_its_range_is_valid_in_float32() -> None:
    assert len(clean(table([[0.1], [0.3]], [0, 0]), [Rule("p", (0.1, 0.3), "reject")])) == 2


def test_a_missing_value_is_an_error_with_its_place_unless_a_rule_is_given() -> None:
    given = table([[1, 2], [1, NAN]], [0, 0])
    with pytest.raises(DataError, match=r"cycle 2 of a: q is missing\n  hint: say by its `missing`"):
        clean(given, [Rule("p"), Rule("q")])
    with pytest.raises(DataError, match="none of 2 readings has a valid value of each input"):
        clean(given, [Rule("p", (5, 6), "hold"), Rule("q", missing="hold")])


def test_changes_are_since_the_reading_before_in_the_life() -> None:
    given = table([[1], [2], [4], [8]], [0, 0, 1, 1])
    timed = msgspec.structs.replace(given, time=np.array([10, 30, 60, 60], np.int64))
    found = timed.readings(before=True)
    assert found.before is not None and found.elapsed is not None
    assert found.before[:, 0].tolist() == [1, 1, 4, 4]
    assert found.elapsed.tolist() == [[0, 0], [1, 20], [0, 0], [1, 0]]
