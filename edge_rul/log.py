"""Logs: a console for people, JSON with journald's priorities for machines.

Owns structlog's configuration and the summarising of repeated faults. One event name a fact. Knows no domain.
"""

from __future__ import annotations

import os
import sys
import threading
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
        # Where `rich` is installed, its tracebacks would show every local variable, secrets among them.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=28, sort_keys=False, exception_formatter=plain
        )
        processors.append(console)
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
    """Repeated faults: the first of a kind is logged at once, the others are counted and told once an interval.

    Safe from any thread. What is counted is told by `tick`, and by the next fault of any kind.
    """

    def __init__(self, log: Any, interval: float = 10.0) -> None:
        """interval: seconds between two lines of one kind."""
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # (event, kind) -> told at, and how many since

    def fault(self, event: str, kind: str, now: float, *, level: str = "warning", **detail: Any) -> None:
        """now: monotonic seconds. detail: shown for the first, not kept for the others."""
        self.tick(now)
        with self._lock:
            told, count = self._kinds.get((event, kind), (now, -1))
            self._kinds[event, kind] = told, count + 1
        if count < 0:
            getattr(self._log, level)(event, kind=kind, **detail)

    def tick(self, now: float) -> None:
        """Tell what has come since, and forget the kinds that have gone quiet."""
        for key in [key for key, (told, _) in list(self._kinds.items()) if now - told >= self._interval]:
            with self._lock:
                told, count = self._kinds.pop(key, (now, 0))
                if count:
                    self._kinds[key] = now, 0
            if count:
                event, kind = key
                self._log.warning("repeated", of=event, kind=kind, count=count, seconds=round(now - told))
