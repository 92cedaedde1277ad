"""The network thread of an MQTT client: connect, turn, connect again.

Owns the thread and its waiting. paho has a thread of its own, which wakes for each packet that another one queues and
waits anew before each that it reads; this one does as paho documents for other loops, and takes together what comes
together. Knows nothing of what is sent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from edge_rul.adapters.mqtt_socket import GatheringSocket

_TURN = 1.0  # seconds; keepalive is looked at as often
_FIRST, _LONGEST = 1.0, 30.0  # seconds between two attempts to connect, twice as many each time


class Client(paho.Client):
    """paho's, over a socket that gathers."""

    def _create_socket(self) -> Any:
        return GatheringSocket(super()._create_socket())  # type: ignore[arg-type]

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """All the packets that one call of the kernel has brought."""
        code = super().loop_read(max_packets)
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and (sock := self._gathering) is not None and sock.pending():
            code = super().loop_read(max_packets)
        return code

    def loop_write(self) -> MQTTErrorCode:
        code = super().loop_write()
        if (sock := self._gathering) is not None:
            try:
                sock.flush()
            except OSError:
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        return code

    @property
    def _gathering(self) -> GatheringSocket | None:
        sock: Any = self.socket()
        return sock  # type: ignore[no-any-return]


class Loop:
    """turned: monotonic time of the last turn, or of the last attempt to connect."""

    def __init__(self, client: Client, failed: Callable[[OSError], None], turn: Callable[[], None]) -> None:
        """client: told where to connect by `connect_async`. failed: an attempt to connect did. turn: something may have
        come; both are called on the thread."""
        self._client = client
        self._failed = failed
        self._turn = turn
        self._delay = _FIRST
        self._renew = False
        self._ended = threading.Event()
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self.turned = 0.0
        client.on_socket_register_write = lambda *_: self._wake()  # with it paho leaves all writing to this thread

    def start(self) -> None:
        self.turned = time.monotonic()
        self._thread.start()

    @property
    def died(self) -> bool:
        """Whether the thread has ended without being told to."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._ended.is_set()

    def connected(self) -> None:
        """The broker has accepted us: the next failure is a first one."""
        self._delay = _FIRST

    def renew(self) -> None:
        """Break the connection once what is queued is written; a new one follows."""
        self._renew = True
        self._wake()

    def end(self) -> None:
        """Connect no more. What is queued, a DISCONNECT at its end, still goes out."""
        self._ended.set()
        self._wake()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end. A frozen network does not keep us: it ends with the process."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake
            self._waker.send(b"\0")

    def _run(self) -> None:
        while not self._ended.is_set():
            self.turned = time.monotonic()
            try:
                self._client.reconnect()
            except OSError as e:
                self._failed(e)
            while (sock := self._client.socket()) is not None:
                self._step(sock)
            if self._ended.wait(self._delay):
                break
            self._delay = min(_LONGEST, 2 * self._delay)

    def _step(self, sock: Any) -> None:
        self.turned = time.monotonic()
        pending = sock.pending()
        try:
            writing = [sock] if self._client.want_write() or sock.unsent else []
            readable, writable, _ = select.select([sock, self._woken], writing, [], 0.0 if pending else _TURN)
        except (OSError, ValueError):  # closed meanwhile, by whoever broke the connection
            readable, writable = [sock], []
        if self._woken in readable:
            self._woken.recv(4096)
        if pending or sock in readable:
            self._client.loop_read()
            self._turn()
        if writable or self._client.want_write():
            self._client.loop_write()  # what was queued meanwhile, too
        if self._renew and not self._client.want_write() and not sock.unsent:
            self._renew = False
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_misc()
