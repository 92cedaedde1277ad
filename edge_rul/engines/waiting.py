"""A service manager is asked for more time while an engine is opened or built.

Owns how long is asked for, and when asking ends. Must not know how a manager is reached: that is a function that is
passed in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

Notify = Callable[..., object]

EXTEND = 60  # seconds that are asked for
EVERY = 15.0
LONGEST = 1800.0  # what takes longer hangs


@contextlib.contextmanager
def extending(notify: Notify, what: str, *, first: float = 0.0, every: float = EVERY) -> Iterator[None]:
    """Ask for time while the block runs, but not for ever. what: goes on, in words. first: seconds until it is said."""
    done = threading.Event()
    until = time.monotonic() + LONGEST

    def ask() -> None:
        if first and done.wait(first):
            return
        while time.monotonic() < until:
            notify(f"EXTEND_TIMEOUT_USEC={EXTEND * 1_000_000}", f"STATUS={what}")
            if done.wait(every):
                return

    thread = threading.Thread(target=ask, name="extend-timeout", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
