"""One bundle takes another's place in the middle of the stream, and gives it back where its engine fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from core.test_pipeline import engine as answer
from test_worker import FakeEngine, Rig, reading

from edge_rul.adapters.journal_file import FILE
from edge_rul.adapters.journal_reader import read_journal
from edge_rul.core.entry import BundleChange
from edge_rul.core.normalise import Array, ZScore
from edge_rul.core.prediction import BundleId
from edge_rul.core.transform import Transform
from edge_rul.core.valid import Ranges
from edge_rul.errors import EXIT_INTERNAL, EngineError
from edge_rul.succession import Answerer

NEW = "1" * 64


class Engine(FakeEngine):
    """Answers, or fails, with RUL 7 on top of what the first one says."""

    def __init__(self, *, fails: bool = False, max_batch: int = 4) -> None:
        super().__init__()
        self.fails, self.closed = fails, False
        self.max_batch = max_batch

    def infer(self, x: Array) -> tuple[Array, Array]:
        assert len(x) <= self.max_batch
        if self.fails and len(x):
            raise EngineError("infer", "fake", "out of memory")
        rul, logits = answer(x)
        return rul + np.float32(7), logits

    def close(self) -> None:
        self.closed = True


def successor(rig: Rig, engine: Engine) -> Answerer:
    """With a normaliser of its own, so that the windows have to be transformed for the one that answers."""
    current = rig.worker.answerer
    model = msgspec.structs.replace(current.model, bundle=BundleId("new", NEW))
    shifted = ZScore(mean=[20.0, 0.0], std=[2.0, 1.0])
    transform = Transform(["p", "q"], low=[0.0, 0.0], high=[100.0, 1.0], normaliser=shifted, window=3)
    return Answerer(engine, model, transform)


def put(rig: Rig, cycles: range) -> None:
    for cycle in cycles:
        rig.transport.put(reading(cycle))


def by_cycle(rig: Rig) -> dict[int, tuple[str, float]]:
    """The bundle that answered, and RUL."""
    return {p["cycle"]: (p["bundle"]["sha256"], p["rul"]) for p in rig.transport.predictions()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "state")


def entries(rig: Rig) -> list[Any]:
    return [n.entry for n in rig.journal.read(0, 1000)]


def test_what_came_before_the_change_is_answered_by_the_old_bundle_and_the_rest_by_the_new(rig: Rig) -> None:
    put(rig, range(1, 8))
    rig.worker._take_in(rig.clock.now)  # none is scored yet: more windows than a batch holds wait for the old engine
    rig.worker.change_bundle(successor(rig, Engine()))
    put(rig, range(8, 15))
    rig.settle()
    old, new = ("0" * 64, 50.0), (NEW, 47.0)
    expected = {cycle: old if cycle < 8 else new for cycle in range(3, 15)}
    found = by_cycle(rig)
    assert {c: sha for c, (sha, _) in found.items()} == {c: sha for c, (sha, _) in expected.items()}
    np.testing.assert_allclose([r for _, r in found.values()], [r for _, r in expected.values()], atol=1e-4)
    assert entries(rig)[7] == BundleChange("new", NEW)
    assert rig.worker.answerer.model.bundle.sha256 == NEW
    assert sorted(by_cycle(rig)) == list(range(3, 15)), "every window is answered"


def test_a_successor_that_fails_at_its_first_windows_gives_its_place_back(rig: Rig) -> None:
    put(rig, range(1, 6))
    rig.settle()
    engine, before = Engine(fails=True, max_batch=8), rig.worker.answerer.ranges
    rig.worker.change_bundle(successor(rig, engine)._replace(ranges=Ranges([None, None], [False, False])))
    put(rig, range(6, 16))
    rig.settle()
    assert {sha for sha, _ in by_cycle(rig).values()} == {"0" * 64}
    assert sorted(by_cycle(rig)) == list(range(3, 16))
    np.testing.assert_allclose([r for _, r in by_cycle(rig).values()], 50.0, atol=1e-4)
    assert engine.closed
    assert rig.worker.failure == "infer: fake: out of memory"
    assert rig.worker.answerer.ranges is rig.worker._pipeline.lives.ranges is before
    rig.worker.record_bundle()
    rig.settle()
    assert entries(rig)[-1] == BundleChange("b", "0" * 64, since=6), "all since the change was answered by the first"

    rig.worker.change_bundle(successor(rig, Engine())._replace(model=rig.worker.answerer.model))
    assert rig.worker.failure == ""


def test_an_engine_that_fails_later_is_not_replaced_by_one_that_was_closed(rig: Rig) -> None:
    engine = Engine()
    rig.worker.change_bundle(successor(rig, engine))
    put(rig, range(1, 6))
    rig.settle()
    assert {sha for sha, _ in by_cycle(rig).values()} == {NEW}
    engine.fails = True
    put(rig, range(6, 7))
    with pytest.raises(EngineError) as caught:
        rig.settle()
    assert caught.value.exit_code == EXIT_INTERNAL


def test_after_a_crash_the_bundle_of_the_configuration_answers_and_no_entry_stops_it(rig: Rig) -> None:
    put(rig, range(1, 6))
    rig.worker.change_bundle(successor(rig, Engine()))
    rig.settle()
    rig.crash()
    put(rig, range(6, 9))
    rig.settle()
    assert max(by_cycle(rig)) == 8
    with read_journal(rig.directory / FILE) as kept:
        assert [str(asset) for asset in kept.assets()] == ["x"], "a change of bundle is no asset's"
