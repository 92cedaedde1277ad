"""A journal that nobody can read any more, under a daemon that comes back: told, kept, and begun anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Broker
from integration.test_keys import Plant

from edge_rul.adapters.journal_file import FILE
from edge_rul.bundle import Bundle

ALARM, STATE = "edge-rul/_daemon/alarm/journal_corrupt", "edge-rul/pump/prediction/state"


class Operator(Plant):
    """Looks at what each topic said last, too."""

    def __init__(self, bundle: Bundle, port: int, directory: Path) -> None:
        self.said: dict[str, dict[str, Any]] = {}
        super().__init__(bundle, port, directory)

    def _on_message(self, client: Any, user: Any, message: Any) -> None:
        if message.topic in (ALARM, STATE):
            self.said[message.topic] = json.loads(message.payload)
        super()._on_message(client, user, message)

    def stands(self, topic: str, **fields: Any) -> bool:
        return fields.items() <= self.said.get(topic, {}).items()

    def send_cycles(self, first: int, last: int) -> None:
        for cycle in range(first, last + 1):
            self.send("pump", cycle)


@pytest.fixture
def plant(tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path) -> Iterator[Operator]:
    made = Operator(tiny_bundle, mosquitto.port, tmp_path)
    yield made
    made.close()


def test_a_corrupt_journal_raises_an_alarm_is_kept_and_windows_warm_up_again(plant: Operator, tmp_path: Path) -> None:
    plant.wait("online", lambda: plant.online)
    plant.send_cycles(1, 6)
    plant.wait("the newest window", lambda: plant.answered(6) and plant.stands(STATE, state="predicting"))
    # Told after the acknowledgements of what it covers, so that the broker brings none of it again.
    plant.wait("the commit", lambda: plant.statistics.get("watermark", 0) >= 7)  # the bundle, six readings
    assert plant.stands(ALARM, state="normal")
    plant.kill()
    journal = tmp_path / "state" / FILE
    journal.with_name(f"{FILE}-wal").unlink(missing_ok=True)
    broken = b"rubbish " * 4096
    journal.write_bytes(broken)

    plant.start()
    plant.wait("the alarm", lambda: plant.stands(ALARM, state="active"))
    plant.send_cycles(7, 7)
    plant.wait(
        "a window that begins anew", lambda: plant.stands(STATE, state="warming_up", life=0, cycle=7, readings=1)
    )
    plant.send_cycles(8, 11)
    plant.wait("the first full window", lambda: plant.answered(11) and plant.stands(STATE, state="predicting"))
    assert not {7, 8, 9, 10} & set(plant.predictions["pump"])
    aside = min(journal.parent.glob(f"{FILE}.corrupt-*"))  # what lay beside it goes with it, under longer names
    assert aside.read_bytes() == broken
    plant.kill()
    plant.start()
    plant.wait("that it is over", lambda: plant.stands(ALARM, state="normal"))
