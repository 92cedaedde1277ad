"""Logs as an operator meets them: a line for a fault and no flood, priorities for journald, the way to an answer."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import log_events
import numpy as np
import pytest
import structlog
import structlog.testing
from test_worker import Rig, reading

from edge_rul.config import LogSettings
from edge_rul.log import Summary, configure


def faults() -> tuple[Summary, list[tuple[Any, ...]]]:
    lines: list[tuple[Any, ...]] = []

    class Log:
        def warning(self, event: str, **more: Any) -> None:
            lines.append((event, more.get("of"), more["kind"], more.get("count")))

        error = warning

    return Summary(Log(), interval=10.0), lines


def test_the_first_of_a_kind_is_told_and_the_others_are_counted() -> None:
    summary, lines = faults()
    for second in range(9):
        summary.fault("message_rejected", "not_json", float(second), topic="a")
    summary.fault("message_rejected", "bad_value", 3.0, topic="b")
    assert lines == [("message_rejected", None, "not_json", None), ("message_rejected", None, "bad_value", None)]
    summary.tick(9.9)
    assert len(lines) == 2
    summary.tick(10.0)
    assert lines[2:] == [("repeated", "message_rejected", "not_json", 8)]
    summary.tick(20.0)  # quiet since: the next is a first one again
    summary.fault("message_rejected", "not_json", 21.0)
    assert lines[3:] == [("message_rejected", None, "not_json", None)]


def test_one_kind_of_two_events_is_two_kinds_and_nobody_need_tick() -> None:
    summary, lines = faults()
    for second in (0.0, 1.0, 11.0):
        for event in ("disconnected", "publish_refused"):
            summary.fault(event, "quota", second)
    assert [line for line in lines if line[0] != "repeated"] == [
        ("disconnected", None, "quota", None),
        ("publish_refused", None, "quota", None),
    ]
    assert sorted(line[1:] for line in lines if line[0] == "repeated") == [
        ("disconnected", "quota", 1),
        ("publish_refused", "quota", 1),
    ]


def test_no_fault_is_lost_between_threads() -> None:
    summary, lines = faults()

    def rush() -> None:
        for i in range(2000):
            summary.fault("http_failed", "x", i / 100)

    threads = [threading.Thread(target=rush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary.tick(1e9)
    assert sum(line[3] or 1 for line in lines) == 8000


@pytest.mark.parametrize(("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
def test_journald_gets_the_priority_and_others_plain_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, level: str, priority: int
) -> None:
    for stream in (True, False):
        if stream:
            monkeypatch.setenv("JOURNAL_STREAM", "8:1")
        else:
            monkeypatch.delenv("JOURNAL_STREAM")
        configure(LogSettings(level="debug", format="json"))
        getattr(structlog.get_logger(), level)("ready", serving="tiny", text="line\nbreak")
        (line,) = capsys.readouterr().err.splitlines()
        prefix = f"<{priority}>" if stream else ""
        assert line.startswith(prefix + "{")
        assert json.loads(line.removeprefix(prefix))["event"] == "ready"


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_no_variable(capsys: pytest.CaptureFixture[str], style: Any) -> None:
    """It may hold a password. `rich`, where it is installed, would show each."""

    def fail(environ: dict[str, str]) -> None:
        raise RuntimeError("nobody")

    configure(LogSettings(format=style))
    try:
        fail({"HTTP_AUTHORIZATION": "Bearer t0ken"[::-1]})
    except RuntimeError:
        structlog.get_logger().exception("http_failed")
    said = capsys.readouterr().err
    assert "RuntimeError: nobody" in said
    assert "nek0t" not in said


def test_a_published_answer_leads_to_its_line(tmp_path: Path) -> None:
    """By asset, life and cycle; an alarm's by the id of its event too."""
    with structlog.testing.capture_logs() as lines:
        rig = Rig(tmp_path / "state")
        for cycle in range(1, 6):
            rig.transport.put(reading(cycle, -30.0 if cycle < 5 else 90.0))
        rig.settle()
    told = {(line["asset"], line["life"], line["cycle"]): line["rul"] for line in lines if line["event"] == "predicted"}
    published = {(p["asset"], p["life"], p["cycle"]): p["rul"] for p in rig.transport.predictions()}
    assert told == published
    assert len(told) == 3
    alarms = {line["id"]: line["event"] for line in lines if line["event"].startswith("alarm_")}
    assert list(alarms) == rig.transport.events() == ["x/0/3/low/raised", "x/0/5/low/cleared"]
    assert list(alarms.values()) == ["alarm_raised", "alarm_cleared"]


def test_an_answer_that_is_no_number_is_told_with_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as lines:
        rig = Rig(tmp_path / "state")
        infer = rig.engine.infer
        monkeypatch.setattr(rig.engine, "infer", lambda x: (np.full(len(x), np.nan, np.float32), infer(x)[1]))
        for cycle in range(1, 8):
            rig.transport.put(reading(cycle))
        rig.settle()
        rig.clock.now += 20.0
        rig.worker.tick()
    found = [line for line in lines if line["event"] == "engine_not_finite"]
    assert [(line["asset"], line["life"], line["cycle"], line["log_level"]) for line in found] == [("x", 0, 3, "error")]
    assert [(line["of"], line["count"]) for line in lines if line["event"] == "repeated"] == [("engine_not_finite", 4)]
    assert rig.transport.predictions() == []


def test_an_event_without_a_constant_name_is_noticed(tmp_path: Path) -> None:
    """Or the list in docs/logs.md would lack it."""
    source = tmp_path / "x.py"
    source.write_text("log.info('ready')\n(self._log.error if bad else log.info)('lost' if bad else 'found')\n")
    assert log_events.events(tmp_path) == {"ready": {"info"}, "lost": {"error"}, "found": {"info"}}
    source.write_text("log.info(name)\n")
    with pytest.raises(ValueError, match=r"x\.py:1: an event's name"):
        log_events.events(tmp_path)


def test_names_are_words() -> None:
    assert [name for name in log_events.events() if not name.replace("_", "").isalpha() or name != name.lower()] == []
