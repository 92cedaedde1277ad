"""Small files that are kept between starts: what cannot be read counts as absent, and what is written is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_rul.kept import load, save


@pytest.mark.parametrize("content", [b"", b"{", b'["a"', b'{"a": 1}', b"[1]", b'["\xff"]', None], ids=repr)
def test_what_cannot_be_read_counts_as_absent(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "kept.json"
    if content is not None:
        path.write_bytes(content)
    assert load(path, list[str]) is None


def test_what_was_saved_is_loaded_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    for value in (["a", "ä"], []):
        save(path, value)
        assert load(path, list[str]) == value
    assert list(tmp_path.iterdir()) == [path]
