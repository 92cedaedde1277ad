"""systemd's notification socket: READY, STATUS, STOPPING.

Owns the datagrams of sd_notify(3). Does nothing where no service manager listens.
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
