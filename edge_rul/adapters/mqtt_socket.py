"""A socket that gathers: it reads whole pieces of the stream, and writes at once what was said since the last time.

Owns the two buffers between paho and the kernel. paho reads a packet by three calls and writes each one by itself; with
a call of the kernel for each, and a change of threads with it, this was half of what a message cost. Knows no MQTT.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

_PIECE = 65536  # bytes
_PARTING = 0.5  # seconds that closing may wait for what is not written yet, a DISCONNECT among it


class GatheringSocket:
    """Stands in for a connected socket, plain or TLS, that does not block; one thread uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._read = b""
        self._at = 0
        self._unsent = bytearray()

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises BlockingIOError or ssl.SSLWantReadError where there are none."""
        if self._at == len(self._read):
            self._read, self._at = self._sock.recv(_PIECE), 0
        piece = self._read[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that can be read although the kernel has none."""
        inside = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return len(self._read) - self._at + inside

    def send(self, data: bytes) -> int:
        """Takes all, or raises BlockingIOError while too much waits to be written."""
        if len(self._unsent) >= _PIECE:
            self.flush()
            if len(self._unsent) >= _PIECE:
                raise BlockingIOError
        self._unsent += data
        return len(data)

    @property
    def unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Write what the kernel takes. Raises OSError where the connection has broken."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._unsent:
                self._sock.settimeout(_PARTING)
                self._sock.sendall(self._unsent)
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)  # fileno, setblocking, shutdown, ...
