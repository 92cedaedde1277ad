"""Each part has a deadline of its own, and none is late before the daemon serves."""

from __future__ import annotations

import pytest

from edge_rul.progress import DEADLINES, Progress


@pytest.mark.parametrize("part", DEADLINES)
def test_a_part_that_stands_is_named_once_its_own_deadline_has_passed(part: str) -> None:
    now = 0.0
    progress = Progress(lambda: now)
    progress.connected = True
    now = 1000.0
    assert (progress.alive(), progress.ready()) == ("", "starting or stopping")
    progress.serving = True
    for name in DEADLINES:
        progress.moved(name, now)
    assert progress.ready() == ""

    begun, now = now, now + DEADLINES[part]
    for name in DEADLINES:
        if name != part:
            progress.moved(name, now)
    assert progress.alive() == ""
    now = begun + DEADLINES[part] + 1
    assert progress.alive().startswith(f"the {part} has not moved for {DEADLINES[part] + 1:.0f} s")
    assert progress.ready() == progress.alive()
    progress.moved(part, now)
    assert progress.alive() == ""
    progress.connected = False
    assert (progress.alive(), progress.ready()) == ("", "not connected to the broker")


def test_with_a_full_disk_nothing_is_answered_and_a_restart_would_not_help() -> None:
    progress = Progress(lambda: 0.0)
    progress.serving = progress.connected = progress.full = True
    assert (progress.alive(), progress.ready()) == ("", "the disk is full")
