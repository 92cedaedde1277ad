"""A candidate scores what is answered, tells how far it is from it, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
from test_succession import NEW, Engine, put, successor
from test_worker import Rig, reading

from edge_rul.candidate import Candidate
from edge_rul.core import status
from edge_rul.core.prediction import BundleId
from edge_rul.core.topic import Template


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "state")


def beside(rig: Rig, engine: Engine) -> Candidate:
    computes = status.ServingEngine("fake", "1", "float32", "CPU")
    state = status.Candidate(BundleId("new", NEW), computes, 0, 0, None, None, None)
    candidate = Candidate(successor(rig, engine), state, Template("cand/{asset}"), structlog.get_logger())
    rig.worker.compare(candidate)
    return candidate


def test_it_scores_the_same_windows_on_a_topic_of_its_own(rig: Rig) -> None:
    candidate = beside(rig, Engine())
    put(rig, range(1, 7))
    rig.settle()
    messages = [m for m in rig.transport.sent if m.topic == "cand/x"]
    assert [json.loads(m.payload)["cycle"] for m in messages] == [3, 4, 5, 6]
    assert {(m.qos, m.retain) for m in messages} == {(0, False)}
    served = rig.transport.predictions()
    assert {p["bundle"]["sha256"] for p in served} == {"0" * 64}
    state = candidate.state
    # What serves says 50, the candidate 47; see `successor`.
    assert (state.windows, state.skipped, state.disagreement) == (4, 0, 0.0)
    assert state.rul_mean == pytest.approx(3.0, abs=1e-4)
    assert state.rul_largest == pytest.approx(3.0, abs=1e-4)
    assert rig.worker.watermark == 6


def test_its_answers_move_no_alarm(rig: Rig) -> None:
    """What serves says 22, the candidate 19, which is below the alarm's limit of 20."""
    beside(rig, Engine())
    for cycle in range(1, 7):
        rig.transport.put(reading(cycle, 22.0))
    rig.settle()
    said = [json.loads(m.payload)["rul"] for m in rig.transport.sent if m.topic == "cand/x"]
    assert said == pytest.approx([19.0] * 4, abs=1e-4)
    assert rig.transport.events() == []
    assert rig.onlooker.changes == ["normal"]


def test_what_waits_is_not_kept_waiting_for_it(rig: Rig) -> None:
    candidate = beside(rig, Engine())
    put(rig, range(1, 16))
    rig.settle()
    state = candidate.state
    assert len(rig.transport.predictions()) == 13
    assert state.skipped > 0
    assert state.windows + state.skipped == 13


def test_one_that_fails_is_left_out_and_what_serves_goes_on(rig: Rig) -> None:
    candidate = beside(rig, Engine(fails=True))
    put(rig, range(1, 7))
    rig.settle()
    assert len(rig.transport.predictions()) == 4
    assert candidate.state.problem == "infer: fake: out of memory"
    assert (candidate.state.windows, candidate.state.rul_mean) == (0, None)
