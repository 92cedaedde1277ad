"""Starts, and those that followed on no orderly end."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_rul import whole_file
from edge_rul.starts import Starts


def test_starts_are_counted_and_unclean_ones_apart(tmp_path: Path) -> None:
    first = Starts(tmp_path)
    assert (first.counts, first.unclean) == ((1, 0), False)
    first.ended()
    assert Starts(tmp_path).counts == (2, 0)
    third = Starts(tmp_path)
    assert (third.counts, third.unclean) == ((3, 1), True), "the second one never said that it ended"


@pytest.mark.parametrize("content", ["", "{", '{"running": 0}'])
def test_a_file_that_cannot_be_read_costs_the_count_and_tells_of_no_orderly_end(tmp_path: Path, content: str) -> None:
    (tmp_path / "starts.json").write_text(content)
    found = Starts(tmp_path)
    assert (found.counts, found.unclean) == ((1, 1), True)


def test_a_directory_that_cannot_be_written_costs_only_the_count(tmp_path: Path) -> None:
    found = Starts(tmp_path / "nowhere")
    assert (found.counts, found.unclean) == ((1, 0), False)


def test_a_power_failure_finds_the_start_and_the_end_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(whole_file.os, "fsync", synced.append)
    starts = Starts(tmp_path)
    assert len(synced) == 1
    starts.ended()
    assert len(synced) == 2
