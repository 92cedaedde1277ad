"""Logs: a console for people, JSON with journald's priorities for machines.

Owns structlog's configuration and the summarising of repeated faults. One event name a fact. Knows no domain.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import structlog

from edge_rul.config import LogSettings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(settings: LogSettings) -> None:
    """Log to stderr. `auto`: the console where stderr is a terminal, JSON elsewhere."""
    style = settings.format
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if style == "console":
        colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        processors += [structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=28)]
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), _prefix]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _prefix(_: Any, method: str, line: str | bytes | dict[str, Any]) -> str:
    """`<N>` before the line: journald takes it as the priority. Only where journald reads it."""
    text = str(line)
    return f"<{_PRIORITY.get(method, 6)}>{text}" if "JOURNAL_STREAM" in os.environ else text


class Summary:
    """Repeated faults: the first of a kind is logged at once, the others are counted and told once an interval."""

    def __init__(self, log: Any, interval: float = 10.0) -> None:
        """interval: seconds between two lines of one kind."""
        self._log = log
        self._interval = interval
        self._since: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def fault(self, event: str, kind: str, now: float, **detail: Any) -> None:
        """now: monotonic seconds. detail: shown for the first, not kept for the others."""
        if kind in self._since:
            self._count[kind] = self._count.get(kind, 0) + 1
            return
        self._since[kind] = now
        self._log.warning(event, kind=kind, **detail)

    def tick(self, now: float) -> None:
        """Tell what has come since, and forget the kinds that have gone quiet."""
        for kind, since in list(self._since.items()):
            if now - since < self._interval:
                continue
            if count := self._count.pop(kind, 0):
                self._log.warning("repeated", kind=kind, count=count, seconds=round(now - since))
                self._since[kind] = now
            else:
                del self._since[kind]
