"""A file is written whole or not at all, and who may read it is settled before it holds anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_rul import whole_file
from edge_rul.whole_file import write_whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("call", ["fchmod", "fsync"])
def test_a_write_that_fails_leaves_the_old_content_and_no_draft(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new", mode=0o644)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_mistake_in_the_data_leaves_no_draft_either(path: Path) -> None:
    with pytest.raises(TypeError):
        write_whole(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_is_set_whatever_the_umask_and_the_old_file_say(path: Path) -> None:
    path.chmod(0o666)
    before = os.umask(0o077)
    try:
        write_whole(path, b"new", mode=0o644)
        assert path.stat().st_mode & 0o777 == 0o644
        write_whole(path, b"secret", mode=0o600)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_without_a_mode_the_umask_alone_decides(path: Path, umask: int) -> None:
    """The service's umask is 077: nothing that the daemon keeps is anybody else's to read."""
    path.chmod(0o666)
    before = os.umask(umask)
    try:
        write_whole(path, b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_nobody_else_may_read_a_draft(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    chmod = os.fchmod

    def look(handle: int, mode: int) -> None:
        seen.append(os.fstat(handle).st_mode & 0o777)
        chmod(handle, mode)

    monkeypatch.setattr(whole_file.os, "fchmod", look)
    write_whole(path, b"secret", mode=0o600)
    assert seen == [0o600]


@pytest.mark.parametrize("durable", [True, False])
def test_the_content_is_on_the_disk_before_it_has_the_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    seen = []
    monkeypatch.setattr(whole_file.os, "fsync", lambda _: seen.append(path.read_bytes()))
    write_whole(path, b"new", durable=durable)
    assert seen == [b"old"] * durable
    assert path.read_bytes() == b"new"
