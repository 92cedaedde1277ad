"""The engine that answers, and its successor: put in between two batches, and taken out where its first one fails.

    propose -> the journal has the change as an entry -> the pipeline has answered all that came before it -> succeed

Owns which engine is asked, since when, and for how long the one before is kept. Must not know a bundle's files, nor why
it changes.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_rul.bundle import Manifest
from edge_rul.core.batch import Batch
from edge_rul.core.entry import BundleChange
from edge_rul.core.normalise import Array
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.prediction import Model
from edge_rul.core.transform import Transform
from edge_rul.core.valid import Ranges
from edge_rul.engines import Engine, infer_all
from edge_rul.errors import EXIT_INTERNAL, EngineError


class Answerer(NamedTuple):
    """An engine with what the core has to know of its bundle."""

    engine: Engine
    model: Model
    transform: Transform
    ranges: Ranges | None = None


class Succession:
    """current: who answers. since: the seq above which it does. failure: why the last successor was taken out again, ""
    where it was not."""

    def __init__(self, pipeline: Pipeline, engine: Engine) -> None:
        self._pipeline = pipeline
        self.current = Answerer(engine, pipeline.model, pipeline.transform, pipeline.lives.ranges)
        self.since = 0
        self._next: Answerer | None = None
        self._before: Answerer | None = None  # until its successor has answered its first window
        self.failure = ""

    def propose(self, successor: Answerer) -> BundleChange:
        """The entry at which it takes over."""
        self._next, self.failure = successor, ""
        return BundleChange(successor.model.bundle.name, successor.model.bundle.sha256)

    def recorded(self) -> BundleChange:
        """The entry that tells of who answers already."""
        bundle = self.current.model.bundle
        return BundleChange(bundle.name, bundle.sha256, self.since)

    def succeed(self) -> None:
        """The pipeline has reached a change, and all before it is answered."""
        change = self._pipeline.resume()
        # One that came before a restart changes nothing: the bundle of the configuration answers all.
        if self._next is None or self._next.model.bundle.sha256 != change.sha256:
            return
        self._forget_before()
        self._before = self.current
        self._put(self._next)
        self.since = self._pipeline.applied
        self._next = None

    def infer(self, batch: Batch) -> tuple[Batch, Array, Array]:
        """The batch as it was answered, rul (B,) and logits (B, C). Raises EngineError."""
        try:
            rul, logits = self.current.engine.infer(batch.x)
        except EngineError as e:
            if self._before is None:
                e.exit_code = EXIT_INTERNAL  # it passed its check at the start: a restart may help
                raise
            self.failure = str(e)
            self.current.engine.close()
            self._put(self._before)
            self._before = None
            batch = self._pipeline.transformed_again(batch)
            rul, logits = infer_all(self.current.engine, batch.x)
        if len(batch.x):
            self._forget_before()
        return batch, rul, logits

    def close(self) -> None:
        self._forget_before()
        self.current.engine.close()

    def _put(self, answerer: Answerer) -> None:
        self.current = answerer
        self._pipeline.lives.ranges = answerer.ranges
        self._pipeline.serve(answerer.model, answerer.transform, answerer.engine.max_batch)

    def _forget_before(self) -> None:
        if self._before is not None:
            self._before.engine.close()
            self._before = None


def unlike(old: Manifest, new: Manifest) -> str:
    """Why what the windows of one bundle hold is not what the other wants, or ""."""
    for what, theirs, ours in (
        ("inputs", [i.name for i in new.inputs], [i.name for i in old.inputs]),
        ("window", new.window, old.window),
        ("max_hold of the inputs", [i.max_hold for i in new.inputs], [i.max_hold for i in old.inputs]),
        ("seconds_per_cycle", new.seconds_per_cycle, old.seconds_per_cycle),
        ("max_gap", new.max_gap, old.max_gap),
        ("classes", [c.name for c in new.classes], [c.name for c in old.classes]),
        ("RUL's unit", new.rul.unit, old.rul.unit),
        ("need of the reading before", new.transform.changes, old.transform.changes),
    ):
        if theirs != ours:
            return f"its {what}: {theirs}, expected {ours}"
    return ""
