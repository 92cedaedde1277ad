"""What metrics and pages read of the fleet; `History` is one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from edge_rul.core.fleet import Fleet


class Source(Protocol):
    """daemon_alarms: the daemon's own, whether on and the value. dropped: what the page has lost, not the daemon."""

    daemon_alarms: dict[str, tuple[bool, float]]
    dropped: int

    def fleet(self) -> AbstractContextManager[Fleet]:
        """The fleet as it stands, unchanged inside the block."""
        ...

    def wait(self, version: int, timeout: float) -> int:
        """Until the fleet has changed since `version`, or for `timeout` seconds. Returns the version it has."""
        ...
