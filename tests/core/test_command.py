"""What may be commanded, where the answer goes, and what becomes of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core.test_pipeline import NOW, Tail, drain, make, predictions, send

from edge_rul.core.command import Command, ReplyTo
from edge_rul.core.dead_letter import Refused
from edge_rul.core.outgoing import Message
from edge_rul.core.payload import Decoded, Decoder
from edge_rul.core.topic import Asset, Template
from edge_rul.errors import Reason

RESET = {"command": "reset", "asset": "pump-1", "levels": {"line": "A"}}
PUMP = Asset("pump-1", (("line", "A"),))


def decode(payload: Any, **how: Any) -> Decoded:
    decoder = Decoder(
        ["a"],
        [Template("plant/{line}/{asset}/cycle")],
        command=Template("cmd"),
        outputs=[Template("out/{line}/{asset}/p")],
        payload_limit=5000,
    )
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decoder.decode("cmd", data, 0, **how)


def refused(payload: Any, **how: Any) -> Refused:
    decoded = decode(payload, **how)
    assert decoded.entries == []
    (found,) = decoded.rejected
    assert found.reason in (Reason.BAD_COMMAND, Reason.TOO_LARGE)
    return found


def test_a_command_says_who_and_why_and_where_the_answer_goes() -> None:
    sent = {**RESET, "who": "kim", "why": "overhaul", "reply_to": "answers/kim", "id": "7"}
    assert decode(sent).entries == [Command("reset", PUMP, "kim", "overhaul", ReplyTo("answers/kim", b"", "7"))]
    given = ReplyTo("answers/five", b"\x01")
    (command,) = decode(sent, reply_to=given).entries
    assert isinstance(command, Command)
    assert command.reply_to == ReplyTo("answers/five", b"\x01", "7")
    assert decode({**RESET, "command": "remove"}).entries == [Command("remove", PUMP)]
    assert decode({**RESET, "command": "ack"}).entries == [Command("ack", PUMP)]
    shelve = {**RESET, "command": "shelve", "alarm": "low", "cycles": 5}
    assert decode(shelve).entries == [Command("shelve", PUMP, alarm="low", cycles=5)]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"reset", "JSON"),
        (b"", "the message is empty"),
        ({**RESET, "command": "explode"}, "'explode' - at `$.command`; there are reset, remove, ack, shelve"),
        ({**RESET, "alarm": "low"}, "reset takes no alarm"),
        ({**RESET, "cycles": 5}, "reset takes none"),
        ({**RESET, "command": "ack", "cycles": 5}, "ack takes none"),
        ({**RESET, "command": "shelve"}, "for how many cycles"),
        ({**RESET, "command": "shelve", "cycles": -1}, "cycles"),
        ({"command": "reset", "asset": "pump-1"}, "expected line"),
        ({**RESET, "levels": {"line": 3}}, "str"),
        ({**RESET, "asset": "a/b"}, "separates"),
        ({**RESET, "who": "x" * 257}, "256"),
        ({**RESET, "whom": "kim"}, "whom"),
        ({**RESET, "why": "x" * 5000}, "5000 are allowed"),
    ],
)
def test_a_command_that_cannot_be_read(payload: Any, says: str) -> None:
    assert says in refused(payload).problem


OURS = ["plant/A/x/cycle", "cmd", "out/A/pump-1/p"]
MALFORMED = ["a/+", "#", "", "$SYS/x", "x" * 1025, "r/" * 250 + "x", "r\ufdd0", "r/\U0010ffff"]


@pytest.mark.parametrize("topic", [*OURS, *MALFORMED])
def test_nobody_can_make_the_daemon_talk_to_itself_or_in_its_own_name(topic: str) -> None:
    for found in (refused({**RESET, "reply_to": topic}), refused(RESET, reply_to=ReplyTo(topic))):
        assert "the reply topic" in found.problem
        assert found.reply_to is None


def test_a_retained_command_is_refused_as_it_would_come_again_and_again() -> None:
    assert "retained" in refused(RESET, retained=True).problem
    assert decode(b"", retained=True) == Decoded(), "which is how it is cleared"


def command(pipeline: Any, tail: Tail, *, again: bool = False, **fields: Any) -> None:
    payload = json.dumps({"asset": "x", "reply_to": "re", **fields}).encode()
    decoded = pipeline.decode("cmd", payload, 0, again=again)
    tail.put([*decoded.entries, *decoded.rejected])


def replies(messages: list[Message]) -> list[tuple[bool, str | None, str | None]]:
    said = [json.loads(m.payload) for m in messages if m.topic == "re"]
    return [(m["ok"], m["command"], m["error"]) for m in said]


def test_every_command_is_answered_in_its_place() -> None:
    pipeline, tail = make(), Tail(100)
    command(pipeline, tail, command="reset", id="1")
    for cycle in range(1, 4):
        send(pipeline, tail, "x", cycle, 50.0)
    command(pipeline, tail, command="reset")
    command(pipeline, tail, command="dance")
    messages = drain(pipeline, tail)
    unknown, done, odd = replies(messages)
    assert unknown == (False, "reset", "the daemon knows no such asset")
    assert done == (True, "reset", None)
    assert odd[:2] == (False, None) and "dance" in str(odd[2])
    assert json.loads(messages[0].payload)["id"] == "1"
    assert [m.topic for m in messages] == ["re", "out/x/p", "out/x/a/low", "out/x/p", "re", "out/dead", "re"]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("whys", [["overhaul"], ["overhaul", "no answer yet"]])
def test_a_reset_that_the_broker_sends_again_with_what_came_around_it_ends_no_other_life(
    timed: bool, restarts: bool, whys: list[str]
) -> None:
    """As after a connection that breaks before the commit. Without times old readings pass for the new life's until the
    reset comes again, as they come before it."""
    pipeline, tail = make(), Tail(100)

    def feed(cycles: range, later: int = 0) -> None:
        for cycle in cycles:
            ts = NOW + later + cycle if timed else None
            send(pipeline, tail, "x", cycle, 40.0 + later + cycle, **({"ts": ts} if timed else {}))

    def answers() -> list[tuple[int, int, int, float]]:
        return [(p["life"], p["cycle"], p["revision"], p["rul"]) for p in predictions(drain(pipeline, tail))]

    feed(range(1, 6))
    for why in whys:
        command(pipeline, tail, command="reset", why=why)
    feed(range(1, 4), later=20)
    first = answers()
    assert first[-1] == (1, 3, 0, 63.0)
    if restarts:
        blob, pipeline = pipeline.lives.dump(Asset("x")), make()
        pipeline.restore(Asset("x"), tail.last, blob)
    feed(range(3, 6))
    for why in whys:
        command(pipeline, tail, command="reset", why=why, again=True)
    feed(range(1, 4), later=20)
    second = answers()
    assert second == [] if timed else second[-1] == (1, 3, 0, 63.0)
    feed(range(4, 7), later=20)
    assert answers() == [(1, 4, 0, 64.0), (1, 5, 0, 65.0), (1, 6, 0, 66.0)]
    newest = pipeline.lives.newest(Asset("x"))
    assert newest is not None
    assert newest[1].window.readings.values[:, 0].tolist() == [64.0, 65.0, 66.0]


def test_what_old_readings_that_came_again_raised_is_cleared_by_the_reset_behind_them() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 8):
        send(pipeline, tail, "x", cycle, 10.0)
    command(pipeline, tail, command="reset")
    send(pipeline, tail, "x", 1, 50.0)
    drain(pipeline, tail)
    for cycle in range(2, 8):
        send(pipeline, tail, "x", cycle, 10.0)
    command(pipeline, tail, command="reset", again=True)
    send(pipeline, tail, "x", 1, 50.0)
    messages = drain(pipeline, tail)
    events = [json.loads(m.payload) for m in messages if m.topic == "out/x/e"]
    assert [(e["event"], e["life"]) for e in events] == [("raised", 1), ("cleared", 1)]
    assert [m.payload for m in messages if m.topic == "out/x/p"][-1] == b"", "what is retained goes with them"
    assert pipeline.lives.standing(Asset("x")).readings == 1


@pytest.mark.parametrize(("first", "second"), [({}, {}), ({"again": True}, {}), ({}, {"why": "?", "again": True})])
def test_a_reset_is_the_same_only_where_the_broker_says_so_and_it_says_the_same(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    """One that was sent in vain at first comes as sent again, and is nevertheless new to us."""
    pipeline, tail = make(), Tail(100)
    for reset in (first, second):
        send(pipeline, tail, "x", 1, 50.0)
        command(pipeline, tail, command="reset", **reset)
    assert replies(drain(pipeline, tail)) == [(True, "reset", None)] * 2
    assert pipeline.lives.number(Asset("x")) == 2


def test_a_removed_asset_leaves_nothing_retained_and_begins_anew() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 4):
        send(pipeline, tail, "x", cycle, 10.0)
    send(pipeline, tail, "y", 1, 50.0)
    retained = {m.topic for m in drain(pipeline, tail) if m.retain}
    command(pipeline, tail, command="remove")
    messages = drain(pipeline, tail)
    assert {m.topic for m in messages if m.retain and not m.payload} == retained == {"out/x/p", "out/x/a/low"}
    assert [json.loads(m.payload)["event"] for m in messages if m.topic == "out/x/e"] == ["cleared"]
    assert replies(messages) == [(True, "remove", None)]
    assert pipeline.lives.assets == [Asset("y")]
    for cycle in range(7, 10):
        send(pipeline, tail, "x", cycle, 50.0)
        send(pipeline, tail, "y", cycle, 50.0 + cycle)
    found = {(p["asset"], p["life"], p["cycle"]): p["rul"] for p in predictions(drain(pipeline, tail))}
    assert found[("x", 0, 9)] == pytest.approx(50.0)
    assert found[("y", 0, 9)] == pytest.approx(59.0)  # the freed row became nobody else's


def test_what_is_retained_of_a_removed_asset_goes_once_it_has_caught_up() -> None:
    pipeline, tail = make(), Tail(100)
    for cycle in range(1, 4):
        send(pipeline, tail, "x", cycle, 50.0)
    command(pipeline, tail, command="remove")
    pipeline.begin(replay_from=0, answered=3, catch_up=4)
    assert [m.topic for m in drain(pipeline, tail) if m.retain] == []
    assert [(m.topic, m.payload) for m in pipeline.caught_up()] == [("out/x/a/low", b""), ("out/x/p", b"")]
