"""The daemon with a fault put in on purpose, to show that the chaos run finds it. Never part of the product.

python tools/chaos_sabotage.py ack-before-commit run --config FILE
"""

from __future__ import annotations

import sys

from edge_rul import cli
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.core.answers import AlarmRow
from edge_rul.scoring import Scoring


def ack_before_commit() -> None:
    """Each reading is acknowledged as soon as it is taken from the inbox, up to 250 ms before it is on disk."""
    receive, acknowledge = MqttTransport.receive, MqttTransport.acknowledge

    def receive_and_acknowledge(self: MqttTransport) -> Received | None:
        if (message := receive(self)) is not None:
            acknowledge(self, message)
        return message

    MqttTransport.receive = receive_and_acknowledge  # type: ignore[method-assign]
    MqttTransport.acknowledge = lambda self, message: None  # type: ignore[method-assign]


def forget_what_is_in_flight() -> None:
    """The watermark passes answers that the broker has not acknowledged, so that a restart does not give them again."""
    Scoring.watermark = property(lambda self: self.answered)  # type: ignore[assignment, method-assign]


def save_alarms_too_early() -> None:
    """Alarms are saved as they stand, not as they stood at the watermark: a restart gives no event twice, or at all."""
    covered = Scoring.covered

    def all_of_them(self: Scoring, upto: int) -> tuple[int, list[AlarmRow]]:
        return covered(self, upto)[0], list({row.asset: row for row in self.alarm_rows}.values())

    Scoring.covered = all_of_them  # type: ignore[method-assign]


FAULTS = {
    "ack-before-commit": ack_before_commit,
    "forget-in-flight": forget_what_is_in_flight,
    "alarms-too-early": save_alarms_too_early,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(cli.main(sys.argv[2:]))
