"""Intervals: the table's application, and what is published of it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.batch import Due
from edge_rul.core.interval import IntervalTable
from edge_rul.core.prediction import BundleId, EngineId, Model, Prediction, predict
from edge_rul.core.topic import Asset
from edge_rul.core.transform import Marks

TOP = 125.0
TABLE = IntervalTable(0.9, at=[20.0, 60.0, 110.0], below=[8.0, 20.0, 25.0], above=[6.0, 20.0, 10.0])
REACH = st.floats(0, 200)
AT = st.floats(0, 200, allow_subnormal=False)  # over a distance of 1e-313 a slope is infinite
TABLES = st.lists(st.tuples(AT, REACH, REACH), min_size=1, max_size=6, unique_by=lambda t: t[0]).map(
    lambda rows: IntervalTable(0.9, *(list(column) for column in zip(*sorted(rows), strict=True)))
)


def said(rul: float, *, outside: bool = False, table: IntervalTable | None = TABLE) -> dict[str, Any]:
    """What is published of an answer."""
    model = Model(BundleId("b", "0" * 64), EngineId("e", "float32"), "j", "cycles", ("a", "b"), TOP, table)
    due = Due(1, Asset("x", ()), 0, 40, None, 0, 0, revision=1, newest=False, alarm=False)
    prediction = predict(due, rul, np.zeros(2, np.float32), Marks(["p"] if outside else []), None, model)
    assert prediction is not None
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(prediction))
    assert msgspec.convert(body, Prediction) == prediction
    return body


def test_between_the_tables_points_the_reaches_are_interpolated_and_beyond_them_they_stay() -> None:
    assert [float(b) for b in TABLE.bounds(40.0, TOP)] == [40 - 14, 40 + 13]
    assert [float(b) for b in TABLE.bounds(1.0, TOP)] == [0, 7]
    low, high = TABLE.bounds(np.array([60.0, 112.0, 130.0], np.float32), TOP)
    assert low.tolist() == [40, 87, 105]
    assert high.tolist() == [80, 122, TOP]


@given(TABLES, st.floats(0, 300), st.floats(0, 1e-4))
def test_an_answer_that_moves_by_rounding_moves_its_interval_by_rounding(
    table: IntervalTable, rul: float, by: float
) -> None:
    """Predictions are the same to 1e-4 in whatever batch they travel, and so must the interval be."""
    slopes = [
        abs(b - a) / (q - p)
        for reach in (table.below, table.above)
        for a, b, p, q in zip(reach, reach[1:], table.at, table.at[1:], strict=False)
    ]
    for one, other in zip(table.bounds(rul, TOP), table.bounds(rul + by, TOP), strict=True):
        assert 0 <= one <= TOP
        assert abs(one - other) <= by * (1 + max(slopes, default=0)) * 1.001 + 1e-9
    low, high = table.bounds(rul, TOP)
    assert low <= min(rul, TOP) <= high or math.isclose(high, rul)


def test_a_prediction_carries_its_interval_and_what_it_is_worth() -> None:
    body = said(40.0)
    assert (body["rul_low"], body["rul_high"]) == (26.0, 53.0)
    assert body["interval"] == {"level": 0.9, "reliable": True}


def test_an_interval_that_reaches_the_cap_has_no_upper_end() -> None:
    body = said(118.0)
    assert (body["rul_low"], body["rul_high"]) == (93.0, None)


def test_beyond_the_training_range_the_interval_is_not_to_be_relied_upon() -> None:
    assert said(40.0, outside=True)["interval"]["reliable"] is False


def test_a_bundle_without_a_table_publishes_no_interval() -> None:
    assert not {"rul_low", "rul_high", "interval"} & set(said(40.0, table=None))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"level": 1.0}, "level is 1.0, expected between 0 and 1"),
        ({"below": [1.0]}, "at, below and above have 3, 1 and 3 numbers"),
        ({"at": [1.0, 1.0, 2.0]}, "expected rising numbers"),
        ({"above": [1.0, -1.0, 2.0]}, "the reaches not negative"),
        ({"at": [], "below": [], "above": []}, "one at least"),
    ],
)
def test_a_table_that_means_nothing_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        msgspec.structs.replace(TABLE, **change)
