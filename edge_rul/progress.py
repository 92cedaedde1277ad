"""Whether the daemon moves: when each of its parts last did, and for how long one may stand.

Owns the deadlines, and the words for a part that has passed its own. Each time is written by one thread and read by
any. Must not know what a part does, nor who is told: the watchdog is fed, and /healthz answers, by what stands here.

    network loop   turns each second; without a broker with each attempt to connect, at most half a minute apart
    worker         turns with each message, or each second; one engine call or one commit may lie between
    publisher      moves where the broker acknowledges, and where nothing waits or no broker is there to acknowledge it
"""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINES = {"network loop": 90.0, "worker": 60.0, "publisher": 120.0}  # seconds without a move


class Progress:
    """serving: from READY to the first signal to stop; before and after that nothing is late. connected: to the broker.
    full: the disk is, so that nothing is taken in.

    clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = dict.fromkeys(DEADLINES, clock())
        self.serving = False
        self.connected = False
        self.full = False

    def moved(self, part: str, at: float) -> None:
        """at: monotonic seconds."""
        self._moved[part] = at

    def alive(self) -> str:
        """Why a restart would help, or ""."""
        now = self._clock()
        for part, deadline in DEADLINES.items():
            if self.serving and (stood := now - self._moved[part]) > deadline:
                return f"the {part} has not moved for {stood:.0f} s, {deadline:.0f} s are allowed"
        return ""

    def ready(self) -> str:
        """Why nothing is answered now, or ""."""
        if not self.serving:
            return "starting or stopping"
        away = "" if self.connected else "not connected to the broker"
        return self.alive() or away or ("the disk is full" if self.full else "")
