"""How an asset stands: what is retained while its window fills, after an overhaul, and once it has fallen silent."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from core.test_pipeline import NOW, OUTGOING, T, Tail, drain, make, send
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.outgoing import Message, Outgoing
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.standing import Silences
from edge_rul.core.topic import Asset, Template

X = Asset("x")
AFTER = 60.0
TELLING = Outgoing(
    Template("out/{asset}/p"),
    Template("out/{asset}/a/{alarm}"),
    Template("out/{asset}/e"),
    statistics=Template("out/s"),
    status=Template("out/status"),
    daemon_alarm=Template("out/d/{alarm}"),
    state=Template("out/{asset}/s"),
)


def telling(**more: Any) -> Pipeline:
    return make(outgoing=TELLING, stale_after=AFTER, **more)


def states(messages: list[Message]) -> list[tuple[str, int, int | None, int]]:
    said = [json.loads(m.payload) for m in messages if m.topic.endswith("/s")]
    return [(s["state"], s["life"], s["cycle"], s["readings"]) for s in said]


def test_an_asset_warms_up_until_its_window_is_full_and_says_so_once() -> None:
    pipeline, tail = telling(), Tail(100)
    for cycle in range(1, T + 3):
        send(pipeline, tail, "x", cycle, 50.0)
    messages = drain(pipeline, tail)
    assert states(messages) == [("warming_up", 0, 1, 1), ("warming_up", 0, 2, 2), ("predicting", 0, 3, 3)]
    assert all(m.retain and m.qos == 1 for m in messages if m.topic.endswith("/s"))


@pytest.mark.parametrize("by", ["a newer time", "a command"])
def test_nothing_stays_retained_of_a_life_that_is_over(by: str) -> None:
    pipeline, tail = telling(), Tail(100)
    for cycle in range(1, T + 1):
        send(pipeline, tail, "x", cycle, 50.0, ts=NOW + cycle)
    assert kept(drain(pipeline, tail))["out/x/p"]["life"] == 0
    if by == "a command":
        tail.put(pipeline.decode("cmd", b'{"command": "reset", "asset": "x"}', NOW).entries)
        messages = drain(pipeline, tail)
        assert states(messages) == [("warming_up", 1, None, 0)]
        assert kept(messages)["out/x/p"] is None
    send(pipeline, tail, "x", 1, 50.0, ts=NOW + 100)
    messages = drain(pipeline, tail)
    assert states(messages) == [("warming_up", 1, 1, 1)]
    assert kept(messages).get("out/x/p") is None
    for cycle in range(2, T + 1):
        send(pipeline, tail, "x", cycle, 50.0, ts=NOW + 100 + cycle)
    assert kept(drain(pipeline, tail))["out/x/p"]["life"] == 1


def kept(messages: list[Message]) -> dict[str, Any]:
    """What a broker holds of them; None where it was cleared."""
    return {m.topic: json.loads(m.payload) if m.payload else None for m in messages if m.retain}


def test_a_silent_asset_is_stale_with_its_age_until_the_next_reading() -> None:
    pipeline, tail = telling(), Tail(100)
    for asset in "xy":
        for cycle in range(1, T + 1):
            send(pipeline, tail, asset, cycle, 50.0)
    drain(pipeline, tail)
    assert pipeline.tick(AFTER, NOW // 1000 + 60, 0.0) == []
    (entry, _) = entries = pipeline.tick(AFTER + 1, NOW // 1000 + 61, 0.0)
    assert entry.asset == X
    assert pipeline.tick(AFTER + 2, NOW // 1000 + 62, 0.0) == []  # each once
    tail.put(list(entries))
    messages = drain(pipeline, tail)
    assert states(messages) == [("stale", 0, 3, 3), ("stale", 0, 3, 3)]
    said = kept(messages)["out/x/s"]
    assert (said["age"], said["last_reading"]) == (61.0, "2026-01-01T00:00:00Z")
    assert pipeline.lives.stale == {X, Asset("y")}
    send(pipeline, tail, "x", T, 50.0)  # a repetition is no sign of life
    assert states(drain(pipeline, tail)) == []
    send(pipeline, tail, "x", T + 1, 50.0)
    assert states(drain(pipeline, tail)) == [("predicting", 0, 4, 3)]
    assert pipeline.lives.stale == {Asset("y")}


def test_a_stale_asset_is_stale_after_a_restart_and_says_so_again_when_asked() -> None:
    pipeline, tail = telling(), Tail(100)
    send(pipeline, tail, "x", 1, 50.0)
    drain(pipeline, tail)
    tail.put(list(pipeline.tick(100.0, NOW // 1000 + 100, 0.0)))
    said = kept(drain(pipeline, tail))["out/x/s"]
    again = telling()
    again.restore(X, 2, pipeline.lives.dump(X))
    assert kept(again.states(X))["out/x/s"] == said
    assert again.tick(1000.0, NOW // 1000 + 1000, 0.0) == []
    assert again.lives.stale == {X}


def test_a_state_of_the_version_before_is_read_as_one_that_was_heard_nobody_knows_when() -> None:
    pipeline, tail = telling(), Tail(100)
    send(pipeline, tail, "x", 1, 50.0)
    drain(pipeline, tail)
    old = msgspec.msgpack.encode(msgspec.msgpack.decode(pipeline.lives.dump(X))[:6])
    again = telling()
    again.restore(X, 1, old)
    (entry,) = again.tick(100.0, 5000, 0.0)
    tail = Tail(10)
    tail.put([entry])
    said = kept(drain(again, tail))["out/x/s"]
    assert (said["state"], said["age"], said["last_reading"]) == ("stale", None, None)


@pytest.mark.parametrize("restarts", [False, True])
def test_behind_a_number_far_ahead_the_state_is_that_of_what_is_answered(restarts: bool) -> None:
    pipeline, tail = telling(rings={"max_gap": 2, "restart": True}), Tail(100)
    for cycle in (*range(1, 6), 1_000_000):
        send(pipeline, tail, "x", cycle, 50.0)
    assert states(drain(pipeline, tail))[-1] == ("warming_up", 0, 1_000_000, 1)
    send(pipeline, tail, "x", 6, 50.0)
    assert states(drain(pipeline, tail)) == [("predicting", 0, 6, 3)]
    if restarts:
        blob = pipeline.lives.dump(X)
        pipeline = telling(rings={"max_gap": 2, "restart": True})
        pipeline.restore(X, tail.last, blob)
        assert states(pipeline.states(X)) == [("predicting", 0, 6, 3)]
    for cycle in range(7, 20):
        send(pipeline, tail, "x", cycle, 50.0)
    assert states(drain(pipeline, tail)) == [], "said once"
    assert states(pipeline.states(X)) == [("predicting", 0, 19, 3)]
    send(pipeline, tail, "x", 1_000_001, 50.0)
    assert states(drain(pipeline, tail)) == [("warming_up", 0, 1_000_001, 2)]


def test_a_late_reading_that_only_revises_an_answer_does_not_hide_that_the_window_begins_anew() -> None:
    pipeline, tail = telling(rings={"max_gap": 2, "restart": True}), Tail(100)
    for cycle in (1, 2, 3, 4, 6, 50):
        send(pipeline, tail, "x", cycle, 50.0)
    drain(pipeline, tail)
    send(pipeline, tail, "x", 5, 50.0)
    assert states(drain(pipeline, tail)) == [("warming_up", 0, 50, 1)]


def test_silence_counts_from_when_one_could_hear() -> None:
    silences = Silences(10.0)
    silences.heard(X, 0.0)
    assert silences.over(100.0, listening=95.0) == []
    assert silences.over(106.0, listening=95.0) == [X]


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["read", "read", "wait", "reset", "restart"]), st.integers(0, 2), st.integers(1, 50)),
        max_size=40,
    )
)
def test_the_last_state_is_what_an_oracle_says(steps: list[tuple[str, int, int]]) -> None:
    """Of three assets: readings since the life began, and whether the last one came within AFTER."""
    pipeline, tail, now, listening = telling(), Tail(1000), 0.0, 0.0
    counts, lives, heard, silent = [0] * 3, [0] * 3, [0.0] * 3, [False] * 3
    retained: dict[str, Any] = {}
    cycle = 0

    def settle() -> None:
        while (batch := pipeline.fill(tail, tail.last, now=now)) is not None:
            rul, logits = batch.x[:, -1, 0], batch.x[:, -1, :2]
            retained.update(kept(pipeline.complete(batch, rul, logits).messages))

    for what, n, seconds in steps:
        now += seconds
        if what == "read":
            cycle += 1
            send(pipeline, tail, f"a{n}", cycle, 50.0)
            counts[n], heard[n], silent[n] = counts[n] + 1, now, False
        elif what == "reset" and counts[n]:
            tail.put(pipeline.decode("cmd", json.dumps({"command": "reset", "asset": f"a{n}"}).encode(), 0).entries)
            counts[n], lives[n] = 0, lives[n] + 1
        elif what == "restart":
            restarted = telling()
            for asset in pipeline.lives.assets:
                restarted.restore(asset, tail.last, pipeline.lives.dump(asset))
            pipeline, listening = restarted, now
            heard = [now] * 3  # not before it can hear
        settle()
        tail.put(list(pipeline.tick(now, int(now), listening)))
        settle()
        for i in range(3):
            known = f"out/a{i}/s" in retained
            if known and not silent[i] and now - heard[i] > AFTER:
                silent[i] = True
            if known:
                expected = "stale" if silent[i] else "predicting" if counts[i] >= T else "warming_up"
                said = retained[f"out/a{i}/s"]
                assert (said["state"], said["life"], said["readings"]) == (expected, lives[i], min(T, counts[i]))
                assert (retained.get(f"out/a{i}/p") is None) == (counts[i] < T)
    assert pipeline.lives.stale == {Asset(f"a{i}") for i in range(3) if silent[i]}


def test_a_configuration_without_the_topic_says_nothing() -> None:
    pipeline, tail = make(outgoing=OUTGOING), Tail(100)
    send(pipeline, tail, "x", 1, 50.0)
    assert drain(pipeline, tail) == []
