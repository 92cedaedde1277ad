"""What a plant may send, and what each mistake costs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.payload import Decoded, Decoder, Reading
from edge_rul.core.topic import Asset, Template
from edge_rul.errors import Reason

NOW = 1_767_225_600_000  # 2026-01-01T00:00:00Z
TOPIC = "plant/A/pump-1/cycle"


def decoder(hold: tuple[str, ...] = (), template: str = "plant/{line}/{asset}/cycle", **more: Any) -> Decoder:
    return Decoder(
        ["a", "b", "c"], [Template(template)], command=Template("cmd"), hold=hold, payload_limit=1000, skew=60.0, **more
    )


def decode(payload: Any, hold: tuple[str, ...] = (), topic: str = TOPIC) -> Decoded:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decoder(hold).decode(topic, data, NOW)


def reading(decoded: Decoded) -> Reading:
    assert decoded.rejected == []
    (entry,) = decoded.entries
    assert isinstance(entry, Reading)
    return entry


def test_values_by_name_ignore_what_the_bundle_does_not_want() -> None:
    entry = reading(decode({"cycle": 7, "ts": NOW, "values": {"c": 3, "x": 9, "a": 1.5, "b": 2}, "unit": "?"}))
    assert entry.asset == Asset("pump-1", (("line", "A"),))
    assert (entry.cycle, entry.time) == (7, NOW)
    assert entry.values.dtype == np.float32
    np.testing.assert_array_equal(entry.values, np.array([1.5, 2, 3], np.float32))


def test_values_as_a_list_are_in_the_bundles_order() -> None:
    np.testing.assert_array_equal(reading(decode({"cycle": 0, "values": [1, 2, 3]})).values, [1, 2, 3])


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        (None, None),
        (NOW, NOW),
        (NOW + 0.4, NOW),
        ("2026-01-01T00:00:00Z", NOW),
        ("2026-01-01T01:00:00+01:00", NOW),
        ("2026-01-01T00:00:00", NOW),
        ("2026-01-01 00:00:00.250Z", NOW + 250),
    ],
)
def test_event_time(ts: Any, expected: int | None) -> None:
    assert reading(decode({"cycle": 1, "ts": ts, "values": [1, 2, 3]})).time == expected


def test_a_stamp_ahead_of_our_clock_is_refused_unless_that_clock_may_be_wrong() -> None:
    sent = json.dumps([{"cycle": i, "ts": NOW + i * 1000, "values": [1, 2, 3]} for i in (60, 61)]).encode()
    decoded = decoder().decode(TOPIC, sent, NOW)
    assert [entry.time for entry in decoded.entries if isinstance(entry, Reading)] == [NOW + 60_000]
    (refused,) = decoded.rejected
    assert refused.reason is Reason.FUTURE
    assert "61 s ahead" in refused.problem and "limits.skew = 60 s" in refused.problem
    assert json.loads(refused.payload)["cycle"] == 61
    decoded = decoder(clock_is_right=lambda: False).decode(TOPIC, sent, NOW)
    assert [entry.time for entry in decoded.entries if isinstance(entry, Reading)] == [NOW + 60_000, NOW + 61_000]


@pytest.mark.parametrize(
    ("fields", "key", "cycle"),
    [
        ({"cycle": 7, "ts": NOW}, "cycle", 7),
        ({"ts": NOW}, "time", NOW),
        ({"cycle": None, "ts": "2026-01-01T00:00:00Z"}, "time", NOW),
    ],
)
def test_a_reading_is_known_by_its_number_or_else_by_its_time(fields: dict[str, Any], key: str, cycle: int) -> None:
    entry = reading(decode({**fields, "values": [1, 2, 3]}))
    assert (entry.key, entry.cycle, entry.time) == (key, cycle, NOW)
    assert json.loads(decoder().describe(entry))["cycle"] == (7 if key == "cycle" else None), "as it was sent"


@pytest.mark.parametrize(("qos", "allowed", "taken"), [(1, False, False), (1, True, True), (0, False, True)])
def test_with_neither_a_reading_is_taken_where_it_cannot_come_twice_or_that_is_allowed(
    qos: int, allowed: bool, taken: bool
) -> None:
    decoded = decoder(undeduplicated=allowed).decode(TOPIC, b'{"values": [1, 2, 3]}', NOW, qos=qos)
    assert [e.key for e in decoded.entries if isinstance(e, Reading)] == (["arrival"] if taken else [])
    assert [bad.reason for bad in decoded.rejected] == ([] if taken else [Reason.NO_KEY])


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        (b"", Reason.NOT_JSON, "the message is empty"),
        (b"xx", Reason.NOT_JSON, "JSON"),
        (b"\xff\xfe", Reason.NOT_JSON, "JSON"),
        (b'{"cycle": 1', Reason.NOT_JSON, "JSON"),
        (b"[" * 900, Reason.NOT_JSON, "JSON"),
        (b'{"NaN": ' + b"[" * 900, Reason.NOT_JSON, "JSON"),
        (b"x" * 1001, Reason.TOO_LARGE, "1001"),
        (3, Reason.BAD_SHAPE, "int"),
        ("text", Reason.BAD_SHAPE, "str"),
        ({"cycle": 1}, Reason.BAD_SHAPE, "values"),
        ({"values": [1, 2, 3]}, Reason.NO_KEY, "windows.allow_undeduplicated"),
        ({"cycle": "1", "values": [1, 2, 3]}, Reason.BAD_CYCLE, "str"),
        ({"cycle": 1.5, "values": [1, 2, 3]}, Reason.BAD_CYCLE, "float"),
        ({"cycle": True, "values": [1, 2, 3]}, Reason.BAD_CYCLE, "bool"),
        ({"cycle": None, "values": [1, 2, 3]}, Reason.NO_KEY, "neither cycle nor ts"),
        ({"ts": "1969-12-31T23:59:59Z", "values": [1, 2, 3]}, Reason.BAD_TIME, "before 1970"),
        ({"cycle": -1, "values": [1, 2, 3]}, Reason.BAD_CYCLE, "-1"),
        ({"cycle": 2**60, "values": [1, 2, 3]}, Reason.BAD_CYCLE, "2^53"),
        ({"cycle": 10**30, "values": [1, 2, 3]}, Reason.BAD_CYCLE, "2^53"),
        ({"cycle": 1, "values": [1, 2]}, Reason.WRONG_LENGTH, "expected 3"),
        ({"cycle": 1, "values": [1, 2, 3, 4]}, Reason.WRONG_LENGTH, "has 4"),
        ({"cycle": 1, "values": {"a": 1, "c": 3}}, Reason.MISSING_INPUT, "b is missing"),
        ({"cycle": 1, "values": [1, None, 3]}, Reason.MISSING_INPUT, "b is missing"),
        ({"cycle": 1, "values": [1, "2", 3]}, Reason.BAD_VALUE, "str"),
        ({"cycle": 1, "values": {"a": 1, "b": "2", "c": 3}}, Reason.BAD_VALUE, "[b]"),
        ({"cycle": 1, "values": [1, True, 3]}, Reason.BAD_VALUE, "bool"),
        ({"cycle": 1, "values": [1, math.nan, 3]}, Reason.NOT_FINITE, "b is NaN"),
        ({"cycle": 1, "values": [1, math.inf, 3]}, Reason.NOT_FINITE, "b is inf"),
        ({"cycle": 1, "values": [1, -1e39, 3]}, Reason.NOT_FINITE, "float32"),
        (b'{"cycle": 1, "values": [1, 1e999, 3]}', Reason.BAD_VALUE, "range"),
        ({"cycle": 1, "ts": "yesterday", "values": [1, 2, 3]}, Reason.BAD_TIME, "RFC3339"),
        ({"cycle": 1, "ts": 1767225600, "values": [1, 2, 3]}, Reason.BAD_TIME, "milliseconds"),
        ({"cycle": 1, "ts": 1e300, "values": [1, 2, 3]}, Reason.BAD_TIME, "milliseconds"),
        ({"cycle": 1, "ts": math.nan, "values": [1, 2, 3]}, Reason.BAD_TIME, "milliseconds"),
        ({"cycle": 1, "ts": 253402300799999.9, "values": [1, 2, 3]}, Reason.BAD_TIME, "milliseconds"),
        ({"cycle": 1, "ts": "9999-12-31T23:59:59.9999Z", "values": [1, 2, 3]}, Reason.BAD_TIME, "years 1 to 9999"),
    ],
)
def test_each_mistake_has_its_counter_and_says_what_was_found(payload: Any, reason: Reason, says: str) -> None:
    decoded = decode(payload)
    assert decoded.entries == []
    (bad,) = decoded.rejected
    assert bad.reason is reason
    assert bad.topic == TOPIC
    assert says in bad.problem


def test_a_bad_element_of_a_list_costs_itself() -> None:
    good = [{"cycle": i, "values": [i, i, i]} for i in range(3)]
    decoded = decode([good[0], {"cycle": "x", "values": [1, 2, 3]}, good[1], 5, good[2]])
    assert [e.cycle for e in decoded.entries if isinstance(e, Reading)] == [0, 1, 2]
    assert [bad.reason for bad in decoded.rejected] == [Reason.BAD_CYCLE, Reason.BAD_SHAPE]


def test_a_list_with_a_nan_costs_that_element_too() -> None:
    decoded = decode([{"cycle": 1, "values": [1, math.nan, 3]}, {"cycle": 2, "values": [1, 2, 3]}])
    assert [e.cycle for e in decoded.entries if isinstance(e, Reading)] == [2]
    assert [bad.reason for bad in decoded.rejected] == [Reason.NOT_FINITE]


@pytest.mark.parametrize("value", [None, math.nan])
def test_an_input_that_may_be_held_comes_through_as_nan(value: float | None) -> None:
    entry = reading(decode({"cycle": 1, "values": {"a": 1, "b": value, "c": 3}}, hold=("b",)))
    np.testing.assert_array_equal(np.isnan(entry.values), [False, True, False])


def test_infinity_is_never_held() -> None:
    (bad,) = decode({"cycle": 1, "values": [1, math.inf, 3]}, hold=("b",)).rejected
    assert bad.reason is Reason.NOT_FINITE


@pytest.mark.parametrize("name", ["a/b", "a+b", "#", "a\u0007", "a\ufdd0", "a\U0001ffff", "", "$x", "_daemon"])
def test_an_asset_named_in_the_payload_must_fit_into_a_topic(name: str) -> None:
    payload = json.dumps({"cycle": 1, "asset": name, "values": [1, 2, 3]}).encode()
    (bad,) = decoder(template="plant/{line}/cycle").decode("plant/A/cycle", payload, NOW).rejected
    assert bad.reason is Reason.BAD_ASSET


def test_an_asset_may_be_named_in_the_payload() -> None:
    payload = json.dumps({"cycle": 1, "asset": "pump-9", "values": [1, 2, 3]}).encode()
    decoded = decoder(template="plant/{line}/cycle").decode("plant/A/cycle", payload, NOW)
    assert reading(decoded).asset == Asset("pump-9", (("line", "A"),))


def test_nobody_names_the_asset() -> None:
    payload = json.dumps({"cycle": 1, "values": [1, 2, 3]}).encode()
    (bad,) = decoder(template="plant/{line}/cycle").decode("plant/A/cycle", payload, NOW).rejected
    assert bad.reason is Reason.BAD_ASSET


def test_a_topic_that_is_not_ours() -> None:
    (bad,) = decode({"cycle": 1, "values": [1, 2, 3]}, topic="other").rejected
    assert bad.reason is Reason.BAD_TOPIC


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcts"), inner, max_size=4),
    max_leaves=12,
)
_CYCLE = st.fixed_dictionaries({}, optional={"cycle": _JSON, "values": _JSON, "ts": _JSON, "asset": _JSON})


@given(
    payload=st.binary(max_size=200)
    | (_JSON | _CYCLE | st.lists(_CYCLE, max_size=3)).map(lambda v: json.dumps(v).encode())
)
def test_no_payload_raises_and_each_element_is_accounted_for(payload: bytes) -> None:
    decoded = decoder(hold=("a",)).decode(TOPIC, payload, NOW)
    assert len(decoded.entries) + len(decoded.rejected) >= 1 or payload.strip().startswith(b"[")
    for entry in decoded.entries:
        assert isinstance(entry, Reading)
        assert entry.values.shape == (3,)
        assert not np.isinf(entry.values).any()
        assert not np.isnan(entry.values[1:]).any()
