"""Plants that send times and no cycle numbers, or one sensor a message, through a real broker and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Broker
from integration.test_bad_input import GOOD, Peer

from edge_rul.bundle import Bundle

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics: {{readings: ["plant/{{asset}}/cycle", "parts/{{asset}}/{{sensor}}/now"]}}
inputs: {{c: {{missing: hold}}}}
windows: {{max_gap: 1, seconds_per_cycle: 10, parts_within: 600}}
journal: {{min_free: 0}}
"""
T0 = 1_767_225_600_000


class Plant(Peer):
    """With the daemon, which may be killed and started again."""

    def __init__(self, bundle: Bundle, port: int, directory: Path) -> None:
        super().__init__(port)
        self.config = directory / "edge-rul.yaml"
        self.config.write_text(CONFIG.format(bundle=bundle.path, port=port))
        self._command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(self.config)]
        self._environment = {**os.environ, "STATE_DIRECTORY": str(directory / "state")}
        self.start()

    def start(self) -> None:
        self.daemon = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, env=self._environment)

    def kill(self) -> None:
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def close(self) -> None:
        self.kill()
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: Any) -> None:
        self.client.publish(topic, json.dumps(payload), qos=1)

    def answered(self, cycle: int) -> bool:
        return cycle in self.predictions.get("pump", [])


@pytest.fixture
def plant(tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tiny_bundle, mosquitto.port, tmp_path)
    yield made
    made.close()


def at(index: float) -> int:
    return T0 + round(index * 10_000)


def test_readings_are_known_by_their_times_and_told_from_new_ones_by_nothing_else(plant: Plant) -> None:
    def send(index: float, **more: Any) -> None:
        plant.publish("plant/pump/cycle", {"ts": at(index), "values": GOOD, **more})

    plant.wait("online", lambda: plant.online)
    for index in (0, 1, 2, 3.2, 4.1):  # about ten seconds apart
        send(index)
    plant.wait("the first full window", lambda: plant.answered(at(4.1)))
    plant.kill()
    for index in (3.2, 8.1, 7, 6):  # one that came before the kill; 7 and 6 are late
        send(index)
    plant.publish("plant/pump/cycle", {"values": GOOD})
    send(9, values={**GOOD, "b": "x"})
    send(10)
    plant.start()
    plant.wait("the last prediction", lambda: plant.answered(at(10)))
    expected = {"duplicate": 1, "no_key": 1, "bad_value": 1}
    plant.wait("what was not used", lambda: plant.statistics.get("dropped") == expected)
    assert plant.statistics["late"] == 2
    assert plant.statistics["gaps"] == 4  # three before 8.1, when it came, and one before 10
    plant.wait("dead letters", lambda: len(plant.letters) >= 2)
    assert plant.letters == [("plant/pump/cycle", "no_key"), ("plant/pump/cycle", "bad_value")]
    assert set(plant.predictions["pump"]) == {at(i) for i in (4.1, 6, 7, 8.1, 10)}


def test_parts_on_both_sides_of_a_kill_are_one_reading(plant: Plant) -> None:
    def send(cycle: int, sensors: str) -> None:
        for sensor in sensors:
            plant.publish(f"parts/pump/{sensor}/now", {"cycle": cycle, "value": GOOD[sensor]})

    plant.wait("online", lambda: plant.online)
    for cycle in range(1, 6):
        send(cycle, "abc")
    send(6, "ab")
    plant.wait("the first full window", lambda: plant.answered(5))
    plant.wait("all parts", lambda: plant.statistics.get("parts") == 17)
    plant.kill()
    plant.start()
    send(6, "bc")
    plant.wait("the reading that was begun before", lambda: plant.answered(6))
    plant.wait("what was not used", lambda: plant.statistics["dropped"] == {"duplicate": 1})
    plant.kill()
    plant.config.write_text(plant.config.read_text().replace("parts_within: 600", "parts_within: 0.5"))
    plant.start()
    send(7, "ba")  # c may be held
    send(8, "ac")  # b may not
    plant.wait("the reading that was not complete", lambda: plant.answered(7))
    plant.wait("a dead letter", lambda: bool(plant.letters))
    assert plant.letters == [("parts/pump/+/now", "missing_input")]
    plant.wait("what was not used", lambda: plant.statistics["dropped"] == {"missing_input": 1})
    assert set(plant.predictions["pump"]) == {5, 6, 7}
