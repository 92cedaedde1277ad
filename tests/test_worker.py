"""The worker's two steps with a transport and an engine that the test drives."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import structlog.testing
from core.test_pipeline import engine as answer
from core.test_pipeline import make

from edge_rul.adapters.mqtt import Received
from edge_rul.config import Limits, Settings, Topics
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message
from edge_rul.daemon import Worker

SETTINGS = Settings(bundle="x", topics=Topics(readings=["in/{asset}"]))


class FakeTransport:
    """An inbox that the test fills and a broker that acknowledges nothing until told."""

    def __init__(self) -> None:
        self.connected = True
        self.dropped_qos0 = self.refused = 0
        self.inbox: deque[Received] = deque()
        self.acknowledged: list[int] = []
        self.sent: list[Message] = []
        self.backlog = 0

    def put(self, payload: Any, asset: str = "x") -> int:
        mid = len(self.inbox) + len(self.acknowledged) + 100
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.inbox.append(Received(f"in/{asset}", data, 1, mid, 1))
        return mid

    def wait(self, timeout: float) -> None: ...

    def receive(self) -> Received | None:
        return self.inbox.popleft() if self.inbox else None

    def acknowledge(self, message: Received) -> None:
        self.acknowledged.append(message.mid)

    def send(self, messages: list[Message]) -> None:
        self.sent += messages
        self.backlog += len(messages)

    def pump(self) -> None: ...


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


def worker(transport: FakeTransport, **limits: int) -> Worker:
    settings = Settings(bundle="x", topics=SETTINGS.topics, limits=Limits(**limits))
    return Worker(make(), FakeEngine(), transport, settings, structlog.get_logger())


def reading(cycle: int) -> dict[str, Any]:
    return {"cycle": cycle, "values": [50.0, 0.5]}


def test_every_message_is_acknowledged_in_order_once_it_is_applied() -> None:
    transport = FakeTransport()
    mids = [transport.put(reading(cycle)) for cycle in range(1, 8)]
    made = worker(transport)
    made.step()
    # The first batch holds four windows, of cycles 3 to 6; cycle 7 is not applied yet.
    assert transport.acknowledged == mids[:6]
    assert made.lag == 1
    made.step()
    assert transport.acknowledged == mids
    assert sum(m.topic.endswith("/p") for m in transport.sent) == 5
    assert not made.step()


def test_a_bad_message_is_acknowledged_in_its_turn_and_logged_once() -> None:
    transport = FakeTransport()
    mids = [transport.put(p) for p in (reading(1), b"nonsense", reading(2), b"more nonsense")]
    with structlog.testing.capture_logs() as logs:
        made = worker(transport)
        made.step()
    assert transport.acknowledged == mids
    assert [(line["event"], line["kind"]) for line in logs] == [("message_rejected", "not_json")]


def test_a_repeated_fault_is_summarised() -> None:
    transport = FakeTransport()
    with structlog.testing.capture_logs() as logs:
        made = worker(transport)
        for _ in range(5):
            transport.put(b"nonsense")
        made.step()
        made.tick(1e9)
    assert [line["event"] for line in logs] == ["message_rejected", "repeated"]
    assert logs[1]["count"] == 4


def test_a_message_of_several_readings_is_acknowledged_after_the_last() -> None:
    transport = FakeTransport()
    mid = transport.put([reading(cycle) for cycle in range(1, 9)])
    made = worker(transport)
    made.step()
    assert transport.acknowledged == []
    made.step()
    assert transport.acknowledged == [mid]


def test_a_full_tail_leaves_the_inbox_alone() -> None:
    transport = FakeTransport()
    for cycle in range(1, 21):
        transport.put(reading(cycle))
    transport.backlog = 10**9  # the broker takes nothing, so nothing is scored
    made = worker(transport, tail=5)
    made.step()
    made.step()
    assert (made.lag, len(transport.inbox), transport.acknowledged) == (5, 15, [])


def test_scoring_pauses_while_the_broker_takes_nothing_and_loses_nothing() -> None:
    transport = FakeTransport()
    made = worker(transport, outbox=3)
    for cycle in range(1, 21):
        transport.put(reading(cycle))
    while made.step():
        pass
    assert len(transport.inbox) == 0
    assert made.lag > 0
    while made.lag:
        transport.backlog = 0
        made.step()
    cycles = [json.loads(m.payload)["cycle"] for m in transport.sent if m.topic.endswith("/p")]
    assert cycles == list(range(3, 21))
    assert len(transport.acknowledged) == 20


def test_an_engine_is_not_called_for_more_than_a_batch() -> None:
    transport = FakeTransport()
    engine = FakeEngine()
    made = Worker(make(), engine, transport, SETTINGS, structlog.get_logger())
    for cycle in range(1, 30):
        transport.put(reading(cycle))
    while made.step():
        pass
    assert max(engine.batches) <= 4
    assert sum(engine.batches) == 27


def test_intake_can_stop_while_the_rest_is_answered() -> None:
    transport = FakeTransport()
    made = worker(transport)
    for cycle in range(1, 8):
        transport.put(reading(cycle))
    made.step()
    transport.put(reading(8))
    while made.step(intake=False):
        pass
    assert len(transport.inbox) == 1
    assert made.lag == 0


def test_the_answers_are_those_of_the_engine() -> None:
    transport = FakeTransport()
    for cycle in range(1, 4):
        transport.put({"cycle": cycle, "values": [40.0 + cycle, 0.5]})
    worker(transport).step()
    (prediction,) = [json.loads(m.payload) for m in transport.sent if m.topic.endswith("/p")]
    np.testing.assert_allclose(prediction["rul"], 43.0, atol=1e-4)
