"""A topic that sends too much is held to its rate, and costs no other."""

from __future__ import annotations

import math

import pytest
from core.test_pipeline import make
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core import rate
from edge_rul.core.payload import Decoder
from edge_rul.core.rate import Rates
from edge_rul.core.topic import Template
from edge_rul.errors import Reason


def test_a_burst_is_granted_once_and_then_the_rate() -> None:
    rates = Rates(2.0, burst=5)
    assert [rates.take("a", 0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [rates.take("a", 500), rates.take("a", 500)] == [True, False]
    assert rates.take("b", 500), "another topic has a bucket of its own"
    assert [rates.take("a", 100_000) for _ in range(6)] == [True] * 5 + [False], "a rest fills it, and no more"


@given(
    steps=st.lists(st.integers(0, 3000), max_size=80),
    per_second=st.floats(0.1, 50.0),
    burst=st.integers(1, 20),
)
def test_never_more_than_the_burst_and_the_rate(steps: list[int], per_second: float, burst: int) -> None:
    rates, now, granted = Rates(per_second, burst), 0, 0
    for step in steps:
        now += step
        granted += rates.take("a", now)
        assert granted <= burst + now / 1000 * per_second + 1e-6
    # Who keeps to the rate is never refused.
    steady = Rates(per_second, burst)
    gap = math.ceil(1000 / per_second)
    assert all(steady.take("a", i * gap) for i in range(40))


def test_a_clock_that_is_set_back_neither_gives_nor_takes() -> None:
    rates = Rates(1.0, burst=2)
    assert [rates.take("a", 10_000) for _ in range(3)] == [True, True, False]
    assert not rates.take("a", 0)
    assert not rates.take("a", 500)
    assert rates.take("a", 1500)


def test_refusals_are_told_now_and_then() -> None:
    rates = Rates(1.0, burst=1)
    assert [rates.worth_telling("a", now) for now in (0, 1, 9_999, 10_000, 10_001)] == [True, False, False, True, False]
    assert rates.worth_telling("b", 1)


def test_a_topic_that_floods_costs_counts_and_few_entries() -> None:
    """Neither the journal nor the dead letters grow with a flood, nobody else is held up, and commands come through."""
    pipeline = make()
    decoder = pipeline.decoder = Decoder(
        ["p"], [Template("in/{asset}")], command=Template("cmd"), rates=Rates(1.0, burst=3)
    )
    payload = b'{"cycle": 1, "values": [1.0]}'
    flood = [pipeline.decode("in/flood", payload, 1000 + i) for i in range(500)]
    assert sum(len(d.entries) for d in flood) == 3
    assert [[r.reason for r in d.rejected] for d in flood if d.rejected] == [[Reason.TOO_FAST]]
    assert sum(d.silenced for d in flood) == 496
    assert pipeline.dropped == {Reason.TOO_FAST: 497}
    rubbish = [decoder.decode("in/rubbish", b"no json", 1000 + i) for i in range(500)]
    assert sum(len(d.rejected) for d in rubbish) == 4, "three that were read, and one that tells of the flood"
    assert len(decoder.decode("in/other", payload, 1500).entries) == 1
    reset = b'{"command": "reset", "asset": "flood"}'
    assert all(decoder.decode("cmd", reset, 1500).entries for _ in range(10))


def test_a_flood_of_names_costs_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "_TOPICS", 100)
    rates = Rates(1.0, burst=1)
    for i in range(1000):
        assert rates.take(f"topic-{i}", i)
        rates.worth_telling(f"topic-{i}", i)
    assert len(rates._buckets) <= 100
    assert len(rates._told) <= 100
    # Buckets that are full again are forgotten first; an empty one stays.
    rates = Rates(1.0, burst=2)
    for i in range(99):
        rates.take(f"rested-{i}", 0)
    rates.take("busy", 1000)
    rates.take("busy", 1000)
    rates.take("new", 1001)
    assert not rates.take("busy", 1001)
    assert len(rates._buckets) == 2
