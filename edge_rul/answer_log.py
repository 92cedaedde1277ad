"""What was answered, in the log: the way back from a published prediction or alarm to (asset, life, cycle), and on.

Owns these lines. An alarm's events and commands are always told, each answer where the log's level is `debug`. Knows no
topic.
"""

from __future__ import annotations

import logging
from typing import Any

from edge_rul.core.alarm import Transition
from edge_rul.core.answers import Completed
from edge_rul.core.outgoing import event_id
from edge_rul.core.topic import Asset
from edge_rul.log import Summary


class AnswerLog:
    """Called after each batch."""

    def __init__(self, log: Any, faults: Summary) -> None:
        self._log = log
        self._faults = faults

    def answered(self, done: Completed, now: float) -> None:
        """now: monotonic seconds."""
        for due in done.unanswered:
            key = _key(due.asset, due.life, due.cycle)
            self._faults.fault("engine_not_finite", "engine_not_finite", now, level="error", **key)
        if done.answers and self._log.is_enabled_for(logging.DEBUG):
            for a in done.answers:
                p = a.prediction
                self._log.debug(
                    "predicted",
                    **_key(a.asset, p.life, p.cycle),
                    revision=p.revision,
                    rul=p.rul,
                    health=p.health.name,
                    bundle=p.bundle.sha256[:12],
                )
        for reply in done.replies:
            (self._log.info if reply.ok else self._log.warning)(
                "command",
                command=reply.command,
                asset=reply.asset,
                levels=reply.levels,
                who=reply.who,
                why=reply.why,
                error=reply.error,
            )
        for change in done.changes:
            # What an operator did is logged as the command, with who and why.
            if change.event in (Transition.RAISED, Transition.CLEARED):
                (self._log.warning if change.event is Transition.RAISED else self._log.info)(
                    "alarm_raised" if change.event is Transition.RAISED else "alarm_cleared",
                    **_key(change.asset, change.status.life, change.cycle),
                    alarm=change.rule.name,
                    priority=change.rule.priority,
                    value=change.status.value,
                    id=event_id(change),
                )


def _key(asset: Asset, life: int, cycle: int) -> dict[str, Any]:
    """As in what is published."""
    return {"asset": asset.name, "levels": dict(asset.levels), "life": life, "cycle": cycle}
