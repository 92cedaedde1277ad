"""Retained messages that a broker acknowledged and may not have saved yet, to send again on a new connection.

A broker that is killed goes back to its last save, with our session and without what it acknowledged since: an alarm
would stay as it was for as long as it does not change. Owns which messages these are. Knows no client and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from edge_rul.core.outgoing import Message

_UNSAVED = 15.0  # seconds; our mosquitto.conf has it save every 5


class Unsaved:
    """The newest retained message of each topic that had one in the last seconds."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, tuple[float, Message]] = OrderedDict()

    def sent(self, message: Message, now: float) -> None:
        """It was handed to the broker. now: monotonic seconds. What grew old by then is taken to be saved."""
        if not message.retain:
            return
        self._sent[message.topic] = now, message
        self._sent.move_to_end(message.topic)
        while next(iter(self._sent.values()))[0] < now - _UNSAVED:
            self._sent.popitem(last=False)

    def again(self, coming: Container[str]) -> list[Message]:
        """What has to go out once more, in order. coming: topics of what waits to go out anyway: that is newer."""
        return [message for topic, (_, message) in self._sent.items() if topic not in coming]
