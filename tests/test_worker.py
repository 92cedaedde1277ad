"""The worker's steps with a transport, a clock and an engine that the test drives, and a real journal."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog
import structlog.testing
from core.test_assemble import make_pipeline
from core.test_pipeline import OUTGOING, make
from core.test_pipeline import engine as answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.config import AssetSettings, JournalSettings, Limits, Mqtt, ScoringSettings, Settings, Topics
from edge_rul.core.alarm import RulAlarm
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message, Outgoing
from edge_rul.core.topic import Asset, Template
from edge_rul.errors import EXIT_INTERNAL, EngineError
from edge_rul.worker import Worker

NOW = 1_767_225_600_000


class FakeTransport:
    """A broker that sends what the test puts, and acknowledges what it is told to, in order."""

    def __init__(self) -> None:
        self.connected, self.connections = True, 1
        self.dropped_qos0 = self.refused = 0
        self.new_session = False
        self.inbox: deque[Received] = deque()
        self.acknowledged: list[int] = []
        self.sent: list[Message] = []
        self.unacknowledged: deque[Message] = deque()
        self.hold = False  # the broker acknowledges nothing
        self._mid = 0

    def put(self, payload: Any, asset: str = "x", qos: int = 1, topic: str = "") -> int:
        self._mid += 1
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.inbox.append(Received(topic or f"in/{asset}", data, qos, self._mid, 1))
        return self._mid

    def command(self, command: str, asset: str, *, again: bool = False, **fields: Any) -> None:
        self._mid += 1
        payload = json.dumps({"command": command, "asset": asset, "reply_to": "re", **fields}).encode()
        self.inbox.append(Received("cmd", payload, 1, self._mid, 1, again=again))

    def replies(self) -> list[tuple[str, bool]]:
        said = [json.loads(m.payload) for m in self.sent if m.topic == "re"]
        return [(m["command"], m["ok"]) for m in said]

    def receive(self) -> Received | None:
        return self.inbox.popleft() if self.inbox else None

    def acknowledge(self, message: Received) -> None:
        self.acknowledged.append(message.mid)

    @property
    def backlog(self) -> int:
        return len(self.unacknowledged)

    waiting_seq = None  # all is handed over at once

    @property
    def oldest_seq(self) -> int | None:
        return self.unacknowledged[0].seq if self.unacknowledged else None

    def send(self, messages: list[Message]) -> None:
        self.sent += messages
        self.unacknowledged.extend(m for m in messages if m.qos)
        self.pump()

    def pump(self) -> None:
        if not self.hold:
            self.unacknowledged.clear()

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {**json.loads(m.payload), "retain": m.retain} for m in self.sent if m.topic.endswith("/p") and m.payload
        ]

    def reasons(self) -> list[str]:
        """Of the dead letters."""
        return [json.loads(m.payload)["reason"] for m in self.sent if m.topic == "out/dead"]

    def events(self) -> list[str]:
        return [json.loads(m.payload)["id"] for m in self.sent if m.topic.endswith("/e")]


class FakeEngine:
    name, version, precision, max_batch = "fake", "1", "float32", 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    def infer(self, x: Array) -> tuple[Array, Array]:
        self.batches.append(len(x))
        return answer(x)

    def close(self) -> None: ...

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *exc: object) -> None: ...


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW / 1000 + self.now


class Onlooker:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard_entries: list[Any] = []
        self.answers: list[tuple[int, float, bool]] = []
        self.changes: list[str] = []
        self.restored: dict[str, list[str]] = {}
        self.daemon: dict[str, bool] = {}
        self.gone: list[str] = []

    def heard(self, entries: list[Any]) -> None:
        self.heard_entries += entries

    def answered(self, answers: list[Any], changes: list[Any]) -> None:
        self.answers += [(a.prediction.cycle, a.prediction.rul, a.newest) for a in answers]
        self.changes += [change.status.state.value for change in changes]

    def alarms(self, asset: Any, states: list[Any]) -> None:
        self.restored[str(asset)] = [change.status.state.value for change in states]

    def renewed(self, lives: list[Any]) -> None: ...

    def removed(self, assets: list[Any]) -> None:
        self.gone += map(str, assets)

    def daemon_alarm(self, name: str, active: bool, value: float) -> None:
        self.daemon[name] = active


class Rig:
    """A daemon without a broker. `crash` forgets everything but the state directory."""

    def __init__(
        self, directory: Path, pipeline: dict[str, Any] | None = None, *, in_parts: bool = False, **sections: Any
    ) -> None:
        """in_parts: sensors send apart, and `p` may be held."""
        self.directory = directory
        self.in_parts = in_parts
        self.pipeline = pipeline or {}
        self.settings = Settings(
            bundle="x", topics=Topics(readings=["in/{asset}"]), **{"journal": JournalSettings(min_free=0), **sections}
        )
        self.clock = FakeClock()
        self.engine = FakeEngine()
        self.transport = FakeTransport()
        self.start()

    def start(self, *, unclean: bool = False) -> None:
        make_it = make_pipeline if self.in_parts else make
        self.onlooker = Onlooker()
        self.journal = Journal(self.directory, self.settings.journal)
        self.worker = Worker(
            pipeline=make_it(**self.pipeline),
            engine=self.engine,
            transport=self.transport,
            journal=self.journal,
            outgoing=OUTGOING,
            settings=self.settings,
            clock=self.clock,
            log=structlog.get_logger(),
            onlooker=self.onlooker,
        )
        self.worker.restore(unclean=unclean)

    def crash(self, *, unclean: bool = False) -> None:
        """What is not on disk is gone; the broker sends again what was not acknowledged. unclean: as the next start is
        told; most tests look at what has to come again even if it is not."""
        self.journal.close()
        self.transport.unacknowledged.clear()
        self.start(unclean=unclean)

    def settle(self, seconds: float = 0.3) -> None:
        """Steps until nothing moves, then time for a commit, then again."""
        for _ in range(2):
            while self.worker.step():
                pass
            self.clock.now += seconds


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "state")


def own_alarms(rig: Rig) -> list[tuple[str, str]]:
    """Of the daemon's own: name and state."""
    said = [json.loads(m.payload) for m in rig.transport.sent if m.topic.startswith("out/d/")]
    return [(alarm["alarm"], alarm["state"]) for alarm in said]


def reading(cycle: int, p: float = 50.0, **more: Any) -> dict[str, Any]:
    return {"cycle": cycle, "values": [p, 0.5], **more}


def test_nothing_is_acknowledged_before_the_commit_and_everything_after_in_order(rig: Rig) -> None:
    mids = [rig.transport.put(reading(cycle)) for cycle in range(1, 8)]
    while rig.worker.step():
        pass
    assert rig.transport.acknowledged == []
    assert len(rig.transport.predictions()) == 5  # a QoS 1 reading may be answered before the commit
    rig.clock.now += 0.3
    rig.worker.step()
    assert rig.transport.acknowledged == mids


def test_who_looks_on_is_told_what_came_in_what_was_answered_and_how_alarms_stand_after_a_restart(rig: Rig) -> None:
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle, p=-30.0))
    rig.transport.put(b"no json")
    rig.settle()
    published = [(p["cycle"], p["rul"]) for p in rig.transport.predictions()]
    assert [entry.cycle for entry in rig.onlooker.heard_entries] == [1, 2, 3, 4, 5]
    assert [(cycle, rul) for cycle, rul, _ in rig.onlooker.answers] == published
    assert rig.onlooker.changes == ["active"]
    rig.settle(10.0)  # the watermark reaches the disk
    rig.crash()
    assert rig.onlooker.restored == {"x": ["active"]}
    rig.worker.alarm("skipping", active=True)
    assert rig.onlooker.daemon == {"skipping": True}


def test_a_commit_comes_at_once_when_the_broker_waits_for_acknowledgements(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mqtt=Mqtt(broker_in_flight=5))
    mids = [rig.transport.put(reading(cycle)) for cycle in range(1, 6)]
    rig.worker.step()
    assert rig.transport.acknowledged == mids


def test_a_qos_0_reading_is_answered_only_after_the_commit(rig: Rig) -> None:
    for cycle in range(1, 4):
        rig.transport.put(reading(cycle), qos=0)
    while rig.worker.step():
        pass
    assert rig.transport.predictions() == []
    rig.settle()
    assert len(rig.transport.predictions()) == 1
    assert rig.transport.acknowledged == []


def test_an_answer_that_hangs_on_the_order_of_arrival_waits_for_the_commit(rig: Rig) -> None:
    """Or a crash could bring its readings back in another order, and one key would have two answers."""
    for cycle in (1, 2, 3, 5):
        rig.transport.put(reading(cycle))
    while rig.worker.step():
        pass
    assert [p["cycle"] for p in rig.transport.predictions()] == [3]  # of 5 the window has a gap
    assert rig.worker.watermark == 3
    rig.transport.put(reading(6))
    while rig.worker.step():
        pass
    assert [p["cycle"] for p in rig.transport.predictions()] == [3]  # nothing overtakes it
    rig.settle()
    assert [p["cycle"] for p in rig.transport.predictions()] == [3, 5, 6]


def test_readings_that_come_back_in_another_order_after_a_crash_get_one_answer_each(rig: Rig) -> None:
    for cycle in (1, 2, 3, 4, 6, 7):
        rig.transport.put(reading(cycle, 40.0 + cycle))
    while rig.worker.step():
        pass
    rig.transport.inbox.clear()
    rig.crash()  # before any commit; the broker has forgotten, and the publisher sends in order
    for cycle in range(1, 8):
        rig.transport.put(reading(cycle, 40.0 + cycle))
    rig.settle()
    answers: dict[tuple[int, int], set[float]] = {}
    for p in rig.transport.predictions():
        answers.setdefault((p["cycle"], p["revision"]), set()).add(p["rul"])
    assert set(answers) == {(cycle, 0) for cycle in range(3, 8)}
    assert all(len(found) == 1 for found in answers.values())


def test_readings_known_by_their_times_get_one_answer_each_through_crashes_and_another_order(rig: Rig) -> None:
    """Nobody can tell from two times that nothing came between them, so that each answer waits for the commit."""
    rows = [{"ts": NOW + i * 1000, "values": [40.0 + i, 0.5]} for i in range(8)]
    for i in (0, 1, 3, 4):
        rig.transport.put(rows[i])
    while rig.worker.step():
        pass
    assert rig.transport.predictions() == []
    rig.crash()  # before any commit; the broker has forgotten the order
    for i in (0, 1, 2, 3, 4, 5):
        rig.transport.put(rows[i])
    rig.settle()
    rig.crash()
    for i in (5, 4, 7, 6, 6):
        rig.transport.put(rows[i])
    rig.settle()
    answers: dict[tuple[int, int], set[float]] = {}
    for p in rig.transport.predictions():
        answers.setdefault(((p["cycle"] - NOW) // 1000, p["revision"]), set()).add(p["rul"])
    assert answers == {(i, 0): {40.0 + i} for i in range(2, 8)} | {(7, 1): {47.0}}
    assert rig.worker.statistics().dropped == {"duplicate": 3}


def test_what_has_neither_number_nor_time_is_refused_at_qos_1_where_it_may_come_twice(rig: Rig) -> None:
    plain = {"values": [50.0, 0.5]}
    mid = rig.transport.put(plain)
    for _ in range(3):
        rig.transport.put(plain, qos=0)
    rig.settle()
    assert rig.transport.acknowledged == [mid]
    assert rig.transport.reasons() == ["no_key"]
    assert [p["cycle"] for p in rig.transport.predictions()] == [3]
    rig.crash()
    rig.transport.put(plain, qos=0)
    rig.settle()
    assert rig.transport.predictions()[-1]["cycle"] == 4, "it counts on from the journal"


def test_a_part_is_kept_through_crashes_and_snapshots_until_the_others_come(tmp_path: Path) -> None:
    rig = Rig(tmp_path, in_parts=True, journal=JournalSettings(min_free=0, snapshot_seconds=10, keep_hours=0))

    def send(sensor: str, cycle: int, value: float) -> int:
        data = json.dumps({"cycle": cycle, "value": value}).encode()
        rig.transport.inbox.append(Received(f"parts/x/{sensor}", data, 1, cycle, 1))
        return cycle

    for cycle in (1, 2):
        send("p", cycle, 40.0 + cycle)
        send("q", cycle, 0.5)
    rig.settle()
    mid = send("p", 3, 43.0)
    rig.worker.step()
    assert mid not in rig.transport.acknowledged
    rig.settle()
    assert mid in rig.transport.acknowledged
    rig.crash()
    for _ in range(3):
        rig.settle(20.0)  # a round of snapshots
    assert rig.journal.state().replay_from == 5, "the part is not applied again"
    rig.crash()
    send("p", 3, 43.0)
    send("q", 3, 0.5)
    send("q", 4, 0.5)
    rig.settle()
    assert [(p["cycle"], p["rul"]) for p in rig.transport.predictions()] == [(3, 43.0)]
    assert rig.worker.statistics().dropped == {"duplicate": 1}
    # The deadline is of the time in which we could hear, and once decided it is in the journal.
    for seconds in (9.0, 11.0, 0.0):
        rig.crash()
        rig.settle()
        rig.worker.tick()  # we begin to listen
        rig.clock.now += seconds
        rig.worker.tick()
        rig.settle()
        found = {(p["cycle"], p["rul"], p["quality"]["held"]) for p in rig.transport.predictions()}
        assert found == {(3, 43.0, 0)} | ({(4, 43.0, 1)} if seconds != 9.0 else set())


def test_an_alarm_of_the_daemons_own_lets_the_watermark_pass_no_answer(rig: Rig) -> None:
    for cycle in (1, 2, 3, 5, 6):
        rig.transport.put(reading(cycle))
    while rig.worker.step():
        pass
    rig.transport.hold = True
    rig.worker.alarm("skipping", active=True)  # goes out before the answers to 5 and 6, which wait for the commit
    rig.worker.commit()
    assert [m.seq for m in rig.transport.unacknowledged if m.topic.endswith("/p")] == [4, 5]
    assert rig.worker.watermark <= 3


def test_an_engine_that_fails_while_states_go_out_again_is_not_the_operators_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle))
    rig.settle()

    def fail(x: Array) -> tuple[Array, Array]:
        raise EngineError("infer", "fake", "broken")

    monkeypatch.setattr(rig.engine, "infer", fail)
    rig.transport.new_session = True
    with pytest.raises(EngineError) as caught:
        rig.settle()
    assert caught.value.exit_code == EXIT_INTERNAL


def test_a_bad_message_is_acknowledged_in_its_turn_and_logged_once(rig: Rig) -> None:
    with structlog.testing.capture_logs() as logs:
        mids = [rig.transport.put(p) for p in (reading(1), b"nonsense", reading(2), b"more nonsense")]
        rig.worker._faults._log = structlog.get_logger()
        rig.settle()
    assert rig.transport.acknowledged == mids
    assert [(line["event"], line["kind"]) for line in logs] == [("message_rejected", "not_json")]


def test_a_bad_message_alone_is_acknowledged_once_it_is_on_disk(rig: Rig) -> None:
    mid = rig.transport.put(b"nonsense")
    rig.worker.step()
    assert rig.transport.acknowledged == []
    rig.settle()
    assert rig.transport.acknowledged == [mid]


def test_a_command_is_answered_once_it_is_durable_and_logged_with_who_and_why(rig: Rig) -> None:
    rig.transport.put(reading(1))
    with structlog.testing.capture_logs() as logs:
        rig.worker._scoring._log = structlog.get_logger()
        rig.transport.command("reset", "x", who="kim", why="overhaul")
        while rig.worker.step():
            pass
        assert rig.transport.replies() == []
        rig.settle()
    assert rig.transport.replies() == [("reset", True)]
    (line,) = (line for line in logs if line["event"] == "command")
    assert (line["command"], line["asset"], line["who"], line["why"]) == ("reset", "x", "kim", "overhaul")


@pytest.mark.parametrize("crashes", [False, True])
def test_a_reset_that_comes_again_with_what_follows_it_is_one_reset(rig: Rig, crashes: bool) -> None:
    """Before its commit or, where a crash comes between that and the acknowledgement, behind it."""
    for cycle in range(1, 5):
        rig.transport.put({**reading(cycle), "ts": NOW + cycle})
    rig.settle()
    for again in (False, True):
        rig.transport.command("reset", "x", again=again)
        for cycle in range(1, 5):
            rig.transport.put({**reading(cycle), "ts": NOW + 100 + cycle})
        if crashes and not again:
            rig.settle()
            rig.crash()
    rig.transport.put({**reading(5), "ts": NOW + 105})
    rig.settle()
    found = [(p["life"], p["cycle"]) for p in rig.transport.predictions()]
    assert list(dict.fromkeys(found)) == [(0, 3), (0, 4), (1, 3), (1, 4), (1, 5)]
    assert rig.worker.statistics().dropped == {"duplicate": 4}
    assert set(rig.transport.replies()) == {("reset", True)}


def test_a_removed_asset_stays_removed_after_rounds_of_snapshots_and_restarts(tmp_path: Path) -> None:
    rig = Rig(tmp_path, journal=JournalSettings(min_free=0, snapshot_seconds=10, keep_hours=0))
    for asset in "xy":
        for cycle in range(1, 6):
            rig.transport.put(reading(cycle, p=-30.0), asset)

    def rounds() -> None:
        for _ in range(3):
            rig.settle(20.0)

    rounds()
    rig.transport.command("remove", "x")
    rig.settle(6.0)
    assert rig.onlooker.gone == ["x"]
    for after in (rig.crash, rounds, rig.crash):  # above the old snapshot, in a new round, and with that alone
        after()
        rig.settle()
        assert [str(asset) for asset in rig.worker._pipeline.lives.assets] == ["y"]
    assert rig.onlooker.restored == {"y": ["active"]}
    with sqlite3.connect(tmp_path / "journal.db") as db:
        assert db.execute("SELECT count(*) FROM snapshots").fetchone()[0] == 1
        assert db.execute("SELECT count(*) FROM alarms").fetchone()[0] == 1
    rig.transport.put(reading(6, p=-30.0), "y")
    rig.settle()
    assert rig.transport.predictions()[-1]["cycle"] == 6


def test_a_silence_counts_while_we_can_hear_is_an_entry_and_survives_a_crash(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pipeline={"stale_after": 60.0})
    rig.transport.put(reading(1))
    rig.settle()

    def stale_after(seconds: float, *, connected: bool = True) -> int:
        rig.clock.now += seconds
        rig.transport.connected = connected
        rig.worker.tick()
        rig.settle()
        return rig.worker.statistics().stale_assets

    assert stale_after(50.0) == 0
    assert stale_after(50.0, connected=False) == 0
    assert stale_after(50.0) == 0  # it begins to count here
    assert stale_after(61.0) == 1
    assert [type(entry).__name__ for entry in rig.onlooker.heard_entries] == ["Reading", "Stale"]
    rig.crash()
    rig.settle()
    assert rig.worker.statistics().stale_assets == 1
    rig.transport.put(reading(2))
    rig.settle()
    assert rig.worker.statistics().stale_assets == 0
    assert stale_after(1.0) == 0
    assert stale_after(61.0) == 1


def test_an_idle_asset_is_kept_on_disk_alone_and_goes_on_when_it_returns(tmp_path: Path) -> None:
    assets = AssetSettings(evict_after=100.0)
    rig = Rig(tmp_path, journal=JournalSettings(min_free=0, snapshot_seconds=10), assets=assets)
    lives = rig.worker._pipeline.lives
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle), "x")
    rig.settle()

    def pass_on(seconds: float) -> None:
        for _ in range(10):
            rig.transport.put(reading(len(rig.transport.acknowledged)), "y")
            rig.settle(seconds / 20)

    pass_on(90.0)
    assert Asset("x") in lives._lives
    pass_on(60.0)
    assert Asset("x") not in lives._lives and Asset("y") in lives._lives
    assert rig.worker.statistics().assets == 2
    rig.transport.sent.clear()
    rig.transport.new_session = True
    rig.settle()
    assert {p["asset"] for p in rig.transport.predictions()} == {"x", "y"}  # a broker that forgot lacks it too
    rig.transport.put(reading(5), "x")
    rig.settle()
    last = rig.transport.predictions()[-1]
    assert (last["asset"], last["cycle"], last["quality"]["state"]) == ("x", 5, "good")


def test_an_empty_list_is_acknowledged_without_waiting(rig: Rig) -> None:
    mid = rig.transport.put(b"[]")
    rig.worker.step()
    assert rig.transport.acknowledged == [mid]


def test_a_dead_letter_that_the_broker_did_not_take_comes_again_after_a_crash(rig: Rig) -> None:
    rig.transport.hold = True
    rig.transport.put(b"nonsense")
    for cycle in (5, 6, 6, 6):
        rig.transport.put(reading(cycle, p=50.0 + len(rig.transport.inbox)))
    rig.settle(10.0)
    assert (rig.transport.reasons(), rig.journal.watermark) == (["not_json", "conflict", "conflict"], 0)
    rig.transport.hold = False
    rig.crash()
    rig.settle(10.0)
    assert rig.transport.reasons() == 2 * ["not_json", "conflict", "conflict"]
    assert rig.journal.watermark == 5
    rig.crash()
    rig.settle(10.0)
    assert len(rig.transport.reasons()) == 6


def test_scoring_pauses_while_the_broker_takes_nothing_and_ingest_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=Limits(outbox=3, tail=5))
    rig.transport.hold = True
    mids = [rig.transport.put(reading(cycle)) for cycle in range(1, 41)]
    rig.settle()
    assert rig.transport.acknowledged == mids  # durable, although nothing more can be published
    assert rig.worker.lag > 0
    assert len(rig.transport.predictions()) < 10
    rig.transport.hold = False
    rig.settle()
    assert rig.worker.lag == 0  # what had passed the tail came back from the journal
    assert [p["cycle"] for p in rig.transport.predictions()] == list(range(3, 41))
    assert max(rig.engine.batches) <= 4


def test_the_watermark_is_what_the_broker_has_acknowledged(rig: Rig) -> None:
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle))
    rig.transport.hold = True
    rig.settle()
    assert rig.journal.watermark == 2  # the answer to entry 3 is not acknowledged
    rig.transport.hold = False
    rig.settle(6.0)
    assert rig.journal.watermark == 5


def test_after_a_crash_what_lies_above_the_watermark_is_published_again_and_nothing_else(rig: Rig) -> None:
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle, 50.0 + cycle))
    rig.settle()
    rig.transport.hold = True
    for cycle in range(6, 9):
        rig.transport.put(reading(cycle, 50.0 + cycle))
    rig.settle()
    before = {p["cycle"]: p["rul"] for p in rig.transport.predictions()}
    rig.transport.hold = False
    rig.transport.sent.clear()
    rig.crash()
    rig.settle()
    again = rig.transport.predictions()
    assert [p["cycle"] for p in again if not p["retain"]] == [6, 7, 8]  # catching up, nothing retained goes backwards
    assert [p["cycle"] for p in again if p["retain"]] == [8]
    assert all(p["rul"] == before[p["cycle"]] for p in again)
    rig.transport.put(reading(9))
    rig.settle()
    assert rig.transport.predictions()[-1]["cycle"] == 9
    assert rig.transport.predictions()[-1]["retain"]


def test_a_snapshot_is_valid_once_the_watermark_has_reached_it_and_entries_below_it_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path, journal=JournalSettings(min_free=0, snapshot_seconds=10, keep_hours=0))
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle))
    rig.transport.hold = True
    rig.settle()
    rig.clock.now += 20
    rig.settle()
    assert rig.journal.in_round
    rig.transport.hold = False
    rig.settle(10.0)
    rig.settle(70.0)
    for cycle in range(6, 9):
        rig.transport.put(reading(cycle))
    rig.settle(70.0)
    rig.settle(70.0)
    with sqlite3.connect(tmp_path / "journal.db") as db:
        assert db.execute("SELECT count(*) FROM snapshots").fetchone()[0] == 1
        assert db.execute("SELECT count(*) FROM entries WHERE seq <= 5").fetchone()[0] == 0
    rig.crash()
    rig.transport.sent.clear()
    rig.transport.put(reading(9))
    rig.settle()
    assert [p["cycle"] for p in rig.transport.predictions()] == [9]


def test_states_go_out_again_to_a_broker_that_has_forgotten_them(rig: Rig) -> None:
    for asset in "abcdef":
        for cycle in range(1, 5):
            rig.transport.put(reading(cycle, 10.0), asset)
    rig.worker.alarm("reload_refused", active=True)
    rig.settle()
    rig.transport.sent.clear()
    rig.transport.new_session, rig.transport.connections = True, 2
    rig.settle()
    again = rig.transport.predictions()
    assert {(p["asset"], p["cycle"], p["retain"]) for p in again} == {(a, 4, True) for a in "abcdef"}
    states = [json.loads(m.payload)["state"] for m in rig.transport.sent if m.topic.endswith("/a/low")]
    assert states == ["active"] * 6
    assert rig.transport.events() == []
    assert [m.topic for m in rig.transport.sent].count("out/d/reload_refused") == 1


def test_an_alarm_of_the_daemons_own_is_told_once_on_a_connection_that_it_waited_for(rig: Rig) -> None:
    """Each first connection of a session is one whose broker knows nothing of us."""
    rig.transport.connected, rig.transport.connections = False, 0
    rig.worker.alarm("reload_refused", active=True)
    rig.transport.connected, rig.transport.connections, rig.transport.new_session = True, 1, True
    rig.settle()
    assert [m.topic for m in rig.transport.sent] == ["out/d/reload_refused"]


def test_a_daemon_that_is_killed_again_while_it_catches_up_leaves_no_retained_state_behind(tmp_path: Path) -> None:
    """What it had answered by then went out unretained, and is acknowledged: the watermark does not tell."""
    rig = Rig(tmp_path, limits=Limits(outbox=3))
    rig.transport.hold = True
    for asset in "ab":
        for cycle in range(1, 20):
            rig.transport.put(reading(cycle, 10.0), asset)
    rig.settle()
    rig.transport.hold = False
    rig.transport.sent.clear()
    rig.crash()
    while len(rig.transport.sent) < 20:  # all of `a`, and not all of `b`
        rig.worker.step()
    assert rig.worker.lag > 0
    assert rig.worker.commit()
    assert [m for m in rig.transport.sent if m.retain] == []
    rig.crash()
    rig.settle()
    retained = {m.topic: json.loads(m.payload) for m in rig.transport.sent if m.retain}
    newest = {topic: said["cycle"] for topic, said in retained.items() if topic.endswith("/p")}
    assert newest == {"out/a/p": 19, "out/b/p": 19}
    rig.settle(6.0)
    rig.transport.sent.clear()
    rig.crash()
    rig.settle()
    assert rig.transport.sent == []  # it was settled


def test_a_life_that_ended_before_a_crash_leaves_its_alarms_and_no_prediction(rig: Rig) -> None:
    """Its window is gone when all is answered again."""
    rig.transport.put(reading(1, 10.0, ts=NOW + 1))
    for cycle in range(2, 10):
        rig.transport.put(reading(cycle, 10.0, ts=NOW + cycle))
    rig.settle()
    rig.transport.hold = True
    rig.transport.put(reading(10, 12.0, ts=NOW + 10))
    rig.transport.put(reading(1, 90.0, ts=NOW + 50))
    rig.settle()
    rig.transport.hold = False
    rig.transport.sent.clear()
    rig.crash()
    rig.settle()
    retained = {m.topic: m.payload for m in rig.transport.sent if m.retain}
    assert retained["out/x/p"] == b""
    low = json.loads(retained["out/x/a/low"])
    assert (low["life"], low["state"]) == (1, "normal")


@pytest.fixture
def pledge_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few answers may go out ahead of the next commit."""
    monkeypatch.setattr("edge_rul.adapters.journal_file.PLEDGE", 10)
    monkeypatch.setattr("edge_rul.scoring._PLEDGE_LEAST", 10)
    monkeypatch.setattr("edge_rul.scoring._PLEDGE_MOST", 10)


@pytest.mark.usefixtures("pledge_of_ten")
def test_after_a_crash_in_a_long_lag_only_what_may_have_been_published_goes_out_unretained(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=Limits(outbox=3))
    rig.settle()  # nothing is owed
    rig.transport.hold = True
    for cycle in range(1, 60):
        rig.transport.put(reading(cycle))
    rig.settle()
    pledged = rig.journal.pledged
    assert max(m.seq for m in rig.transport.sent) <= pledged < 20
    rig.transport.hold = False
    rig.transport.sent.clear()
    rig.crash()
    rig.settle()
    unretained, retained = (
        [p["cycle"] for p in rig.transport.predictions() if p["retain"] is r] for r in (False, True)
    )
    assert unretained == list(range(3, pledged + 1))
    assert retained == list(range(pledged + 1, 60))


def test_the_alarms_of_a_life_that_has_no_window_yet_go_out_again_too(rig: Rig) -> None:
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle, 10.0))
    rig.transport.command("reset", "x")
    rig.transport.put(reading(1))
    rig.settle(6.0)
    rig.transport.sent.clear()
    rig.transport.new_session = True
    rig.settle()
    assert rig.transport.predictions() == []
    (state,) = [json.loads(m.payload) for m in rig.transport.sent if m.retain and m.topic.endswith("/a/low")]
    assert (state["state"], state["life"]) == ("normal", 1)


def test_every_state_goes_out_again_after_an_end_that_was_none_as_the_broker_may_have_ended_so_too(rig: Rig) -> None:
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle, 10.0))
    rig.settle(6.0)
    rig.settle(6.0)
    for unclean in (False, True):
        rig.transport.sent.clear()
        rig.crash(unclean=unclean)
        rig.settle(6.0)
        assert [(p["cycle"], p["retain"]) for p in rig.transport.predictions()] == [(4, True)] * unclean
        assert [m.retain for m in rig.transport.sent if m.topic.endswith("/a/low")] == [True] * unclean
        assert rig.transport.events() == []


def test_states_that_were_owed_to_a_new_session_go_out_after_a_restart(rig: Rig) -> None:
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle))
    rig.settle(6.0)
    rig.transport.sent.clear()
    rig.transport.hold = True
    rig.transport.new_session = True
    rig.worker.step()
    rig.transport.sent.clear()
    rig.transport.hold = False
    rig.crash()
    rig.settle()
    assert [(p["cycle"], p["retain"]) for p in rig.transport.predictions()] == [(4, True)]


def test_a_late_reading_revises_and_only_the_newest_is_retained(rig: Rig) -> None:
    for cycle in (1, 2, 4, 5):
        rig.transport.put(reading(cycle, 10.0 * cycle))
    rig.settle()
    rig.transport.sent.clear()
    rig.transport.put(reading(3, 30.0))
    rig.settle()
    found = [(p["cycle"], p["revision"], p["retain"]) for p in rig.transport.predictions()]
    assert found == [(3, 0, False), (4, 1, False), (5, 1, True)]
    assert [m for m in rig.transport.sent if "/a/" in m.topic or m.topic.endswith("/e")] == []


def test_latest_after_skips_says_how_many_and_raises_an_alarm(tmp_path: Path) -> None:
    rig = Rig(tmp_path, scoring=ScoringSettings(on_lag="latest", latest_after=5.0), limits=Limits(outbox=1))
    rig.transport.hold = True
    for cycle in range(1, 4):
        rig.transport.put(reading(cycle))
    rig.settle()
    for cycle in range(4, 20):
        rig.transport.put(reading(cycle))
    rig.settle(10.0)
    rig.transport.hold = False
    rig.settle()
    last = rig.transport.predictions()[-1]
    assert (last["cycle"], last["quality"]["skipped"], last["quality"]["state"]) == (19, 15, "good")
    rig.settle(70.0)

    assert own_alarms(rig) == [("skipping", "active"), ("skipping", "normal")]
    assert rig.worker.statistics().skipped == 15


def test_skipping_is_over_at_once_where_a_reload_lets_no_window_be_left_out_any_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path, scoring=ScoringSettings(on_lag="latest", latest_after=5.0), limits=Limits(outbox=1))
    rig.transport.hold = True
    for cycle in range(1, 20):
        rig.transport.put(reading(cycle))
    rig.settle(10.0)
    rig.transport.hold = False
    rig.settle()
    assert rig.worker.reconfigure(msgspec.structs.replace(rig.settings, scoring=ScoringSettings()), OUTGOING)
    rig.worker.step()
    assert own_alarms(rig) == [("skipping", "active"), ("skipping", "normal")]


MOVED = Outgoing(
    Template("new/{asset}/p"),
    Template("new/{asset}/a/{alarm}"),
    Template("new/{asset}/e"),
    statistics=Template("new/s"),
    status=Template("new/status"),
    daemon_alarm=Template("new/d/{alarm}"),
)


def retained_on(rig: Rig, first: str) -> dict[str, int]:
    """The cycle that the broker keeps for each topic below `first`."""
    kept = {m.topic: m.payload for m in rig.transport.sent if m.retain}
    return {t: json.loads(p)["cycle"] for t, p in kept.items() if p and t.startswith(first) and "/d/" not in t}


def move(rig: Rig) -> bool:
    """To other topics, with the alarms as they are."""
    settings = msgspec.structs.replace(rig.settings, alarms=rig.worker._pipeline.alarms.rules)
    return rig.worker.reconfigure(settings, MOVED)


def test_topics_move_once_what_a_crash_left_is_retained_so_that_nothing_stays_on_the_old_ones(rig: Rig) -> None:
    rig.transport.hold = True
    for asset in "xy":
        for cycle in range(1, 41):
            rig.transport.put(reading(cycle, 10.0), asset)
    rig.settle()
    rig.transport.sent.clear()
    rig.crash()
    rig.transport.hold = False
    rig.worker.step()
    assert not move(rig), "it is still answering what it may have answered before"
    while not move(rig):
        assert rig.worker.step()
    rig.settle()
    assert retained_on(rig, "out/") == {}
    assert retained_on(rig, "new/") == {f"new/{asset}/{kind}": 40 for asset in "xy" for kind in ("p", "a/low")}


@pytest.mark.usefixtures("pledge_of_ten")
def test_topics_move_behind_the_answers_that_wait_for_the_pledge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload does not wait for a broker that is slow: it may be what helps."""
    rig = Rig(tmp_path)
    monkeypatch.setattr(FakeTransport, "waiting_seq", 5)  # what the broker takes does not come beyond it
    for cycle in range(1, 60):
        rig.transport.put(reading(cycle, 10.0))
    rig.settle()
    before = rig.transport.predictions()[-1]["cycle"]
    assert move(rig)
    assert rig.transport.predictions()[-1]["cycle"] == before < 59, "the others wait still"
    monkeypatch.setattr(FakeTransport, "waiting_seq", None)
    rig.settle()
    assert retained_on(rig, "out/") == {}
    assert retained_on(rig, "new/") == {"new/x/p": 59, "new/x/a/low": 59}


def test_what_a_run_before_said_of_the_daemon_itself_is_over_at_the_next_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.journal, "_no_room", lambda: "no room")
    rig.transport.put(reading(1))
    rig.settle()
    rig.worker.tick()
    assert own_alarms(rig) == [("disk_full", "active")]
    rig.transport.sent.clear()
    rig.crash()
    rig.worker.begin_alarms({"gpu_given_up": (True, 3)})
    said = dict(own_alarms(rig))
    assert said.pop("gpu_given_up") == "active"
    assert set(said) > {"disk_full", "skipping"}
    assert set(said.values()) == {"normal"}


def test_a_full_disk_withholds_acknowledgements_and_recovers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.journal, "_no_room", lambda: "no room")
    mids = [rig.transport.put(reading(cycle)) for cycle in range(1, 5)]
    rig.settle()
    rig.worker.tick()
    assert rig.transport.acknowledged == []
    late = rig.transport.put(reading(5))
    rig.settle()
    assert len(rig.transport.inbox) == 1  # nothing more is taken in
    assert json.loads(rig.transport.sent[-1].payload)["state"] == "active"
    monkeypatch.undo()
    rig.settle(2.0)
    rig.settle()
    rig.worker.tick()
    assert rig.transport.acknowledged == [*mids, late]
    assert json.loads(rig.transport.sent[-1].payload)["alarm"] == "disk_full"
    assert json.loads(rig.transport.sent[-1].payload)["state"] == "normal"


def test_statistics_tell_lag_age_and_how_fast_the_journal_grows(rig: Rig) -> None:
    size = rig.journal.size
    rig.transport.hold = True
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle))
    rig.settle(2.0)
    statistics = rig.worker.statistics()
    assert (statistics.readings, statistics.predictions, statistics.lag_entries) == (4, 2, 0)
    assert statistics.oldest_unanswered == pytest.approx(4.0)
    assert statistics.unpublished > 0
    rig.transport.hold = False
    for cycle in range(5, 400):
        rig.transport.put(reading(cycle))
    rig.settle(2.0)
    statistics = rig.worker.statistics()
    assert statistics.journal_bytes > size
    assert statistics.journal_rate == round((statistics.journal_bytes - size) * 3600 / 8.0)  # bytes an hour
    assert statistics.disk_free == rig.journal.free > 0


Action = tuple[str, int]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["send", "send", "send", "step", "commit", "hold", "release", "crash"]), st.integers(0, 2)
        ),
        max_size=60,
    ),
    known_by=st.sampled_from(["cycle", "time", "parts"]),
)
def test_a_crash_anywhere_loses_no_answer_and_no_event_and_counts_no_cycle_twice(
    tmp_path_factory: pytest.TempPathFactory, actions: list[Action], known_by: str
) -> None:
    """Against a run without crashes: the same predictions and the same alarm events, each at least once.

    known_by: readings have a number, a time alone, or come in two parts, of which each is sent by itself.
    """
    limits, in_parts = Limits(outbox=6, tail=7), known_by == "parts"
    crashing, quiet = (Rig(tmp_path_factory.mktemp("s"), limits=limits, in_parts=in_parts) for _ in range(2))
    sent: list[tuple[str, dict[str, Any]]] = []  # topic, payload
    cycles = [0, 0, 0]
    begun = [False, False, False]  # the second part is still to come
    owed: dict[int, tuple[str, dict[str, Any]]] = {}  # what the broker still has: not acknowledged

    def put(rig: Rig, topic: str, payload: dict[str, Any]) -> None:
        mid = rig.transport.put(payload, topic=topic)
        if rig is crashing:
            owed[mid] = (topic, payload)

    def next_message(number: int) -> tuple[str, dict[str, Any]]:
        if not begun[number]:
            cycles[number] += 1
        cycle = cycles[number]
        rul = (10.0 if cycle % 7 in (3, 4, 5) else 60.0) + number
        whole = reading(cycle, rul, ts=NOW + 10 * cycle)
        if known_by == "parts":
            begun[number] = not begun[number]
            sensor, value = ("p", rul) if begun[number] else ("q", 0.5)
            return f"parts/a{number}/{sensor}", {"cycle": cycle, "value": value}
        return f"in/a{number}", whole if known_by == "cycle" else {**whole, "cycle": None}

    for action, number in actions:
        if action == "send":
            sent.append(next_message(number))
            put(crashing, *sent[-1])
        elif action == "step":
            crashing.worker.step()
        elif action == "commit":
            crashing.worker.commit()
        elif action in ("hold", "release"):
            crashing.transport.hold = action == "hold"
        else:
            for mid in crashing.transport.acknowledged:
                owed.pop(mid, None)
            crashing.transport.inbox.clear()
            crashing.crash()
            again, owed = list(owed.values()), {}
            for message in again:
                put(crashing, *message)
    crashing.transport.hold = False
    crashing.settle(6.0)
    crashing.settle(6.0)
    for message in sent:
        put(quiet, *message)
    quiet.settle()

    def answers(rig: Rig) -> dict[tuple[str, int], float]:
        found: dict[tuple[str, int], float] = {}
        for p in rig.transport.predictions():
            key = (p["asset"], p["cycle"])
            assert found.setdefault(key, p["rul"]) == p["rul"]
        return found

    assert answers(crashing) == answers(quiet)
    assert set(crashing.transport.events()) == set(quiet.transport.events())
    assert len(set(quiet.transport.events())) == len(quiet.transport.events())
    retained = {
        m.topic: json.loads(m.payload) for m in crashing.transport.sent if m.retain and not m.topic.startswith("out/d")
    }
    expected = {m.topic: json.loads(m.payload) for m in quiet.transport.sent if m.retain}
    for topic, payload in expected.items():
        same = ("cycle", "rul") if topic.endswith("/p") else ("state",)
        assert {k: retained[topic][k] for k in same} == {k: payload[k] for k in same}
    crashing.journal.close()
    quiet.journal.close()


def test_the_answers_are_those_of_the_engine(rig: Rig) -> None:
    for cycle in range(1, 4):
        rig.transport.put({"cycle": cycle, "values": [40.0 + cycle, 0.5]})
    rig.settle()
    (prediction,) = rig.transport.predictions()
    np.testing.assert_allclose(prediction["rul"], 43.0, atol=1e-4)
    assert prediction["journal"] == "j"


def test_an_alarm_that_a_restart_no_longer_has_is_withdrawn_until_the_broker_knows(rig: Rig) -> None:
    """Nobody else would: its retained `active` would stand for ever."""
    for cycle in range(1, 6):
        rig.transport.put(reading(cycle, p=10.0))
    rig.settle(10.0)

    def withdrawn() -> list[str]:
        found = [m.topic for m in rig.transport.sent if m.retain and not m.payload]
        rig.transport.sent.clear()
        return found

    assert withdrawn() == []
    rig.pipeline = {"rules": [RulAlarm(name="renamed", below=20)]}
    rig.transport.hold = True
    rig.crash()
    assert withdrawn() == ["out/x/a/low"]
    rig.transport.put(reading(6, p=50.0))
    rig.settle(10.0)
    rig.crash()  # before the broker has acknowledged it
    rig.transport.hold = False
    assert withdrawn() == ["out/x/a/low"]
    rig.transport.put(reading(7, p=50.0))
    rig.settle(10.0)
    rig.crash()
    assert withdrawn() == []


@pytest.mark.parametrize("without", [[], [RulAlarm(name="other", below=5)]])
@pytest.mark.parametrize("by", ["restart", "reload"])
def test_an_alarm_that_was_taken_away_and_comes_back_is_raised_again(
    rig: Rig, without: list[RulAlarm], by: str
) -> None:
    """As it was stored it was still on, and the topic empty: it told nobody."""

    def answer(first: int, last: int, p: float) -> list[str]:
        rig.transport.sent.clear()
        for cycle in range(first, last + 1):
            rig.transport.put(reading(cycle, p=p))
        rig.settle(10.0)
        rig.settle(10.0)
        return [json.loads(m.payload)["state"] for m in rig.transport.sent if m.topic == "out/x/a/low" and m.payload]

    low = RulAlarm(name="low", below=20)
    rig.pipeline = {"rules": [low]}
    rig.crash()
    assert answer(1, 5, p=10.0) == ["active"]
    rig.pipeline = {"rules": without}
    if by == "restart":
        rig.crash()
    else:
        assert rig.worker.reconfigure(msgspec.structs.replace(rig.settings, alarms=list(without)), OUTGOING)
    assert answer(6, 9, p=50.0) == []
    rig.pipeline = {"rules": [low]}
    rig.crash()
    assert answer(10, 12, p=10.0) == ["active"]


def test_what_an_operator_did_to_an_alarm_survives_a_crash(rig: Rig) -> None:
    def states() -> list[tuple[str, bool, int | None]]:
        found = [json.loads(m.payload) for m in rig.transport.sent if "/a/" in m.topic and m.payload]
        return [(a["state"], a["acknowledged"], a["shelved_until"]) for a in found]

    for cycle in range(1, 5):
        rig.transport.put(reading(cycle, -30.0))
    rig.transport.command("ack", "x", alarm="low")
    rig.transport.command("shelve", "x", cycles=2)
    rig.settle(10.0)
    rig.settle(10.0)  # what had waited for the disk went out, and the watermark follows
    assert rig.transport.replies() == [("ack", True), ("shelve", True)]
    assert states()[-2:] == [("active", True, None), ("active", True, 6)]
    assert rig.transport.events() == ["x/0/3/low/raised", "x/0/4/low/acknowledged/5", "x/0/4/low/shelved/6"]
    rig.crash()
    rig.transport.sent.clear()
    for cycle, p in ((5, 90.0), (6, 90.0), (7, -30.0)):
        rig.transport.put(reading(cycle, p))
    rig.settle()
    assert states() == [("normal", False, 6), ("normal", False, None), ("active", False, None)]
    assert rig.transport.events() == ["x/0/6/low/unshelved", "x/0/7/low/raised"]


def test_the_same_done_twice_to_an_alarm_at_one_cycle_is_two_events_of_which_each_has_one_id(rig: Rig) -> None:
    for cycle in range(1, 5):
        rig.transport.put(reading(cycle, 10.0))
    rig.settle(6.0)
    rig.transport.hold = True
    rig.transport.sent.clear()
    for cycles in (5, 9, 0):
        rig.transport.command("shelve", "x", cycles=cycles)
    rig.settle()
    ids = rig.transport.events()
    assert len(set(ids)) == 3 and all("x/0/4/low/" in id for id in ids)
    assert rig.worker.statistics().alarms_on == 1
    rig.transport.hold = False
    rig.crash()
    rig.settle()
    assert rig.transport.events() == ids * 2
