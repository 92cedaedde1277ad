"""The chaos run: that nothing acknowledged is lost, that it would be seen if it were, and the parts of the tool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chaos_alarms
import chaos_faults
import chaos_witness
import mqtt_proxy
import numpy as np
import pytest
from chaos_alarms import Event, Step
from chaos_field import connect_packet, publish_packet
from chaos_witness import Answer, Key
from conftest import ROOT, absent
from core.test_pipeline import OUTGOING
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.alarm import Alarms, Change, RulAlarm
from edge_rul.core.normalise import Array
from edge_rul.core.topic import Asset


def run_chaos(data: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    if shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin") is None:
        absent("mosquitto (apt-get install mosquitto)")
    command = [sys.executable, str(ROOT / "tools/chaos.py"), "--data", str(data / "cmapss"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_two_minutes_of_kills_outages_cuts_and_full_disks_lose_nothing(data_dir: Path) -> None:
    code, counts, told = run_chaos(data_dir, "--seconds", "120", "--seed", "13")
    assert (code, counts["missing"], counts["wrong"], counts["daemon_exits"]) == (0, 0, 0, 0), told
    assert (counts["events_missing"], counts["events_wrong"], counts["retained_wrong"]) == (0, 0, 0), told
    assert counts["events"] > 20, told
    assert counts["daemon_kills"] >= 10
    assert counts["broker_stops"] + counts["broker_kills"] >= 5
    assert counts["predicted"] > 1000, told  # or there was nothing to lose


def test_acknowledging_before_the_commit_is_caught(data_dir: Path) -> None:
    code, counts, told = run_chaos(data_dir, "--seconds", "35", "--seed", "1", "--sabotage", "ack-before-commit")
    assert code == 1, told
    assert counts["missing"] + counts["wrong"] > 0


def test_the_plan_is_the_seed_s_and_has_kills_and_outages_enough() -> None:
    plan = chaos_faults.make_plan(120, 13)
    assert plan == chaos_faults.make_plan(120, 13) != chaos_faults.make_plan(120, 14)
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    names = [fault.name for fault in plan]
    assert sum(name in ("kill the daemon", "kill the delayed daemon", "kill both") for name in names) >= 10
    assert sum(name in ("stop the broker", "kill the broker", "kill both") for name in names) >= 5


def test_the_oracle_slides_over_what_was_acknowledged_within_a_life() -> None:
    keys = (
        [Key("a", 0, c) for c in (1, 2, 4, 5)] + [Key("a", 1, c) for c in (1, 2)] + [Key("b", 0, c) for c in (1, 2, 3)]
    )

    def values(key: Key) -> Array:
        return np.array([key.cycle], np.float32)

    def total(windows: Array) -> Array:
        return windows.sum(axis=(1, 2))  # (N, T, F) -> (N,)

    # In the window of cycle 4 the reading of 2 stands for 3, which never came. No window reaches into another life.
    assert chaos_witness.offline(keys, values, 3, total) == {
        Key("a", 0, 4): 8.0,
        Key("a", 0, 5): 11.0,
        Key("b", 0, 3): 6.0,
    }


def test_the_oracle_s_window_begins_anew_behind_a_long_gap() -> None:
    keys = [Key("a", 0, c) for c in (1, 2, 6, 11, 12, 14)]

    def values(key: Key) -> Array:
        return np.array([key.cycle], np.float32)

    def last_and_first(windows: Array) -> Array:
        return windows[:, -1, 0] * 100 + windows[:, 0, 0]  # (N, T, F) -> (N,)

    assert chaos_witness.offline(keys, values, 3, last_and_first) == {Key("a", 0, 6): 602.0, Key("a", 0, 14): 1412.0}


@given(lives=st.lists(st.lists(st.floats(100, 125), max_size=12), min_size=1, max_size=3))
def test_the_plain_account_of_an_alarm_is_the_daemon_s(lives: list[list[float]]) -> None:
    """Two programs of one rule, written apart: each finds the other's mistakes."""
    rule = RulAlarm(
        name=chaos_alarms.NAME,
        below=chaos_alarms.BELOW,
        deadband=chaos_alarms.DEADBAND,
        on_delay=chaos_alarms.ON_DELAY,
        off_delay=chaos_alarms.OFF_DELAY,
    )
    alarms, asset = Alarms([rule]), Asset("engine-001", (("line", "A"),))
    steps: list[Step] = []
    changes: list[Change] = []
    for life, ruls in enumerate(lives):
        steps.append(Step(life, 1, None))
        changes += alarms.new_life(asset, life, 1, None)
        for cycle, rul in enumerate(ruls, 30):
            steps.append(Step(life, cycle, rul))
            changes += alarms.predicted(asset, life, cycle, None, rul, {})
    events, state = chaos_alarms.expected("A/engine-001", steps)
    said = [json.loads(m.payload) for change in changes for m in OUTGOING.alarm(change, 0) if m.topic.endswith("/e")]
    assert {e["id"]: Event(e["life"], e["cycle"], e["event"], e["value"]) for e in said} == events
    assert state == ([change.status.state.value for change in changes] or ["normal"])[-1]


def test_an_event_that_is_missing_or_says_something_else_is_found() -> None:
    right = {"a": Event(0, 1, "raised", 9.0), "b": Event(0, 2, "cleared", 11.0)}
    said = {"a": {right["a"], Event(0, 1, "raised", 8.0)}, "c": {Event(0, 3, "raised", 9.0)}}
    assert chaos_alarms.compare(right, said, 1e-4) == (["b"], ["a", "c"])
    again = {id_: {event, event._replace(value=event.value + 1e-5)} for id_, event in right.items()}
    assert chaos_alarms.compare(right, again, 1e-4) == ([], []), "the last digits of an answer are no other event"


def test_alarms_move_with_first_answers_to_new_cycles_alone() -> None:
    witness = chaos_witness.Witness()
    witness.acknowledged = {Key("x", life, cycle) for life in (0, 1) for cycle in (1, 2, 3, 4)}
    for cycle, revision, rul in ((2, 0, 20.0), (4, 0, 40.0), (3, 0, 30.0), (4, 1, 41.0)):  # 3 came late
        witness.answers[Key("x", 0, cycle)].append(Answer(revision, rul, True))
    witness.answers[Key("y", 0, 9)].append(Answer(0, 1.0, True))
    assert chaos_witness.alarm_steps("x", witness) == [
        Step(0, 1, None),
        Step(0, 2, 20.0),
        Step(0, 4, 40.0),
        Step(1, 1, None),
    ]


class Heard:
    """Notes what the proxy tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []

    def on_connected(self, link: mqtt_proxy.Link, session_present: bool) -> None:
        self.told.append(("connected", link.client, int(session_present)))

    def on_subscribed(self, link: mqtt_proxy.Link) -> None: ...
    def on_published(self, link: mqtt_proxy.Link, message: mqtt_proxy.Publish) -> None: ...
    def on_delivered(self, link: mqtt_proxy.Link, message: mqtt_proxy.Publish) -> None: ...

    def on_acknowledged(self, link: mqtt_proxy.Link, message: mqtt_proxy.Publish, reason: int) -> None:
        self.told.append(("acknowledged", message.topic, reason))

    def on_accepted(self, link: mqtt_proxy.Link, message: mqtt_proxy.Publish, reason: int) -> None:
        self.told.append(("accepted", message.topic, reason))

    def on_closed(self, link: mqtt_proxy.Link) -> None: ...


def feed(buffer: bytearray, data: bytes) -> list[mqtt_proxy.Packet]:
    buffer += data
    return list(mqtt_proxy.packets(buffer))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_proxy_pairs_acknowledgements_with_messages_however_the_bytes_are_cut(size: int) -> None:
    heard, buffer = Heard(), bytearray()
    link = mqtt_proxy.Link(heard)
    big = publish_packet("plant/a/x/cycle", b"x" * 300, 7)  # a length of two bytes
    stream = connect_packet("me") + big + b"\x40\x02\x00\x05" + b"\x40\x03\x00\x06\x87"
    for packet in feed(
        bytearray(), b"\x20\x03\x01\x00\x00" + publish_packet("in/1", b"", 5) + publish_packet("in/2", b"", 6)
    ):
        link._from_broker(packet)
    for start in range(0, len(stream), size):
        for packet in feed(buffer, stream[start : start + size]):
            link._from_client(packet)
    assert link.client == "me"
    assert heard.told == [("connected", "", 1), ("acknowledged", "in/1", 0), ("acknowledged", "in/2", 0x87)]
    assert link.unacknowledged == 0
    for packet in feed(bytearray(), b"\x40\x04\x00\x07\x10\x00"):
        link._from_broker(packet)
    assert heard.told[-1] == ("accepted", "plant/a/x/cycle", 0x10)
