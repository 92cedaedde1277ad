"""Starts, and those that followed on no orderly end."""

from __future__ import annotations

from pathlib import Path

from edge_rul.starts import Starts


def test_starts_are_counted_and_unclean_ones_apart(tmp_path: Path) -> None:
    first = Starts(tmp_path)
    assert (first.counts, first.unclean) == ((1, 0), False)
    first.ended()
    assert Starts(tmp_path).counts == (2, 0)
    third = Starts(tmp_path)
    assert (third.counts, third.unclean) == ((3, 1), True), "the second one never said that it ended"


def test_a_file_that_cannot_be_read_costs_the_count(tmp_path: Path) -> None:
    (tmp_path / "starts.json").write_text("{")
    assert Starts(tmp_path).counts == (1, 0)
    assert Starts(tmp_path / "nowhere").counts == (1, 0)
