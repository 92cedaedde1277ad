"""systemd's notification socket: READY, STATUS, STOPPING, WATCHDOG.

Owns the datagrams of sd_notify(3) and how often a watchdog is fed. Does nothing where no service manager listens.
"""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send assignments such as "READY=1" in one datagram. Returns whether anybody listens. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall("\n".join(assignments).encode())
    except OSError:
        return False
    return True


class Watchdog:
    """Feeds systemd's watchdog. Its owner calls `feed` from the thread whose progress is to be seen, and leaves that
    out while something stands: a timer's thread would ping through a deadlock."""

    def __init__(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # A quarter of it: systemd asks for half, and a turn of the loop may take a while.
        self._every = int(microseconds) / 4e6 if ours and microseconds.isdecimal() else float("inf")
        self._next = 0.0 if self._every < float("inf") else self._every

    def feed(self, now: float) -> None:
        """now: monotonic seconds. Most calls do nothing."""
        if now >= self._next:
            self._next = now + self._every
            notify("WATCHDOG=1")
