"""What a broker keeps for a client that is away, and how much it sends before it waits: found out by trying.

Owns a session and a topic of its own, which are gone afterwards. No version of MQTT tells either limit, and Mosquitto
drops what passes the first without a word.
"""

from __future__ import annotations

import functools
import ssl

from edge_rul.adapters.mqtt_visit import Heard, Visit, a_name
from edge_rul.config import Mqtt
from edge_rul.errors import TransportError

COUNT = 1100  # messages; Mosquitto keeps 1,000 by default
_KEEP = 60  # seconds: should we be killed, the broker forgets it soon
_QUIET = 1.0  # seconds without a message after which none is under way


def probe(settings: Mqtt, password: str | None, context: ssl.SSLContext | None, topic: str) -> tuple[int, int]:
    """Publish COUNT messages of one byte to `topic` while their subscriber is away.

    Returns how many it finds when it comes back, and how many of them the broker sends before it waits for an
    acknowledgement. Raises TransportError.
    """
    visit = functools.partial(Visit, settings, password, context)
    name = a_name(settings)
    try:
        with visit(name=name, keep=_KEEP) as subscriber:
            if refused := subscriber.subscribe([topic]):
                raise TransportError("subscribe", topic, f"the broker refuses: {refused[topic]}")
        with visit() as publisher:
            publisher.publish(topic, b"0", times=COUNT)
        with visit(name=name, keep=_KEEP) as subscriber:
            waiting = _drain(subscriber)
            kept = in_flight = len(waiting)
            while waiting:
                for heard in waiting:
                    subscriber.acknowledge(heard)
                waiting = _drain(subscriber)
                kept += len(waiting)
    finally:
        visit(name=name).close()  # which ends the session
    return kept, in_flight


def _drain(visit: Visit) -> list[Heard]:
    """What comes until nothing has come for a while."""
    found: list[Heard] = []
    while heard := next(visit.listen(_QUIET), None):
        found.append(heard)
    return found
