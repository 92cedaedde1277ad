"""The subscriptions of a session: what is subscribed to, what is tried, and what is given up.

Owns the filters across connections and configurations: the broker's session outlives both. Knows a SUBSCRIBE only as a
function that sends one, and no message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt.reasoncodes import ReasonCode


class Filters:
    """`connect` and `answered` belong to the network thread, the rest to the worker's."""

    def __init__(
        self,
        filters: Sequence[str],
        stale: Sequence[str],
        *,
        subscribe: Callable[[Sequence[str]], int | None],
        unsubscribe: Callable[[list[str]], Any],
    ) -> None:
        """stale: that the session may still hold from before. subscribe: returns the message's id, None where there is
        no connection."""
        self._filters = tuple(filters)
        self._stale = [text for text in stale if text not in self._filters]
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._lock = threading.Lock()
        self._sent: dict[int | None, tuple[str, ...]] = {}  # by message id: what the broker has not answered
        self._granted: set[str] = set()  # on this connection
        self._tried: tuple[str, ...] = ()
        self.verdict: str | None = ""  # of what was tried: why the broker refuses it, "", or None for not yet

    @property
    def held(self) -> list[str]:
        """What the session may hold."""
        return [*self._filters, *self._stale]

    def connect(self) -> None:
        """A connection stands: give up what is stale, and subscribe."""
        with self._lock:
            self._sent.clear()
            self._granted.clear()
            self._tried, self.verdict = (), ""
            if self._stale:
                self._unsubscribe(self._stale)
            self._send(self._filters)

    def answered(self, mid: int, codes: Sequence[ReasonCode]) -> tuple[str, str] | None:
        """The broker's answer to a SUBSCRIBE. Returns a filter that it refuses, and why, unless it was only tried."""
        with self._lock:
            filters = self._sent.pop(mid, ())
            answers = list(zip(filters, codes, strict=False))
            self._granted |= {text for text, code in answers if not code.is_failure}
            refused = next(((text, str(code)) for text, code in answers if code.is_failure), None)
            if filters and filters == self._tried:
                self.verdict = "" if refused is None else f"the broker refuses {refused[0]}: {refused[1]}"
                return None
            if refused is None:
                self._stale.clear()  # the UNSUBSCRIBE went out before the SUBSCRIBE that is answered here
            return refused

    def attempt(self, filters: Sequence[str]) -> None:
        """Subscribe to those that are new, beside the others; `verdict` tells how it went. Then `adopt` these or those.

        Without a connection nothing is refused, and the next one subscribes to what was adopted by then.
        """
        with self._lock:
            self._tried = tuple(text for text in filters if text not in self._granted)
            self.verdict = None if self._tried and self._send(self._tried) else ""

    def adopt(self, filters: Sequence[str]) -> None:
        """These from now on; what is none of them is given up."""
        with self._lock:
            gone = {*self._filters, *self._tried, *self._stale} - set(filters)
            self._filters, self._tried, self._stale = tuple(filters), (), sorted(gone)
            if self._stale:
                self._unsubscribe(self._stale)
            if missing := tuple(text for text in filters if text not in self._granted):
                self._send(missing)
            self._granted -= gone

    def _send(self, filters: tuple[str, ...]) -> bool:
        mid = self._subscribe(filters)
        if mid is not None:
            self._sent[mid] = filters
        return mid is not None
