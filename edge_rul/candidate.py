"""A candidate: a second bundle that scores the windows that are answered, to be compared and for nothing else.

Owns its answers' topic and how far they are from what serves. It moves no alarm and no watermark: its messages are of
QoS 0, it scores only while nothing waits, and where it fails it is left out. Must not know how a window came to be.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_rul.core import status
from edge_rul.core.answers import Completed
from edge_rul.core.batch import Batch
from edge_rul.core.outgoing import Message, iso
from edge_rul.core.prediction import Prediction, predict
from edge_rul.core.topic import Template
from edge_rul.engines import infer_all
from edge_rul.errors import EngineError
from edge_rul.succession import Answerer


class Candidate:
    """state: as the status says it."""

    def __init__(self, answerer: Answerer, state: status.Candidate, topic: Template | None, log: Any) -> None:
        """state: with nothing counted. topic: of its answers; None publishes none."""
        self._answerer = answerer
        self._first = state
        self._topic = topic
        self._log = log
        self._windows = self._skipped = self._disagree = 0
        self._sum = self._largest = 0.0
        self._problem = ""

    def answered(self, batch: Batch, done: Completed, *, busy: bool) -> list[Message]:
        """The batch's windows once more. done: what serves answers. busy: entries wait, so they are left out.

        Returns its answers' messages.
        """
        if self._problem or not batch.due:
            return []
        if busy:
            self._skipped += len(batch.due)
            return []
        engine, model, transform, _ = self._answerer
        transformed = transform.apply(batch.raw)
        try:
            rul, logits = infer_all(engine, transformed.x)
        except EngineError as e:
            self._problem = str(e)
            self._log.error("candidate_failed", problem=self._problem, action="it scores no more")
            return []
        messages = []
        served = {_key(a.prediction): a.prediction for a in done.answers}
        for index, due in enumerate(batch.due):
            mine = predict(due, float(rul[index]), logits[index], transformed.marks[index], iso(due.time), model)
            if mine is None:
                continue
            if (theirs := served.get(_key(mine))) is not None:
                self._compare(mine, theirs)
            if self._topic is not None:
                payload = msgspec.json.encode(mine)
                messages.append(Message(self._topic.format(due.asset.fields()), payload, False, 0, qos=0))
        return messages

    def _compare(self, mine: Prediction, theirs: Prediction) -> None:
        difference = abs(mine.rul - theirs.rul)
        self._windows += 1
        self._sum += difference
        self._largest = max(self._largest, difference)
        self._disagree += mine.health.name != theirs.health.name

    @property
    def state(self) -> status.Candidate:
        n = self._windows
        return msgspec.structs.replace(
            self._first,
            windows=n,
            skipped=self._skipped,
            rul_mean=round(self._sum / n, 5) if n else None,
            rul_largest=round(self._largest, 5) if n else None,
            disagreement=round(self._disagree / n, 5) if n else None,
            problem=self._problem,
        )

    def close(self) -> None:
        self._answerer.engine.close()


def _key(prediction: Prediction) -> tuple[Any, ...]:
    return prediction.asset, tuple(prediction.levels.items()), prediction.life, prediction.cycle, prediction.revision
