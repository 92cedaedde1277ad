"""The whole corridor without a broker, a clock or an engine."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rul.core.alarm import RulAlarm
from edge_rul.core.entry import Entry
from edge_rul.core.features import Feature
from edge_rul.core.normalise import Array, ZScore
from edge_rul.core.outgoing import Message, Outgoing
from edge_rul.core.payload import Decoder
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.core.tail import Numbered
from edge_rul.core.tail import Tail as CoreTail
from edge_rul.core.topic import Template
from edge_rul.core.transform import Transform
from edge_rul.core.valid import Ranges
from edge_rul.core.window import Rings
from edge_rul.errors import Reason


class Tail(CoreTail):
    """A tail that numbers what it is given, as a journal would."""

    def put(self, entries: list[Entry]) -> None:
        self.append([Numbered(self.last + i + 1, entry) for i, entry in enumerate(entries)])


T = 3
NOW = 1_767_225_600_000
KNOWN = {"unknown_condition": 0, "unknown_change": 0}


OUTGOING = Outgoing(
    Template("out/{asset}/p"),
    Template("out/{asset}/a/{alarm}"),
    Template("out/{asset}/e"),
    statistics=Template("out/s"),
    status=Template("out/status"),
    daemon_alarm=Template("out/d/{alarm}"),
    dead_letter=Template("out/dead"),
)


TRANSFORM = Transform(
    ["p", "q"], low=[0, 0], high=[100, 1], normaliser=ZScore(mean=[10.0, 0.0], std=[2.0, 0.0]), window=T
)


def make(
    max_batch: int = 4,
    max_assets: int = 100,
    outgoing: Outgoing = OUTGOING,
    rings: dict[str, Any] | None = None,
    **more: Any,
) -> Pipeline:
    return Pipeline(
        model=Model(BundleId("b", "0" * 64), EngineId("fake", "float32"), "j", "cycles", ("good", "bad")),
        rings=Rings(T, 2, **{"max_late": T, **(rings or {})}),
        transform=more.pop("transform", TRANSFORM),
        decoder=Decoder(["p", "q"], [Template("in/{asset}")], command=Template("cmd"), hold=["p"]),
        outgoing=outgoing,
        rules=more.pop("rules", [RulAlarm(name="low", below=20)]),
        max_batch=max_batch,
        max_assets=max_assets,
        **more,
    )


def engine(x: Array) -> tuple[Array, Array]:
    """RUL is the window's last raw p; the logits tell whether it is below 20."""
    rul = x[:, -1, 0] * 2 + 10  # (B,)
    return rul, np.stack([rul - 20, 20 - rul], axis=1).astype(np.float32)  # (B,), (B, 2)


def send(
    pipeline: Pipeline, tail: Tail, asset: str, cycle: int | None, p: float | None, q: float = 0.5, **more: Any
) -> None:
    payload = json.dumps({"cycle": cycle, "values": {"p": p, "q": q}, **more}).encode()
    tail.put(pipeline.decode(f"in/{asset}", payload, NOW).entries)


def put(pipeline: Pipeline, tail: Tail, topic: str, payload: bytes) -> None:
    """As the intake does it: what is refused is an entry too."""
    decoded = pipeline.decode(topic, payload, NOW)
    tail.put([*decoded.entries, *decoded.rejected])


def drain(pipeline: Pipeline, tail: Tail, *, latest: bool = False) -> list[Message]:
    messages: list[Message] = []
    while (batch := pipeline.fill(tail, tail.last, latest=latest)) is not None:
        messages += pipeline.complete(batch, *engine(batch.x)).messages
    return messages


def predictions(messages: list[Message]) -> list[dict[str, Any]]:
    return [json.loads(m.payload) for m in messages if m.topic.endswith("/p") and m.payload]


def test_the_walk_from_readings_to_a_retained_prediction() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 5):
        send(pipeline, tail, "x", cycle, 40.0 + cycle, ts=NOW + cycle)
    messages = drain(pipeline, tail)
    first, second = predictions(messages)
    assert (first["asset"], first["life"], first["cycle"], first["revision"]) == ("x", 0, 3, 0)
    assert first["ts"] == "2026-01-01T00:00:00.003Z"
    assert first["rul"] == pytest.approx(43.0)
    assert second["rul"] == pytest.approx(44.0)
    assert first["health"]["class"] == "good"
    assert sum(first["health"]["probabilities"].values()) == pytest.approx(1.0)
    assert first["quality"] == {"state": "good", "held": 0, "missing_cycles": 0, "outside": [], "skipped": 0} | KNOWN
    assert [(m.topic, m.retain, m.qos, m.seq) for m in messages] == [
        ("out/x/p", True, 1, 3),
        ("out/x/a/low", True, 1, 3),
        ("out/x/p", True, 1, 4),
    ]


def test_quality_tells_what_is_wrong_with_a_window() -> None:
    pipeline, tail = make(), Tail(100)
    send(pipeline, tail, "x", 1, 50.0)
    send(pipeline, tail, "x", 2, None)
    send(pipeline, tail, "x", 5, 111.0, q=9.0)
    (found,) = predictions(drain(pipeline, tail))
    assert (
        found["quality"]
        == {
            "state": "uncertain",
            "held": 1,
            "missing_cycles": 2,
            "outside": ["p", "q"],
            "skipped": 0,
        }
        | KNOWN
    )
    assert pipeline.counts["gaps"] == 2


def test_values_beyond_their_range_are_held_or_cost_the_reading_and_are_counted() -> None:
    pipeline, tail = make(ranges=Ranges([(0, 60), (0, 1)], [True, False]), rings={"max_hold": [1, None]}), Tail(100)
    for cycle, (p, q) in enumerate([(50, 0.5), (99, 0.5), (40, 0.5), (99, 9), (-1, 0.5), (-1, 0.5), (30, 0.5)], 1):
        send(pipeline, tail, "x", cycle, p, q=q)
    found = predictions(drain(pipeline, tail))
    # Cycle 4 is rejected, since q may not be held; the windows up to 6 and 7 hold p for two readings in a row.
    assert [(p["cycle"], p["rul"], p["quality"]["held"]) for p in found] == [(3, 40, 1), (5, 40, 2)]
    assert pipeline.dropped == {Reason.OUT_OF_RANGE: 1}
    assert (pipeline.counts["invalid_values"], pipeline.counts["held_too_long"]) == (3, 2)


def changing() -> Pipeline:
    """q's feature is its change per cycle, and the engine's RUL is 10 more than 2 times it."""
    transform = Transform(
        ["p", "q"],
        low=[0, 0],
        high=[100, 100],
        features=[Feature("rate", "q", change="cycle"), Feature("p", "p")],
        normaliser=ZScore(mean=[0.0, 0.0], std=[1.0, 1.0]),
        window=T,
    )
    return make(transform=transform, rings={"max_late": 4, "changes": True})


def test_a_late_reading_answers_again_every_window_that_holds_it_or_the_change_after_it() -> None:
    pipeline, tail = changing(), Tail(100)
    for cycle in (1, 2, 4, 5, 6, 7):
        send(pipeline, tail, "x", cycle, 1.0, q=cycle**2)
    found = predictions(drain(pipeline, tail))
    # The change from 2 to 4 is over two cycles, so a rate; the first reading's is not known.
    assert [(p["cycle"], p["rul"]) for p in found] == [(4, 22), (5, 28), (6, 32), (7, 36)]
    assert [p["quality"]["unknown_change"] for p in found] == [1, 0, 0, 0]
    assert [p["quality"]["missing_cycles"] for p in found] == [1, 1, 1, 0]
    send(pipeline, tail, "x", 3, 1.0, q=9)
    again = predictions(drain(pipeline, tail))
    # The window up to 6 begins with 4, whose change is now that from 3. The window up to 7 does not see it.
    assert [(p["cycle"], p["revision"], p["rul"]) for p in again] == [(3, 0, 20), (4, 1, 24), (5, 1, 28), (6, 1, 32)]


def test_what_hangs_on_the_reading_before_is_not_settled_until_that_is_known() -> None:
    """A crash may bring readings back in another order; the first change is then perhaps another one."""
    pipeline, tail = changing(), Tail(100)
    for cycle in (1, 2, 3, 4):
        send(pipeline, tail, "x", cycle, 1.0)
    batch = pipeline.fill(tail, tail.last)
    assert batch is not None
    assert [due.cycle for due in batch.due] == [3, 4]
    assert pipeline.complete(batch, *engine(batch.x)).unsettled == 3
    send(pipeline, tail, "x", 5, 1.0)
    batch = pipeline.fill(tail, tail.last)
    assert batch is not None
    assert pipeline.complete(batch, *engine(batch.x)).unsettled is None


def test_an_alarm_event_is_not_retained_and_stands_before_the_state() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle, p in enumerate([50, 50, 50, 10, 50], start=1):
        send(pipeline, tail, "x", cycle, p)
    alarms = [m for m in drain(pipeline, tail) if not m.topic.endswith("/p")]
    assert [(m.topic, m.retain) for m in alarms] == [
        ("out/x/a/low", True),
        ("out/x/e", False),
        ("out/x/a/low", True),
        ("out/x/e", False),
        ("out/x/a/low", True),
    ]
    raised = json.loads(alarms[1].payload)
    assert (raised["event"], raised["id"], raised["value"]) == ("raised", "x/0/4/low/raised", 10.0)


def test_a_new_life_clears_the_alarm_in_order_of_seq() -> None:
    pipeline, tail = make(max_batch=100), Tail(100)
    for cycle in range(1, 5):
        send(pipeline, tail, "x", cycle, 10.0, ts=NOW + cycle)
    send(pipeline, tail, "x", 1, 90.0, ts=NOW + 50)
    send(pipeline, tail, "x", 2, 90.0, ts=NOW + 51)
    send(pipeline, tail, "x", 3, 90.0, ts=NOW + 52)
    events = [json.loads(m.payload) for m in drain(pipeline, tail) if m.topic.endswith("/e")]
    assert [(e["event"], e["life"], e["cycle"]) for e in events] == [("raised", 0, 3), ("cleared", 1, 1)]


def test_a_reset_command_rides_in_order() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 4):
        send(pipeline, tail, "x", cycle, 10.0)
    tail.put(pipeline.decode("cmd", b'{"command": "reset", "asset": "x"}', NOW).entries)
    for cycle in range(1, 4):
        send(pipeline, tail, "x", cycle, 50.0)
    messages = drain(pipeline, tail)
    assert [(p["life"], p["cycle"]) for p in predictions(messages)] == [(0, 3), (1, 3)]
    assert [json.loads(m.payload)["event"] for m in messages if m.topic.endswith("/e")] == ["raised", "cleared"]


def test_a_late_reading_behind_the_newest_cycle_does_not_keep_it_from_its_alarm_where_scoring_lags() -> None:
    """`on_lag: latest` keeps only the revision of what was never answered: that is the first that an alarm hears."""
    pipeline, tail = make(max_batch=100), Tail(100)
    for cycle in (1, 2, 3):
        send(pipeline, tail, "x", cycle, 50.0)
    drain(pipeline, tail)
    send(pipeline, tail, "x", 5, 10.0)
    send(pipeline, tail, "x", 4, 50.0)
    messages = drain(pipeline, tail, latest=True)
    assert [(p["cycle"], p["revision"], p["rul"]) for p in predictions(messages)] == [(5, 1, 10.0)]
    assert [json.loads(m.payload)["event"] for m in messages if m.topic.endswith("/e")] == ["raised"]
    send(pipeline, tail, "x", 7, 90.0)
    drain(pipeline, tail)
    send(pipeline, tail, "x", 6, 10.0)  # its answer and the revision of one that an alarm has heard move none
    messages = drain(pipeline, tail, latest=True)
    assert [(p["cycle"], p["revision"]) for p in predictions(messages)] == [(7, 1)]
    assert [m.topic for m in messages] == ["out/x/p"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_finite_is_refused_and_counted(bad: float) -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 5):
        send(pipeline, tail, "x", cycle, 50.0)
    batch = pipeline.fill(tail, tail.last)
    assert batch is not None
    rul, logits = engine(batch.x)
    rul[0] = bad
    assert [p["cycle"] for p in predictions(pipeline.complete(batch, rul, logits).messages)] == [4]
    assert pipeline.dropped[Reason.ENGINE_NOT_FINITE] == 1


def test_batches_have_at_most_max_batch_windows_and_say_what_they_answer() -> None:
    pipeline, tail = make(max_batch=2), Tail(100)
    for cycle in range(1, 8):
        send(pipeline, tail, "x", cycle, 50.0)
    sizes, uptos = [], []
    while (batch := pipeline.fill(tail, tail.last)) is not None:
        sizes.append(len(batch.x))
        uptos.append(batch.upto)
        assert len(batch.due) == len(batch.x)
        pipeline.complete(batch, *engine(batch.x))
    assert sizes == [2, 2, 1]
    assert uptos == [4, 6, 7]


def test_entries_without_a_window_are_answered_too() -> None:
    pipeline, tail = make(), Tail(100)
    send(pipeline, tail, "x", 1, 50.0)
    batch = pipeline.fill(tail, tail.last)
    assert batch is not None
    assert (len(batch.x), batch.upto) == (0, 1)
    assert pipeline.fill(tail, tail.last) is None


def test_every_reading_is_accounted_for() -> None:
    pipeline, tail = make(max_assets=2), Tail(100)
    for asset in ("x", "y", "z"):
        send(pipeline, tail, asset, 1, 50.0)
        send(pipeline, tail, asset, 1, 50.0)
    put(pipeline, tail, "in/x", b"nonsense")
    drain(pipeline, tail)
    assert pipeline.counts["readings"] == 6
    assert pipeline.dropped == {Reason.DUPLICATE: 2, Reason.TOO_MANY_ASSETS: 2, Reason.NOT_JSON: 1}
    assert len(pipeline.lives) == 2


def test_a_constant_input_normalises_to_zero() -> None:
    x = ZScore(mean=[10.0, 5.0], std=[2.0, 0.0]).apply(np.array([[12.0, 99.0]], np.float32))
    np.testing.assert_array_equal(x, [[1.0, 0.0]])


def letters(messages: list[Message]) -> list[dict[str, Any]]:
    assert {m.retain for m in messages if m.topic == "out/dead"} <= {False}
    return [json.loads(m.payload) for m in messages if m.topic == "out/dead"]


def test_what_cannot_be_read_is_told_as_it_came_element_by_element() -> None:
    pipeline, tail = make(), Tail(100)
    put(pipeline, tail, "in/x", b"\xff\xfe")
    put(pipeline, tail, "in/x", b'[{"cycle": 1, "values": [1, 0]}, {"cycle": "two", "values": [2, 0]}]')
    put(pipeline, tail, "cmd", b'{"command": "dance"}')
    said = letters(drain(pipeline, tail))
    assert [(m["reason"], m["topic"], m["payload"], m["encoding"]) for m in said] == [
        ("not_json", "in/x", "//4=", "base64"),
        ("bad_cycle", "in/x", '{"cycle": "two", "values": [2, 0]}', "utf-8"),
        ("bad_command", "cmd", '{"command": "dance"}', "utf-8"),
    ]
    assert "str" in said[1]["problem"]
    assert pipeline.counts["dead_letters"] == 3


def test_a_payload_is_cut_to_the_limit_and_not_inside_a_character() -> None:
    pipeline, tail = make(), Tail(100)
    text = "\u00e9" * 1000
    put(pipeline, tail, "in/x", b" " + text.encode())
    (said,) = letters(drain(pipeline, tail))
    assert said["payload"] == " " + text[:511]  # 1024 bytes less half a character
    assert said["size"] == 2001


def test_a_reading_without_a_place_is_told_as_it_was_read_and_a_repetition_is_not_told() -> None:
    pipeline, tail = make(max_assets=1), Tail(100)
    for cycle in (5, 6, 6):
        send(pipeline, tail, "x", cycle, 50.0)
    send(pipeline, tail, "x", 6, 51.5)
    send(pipeline, tail, "x", 3, 50.0, ts=NOW)
    send(pipeline, tail, "y", 1, None)
    said = letters(drain(pipeline, tail))
    assert [(m["reason"], m["topic"]) for m in said] == [
        ("conflict", "in/x"),
        ("old_life", "in/x"),
        ("too_many_assets", "in/y"),
    ]
    assert json.loads(said[0]["payload"]) == {"cycle": 6, "ts": None, "values": {"p": 51.5, "q": 0.5}}
    assert json.loads(said[1]["payload"])["ts"] == NOW
    assert json.loads(said[2]["payload"])["values"]["p"] is None


@settings(max_examples=100)
@given(
    order=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    max_batch=st.integers(1, 7),
    cuts=st.sets(st.integers(0, 60)),
)
def test_what_is_published_does_not_depend_on_where_batches_end(
    order: list[int], max_batch: int, cuts: set[int]
) -> None:
    """order: which asset sends its next cycle. cuts: after which readings the tail is drained."""
    published = []
    for size, ends in ((1000, set[int]()), (max_batch, cuts)):
        pipeline, tail = make(max_batch=size), Tail(1000)
        cycles = [0] * 5
        messages: list[Message] = []
        for index, asset in enumerate(order):
            cycles[asset] += 1
            send(pipeline, tail, f"a{asset}", cycles[asset], 15.0 + (index * 7) % 11)
            if index in ends:
                messages += drain(pipeline, tail)
        messages += drain(pipeline, tail)
        published.append([(m.topic, m.payload, m.retain, m.seq) for m in messages])
    assert published[0] == published[1]


@settings(max_examples=50)
@given(sent=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_what_comes_from_the_future_changes_no_answer_and_is_told(sent: list[tuple[int, bool]]) -> None:
    """sent: an asset's next cycle, or one that claims to be a year ahead."""
    answers = []
    for with_future in (False, True):
        pipeline, tail = make(), Tail(1000)
        messages: list[Message] = []
        cycles = [0] * 3
        for n, future in sent:
            if not future:
                cycles[n] += 1
                send(pipeline, tail, f"a{n}", cycles[n], 50.0 + cycles[n], ts=NOW + cycles[n])
            elif with_future:
                payload = {"cycle": 1, "ts": NOW + 365 * 86_400_000, "values": [1.0, 0.5]}
                put(pipeline, tail, f"in/a{n}", json.dumps(payload).encode())
        messages = drain(pipeline, tail)
        answers.append(predictions(messages))
        told = [letter["reason"] for letter in letters(messages)]
        assert told == with_future * ["future"] * sum(future for _, future in sent)
    assert answers[0] == answers[1]
