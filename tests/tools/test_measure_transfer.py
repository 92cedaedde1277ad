"""The comparison of two starts: what counts as arrived, and that whole runs are not repeated."""

from __future__ import annotations

from pathlib import Path

import measure_transfer as measure

PLAIN = [9.0, 8.0, 6.0, 5.0, 5.0, 5.0, 4.5]  # its last five: 5.1
WARM = [7.0, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0]


def rows(name: str, seed: int, rmse: list[float]) -> list[tuple[object, ...]]:
    return [(name, seed, 0, epoch, 10 * epoch, value) for epoch, value in enumerate(rmse, 1)]


def test_the_updates_to_the_same_error_are_compared(tmp_path: Path) -> None:
    measure.record(tmp_path, rows("random", 0, PLAIN))
    measure.record(tmp_path, rows("bundle", 0, WARM))
    measure.record(tmp_path, rows("random", 1, PLAIN))
    measure.record(tmp_path, rows("bundle", 1, [9.0] * 7))
    measure.record(tmp_path, rows("random", 2, PLAIN))
    measure.record(tmp_path, rows("bundle", 2, WARM[:3]))  # broken off
    runs = measure.finished(tmp_path, 7)
    assert len(runs) == 5
    told = measure.summary(runs, "flights")
    first, second = told["pairs"]
    assert (first["target_rmse"], first["updates_random"], first["updates_bundle"]) == (5.1, 40, 20)
    assert second["updates_bundle"] is None
    assert (told["compared"], told["bundle_never_arrived"], told["median_share_of_updates_saved"]) == (1, 1, 0.5)
    measure.plot(runs, "flights", tmp_path / "transfer.svg")
    assert (tmp_path / "transfer.svg").read_text().count("<path") > 5
