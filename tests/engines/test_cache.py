"""The engine cache without an engine: a builder that writes bytes, and a loader that knows its own."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge_rul.engines.cache import (
    EngineCache,
    Facts,
    Profile,
    Sidecar,
    Unusable,
    check,
    default_directory,
    store,
    write_json,
)
from edge_rul.errors import EXIT_CONFIG, EngineError
from edge_rul.kept import load

FACTS = Facts("ab" * 32, "tensorrt", "10.3.0", "Orin", "8.7", "12.6", "float16", Profile(1, 32, 32))
COMMAND = "edge-rul compile b"


class Builder:
    """Writes an engine that says which build it is, and loads what begins like one."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.cache = EngineCache(directory, self.said.append)
        self.builds = 0

    def build(self) -> bytes:
        self.builds += 1
        return b"engine %d" % self.builds

    def load(self, blob: bytes) -> str:
        if not blob.startswith(b"engine"):
            raise Unusable("no engine")
        return blob.decode()

    def open(self, facts: Facts = FACTS, *, never: bool = False) -> str:
        return self.cache.open(facts, self.load, None if never else self.build, command=COMMAND)


@pytest.fixture
def box(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "cache")


def test_a_miss_builds_and_a_hit_does_not(box: Builder) -> None:
    assert [box.open(), box.open(), box.open(never=True)] == ["engine 1"] * 3
    assert box.builds == 1
    entry = box.cache.entry(FACTS)
    sidecar = msgspec.json.decode(entry.sidecar.read_bytes(), type=Sidecar)
    assert (sidecar.facts, sidecar.bytes) == (FACTS, entry.engine.stat().st_size)
    assert stat.S_IMODE(entry.engine.stat().st_mode) == 0o644, "the daemon's user reads what an administrator built"


@pytest.mark.parametrize("field", Facts.__struct_fields__)
def test_each_fact_is_part_of_the_key(box: Builder, field: str) -> None:
    other = Profile(1, 16, 32) if field == "profile" else getattr(FACTS, field) + "0"
    changed = msgspec.structs.replace(FACTS, **{field: other})
    box.open()
    assert box.open(changed) == "engine 2"
    assert box.open() == "engine 1", "the first one is still there"


def test_never_is_an_error_that_names_the_command(box: Builder) -> None:
    with pytest.raises(EngineError, match="is not in the cache, and build is `never`") as caught:
        box.open(never=True)
    assert caught.value.hint == f"build it {COMMAND}"
    assert caught.value.exit_code == EXIT_CONFIG
    assert box.builds == 0


def truncate(engine: Path, sidecar: Path) -> None:
    os.truncate(engine, 3)


def empty(engine: Path, sidecar: Path) -> None:
    engine.write_bytes(b"")


def flip(engine: Path, sidecar: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[0] ^= 1
    engine.write_bytes(data)


def no_engine(engine: Path, sidecar: Path) -> None:
    engine.unlink()


def no_sidecar(engine: Path, sidecar: Path) -> None:
    sidecar.unlink()


def no_json(engine: Path, sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes()[:40])


def other_version(engine: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text().replace('"10.3.0"', '"10.7.0"'))


def other_schema(engine: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text().replace("edge-rul/engine/1", "edge-rul/engine/0"))


def refused(engine: Path, sidecar: Path) -> None:
    """Whole, and valid by the sidecar, but the runtime does not take it."""
    engine.unlink()
    sidecar.unlink()
    from edge_rul.engines.cache import Entry

    store(Entry(engine, sidecar), FACTS, b"something else", 1.0)


DAMAGE: dict[Callable[[Path, Path], None], str] = {
    truncate: "3 bytes, not the 8",
    empty: "0 bytes, not the 8",
    flip: "or altered ones",
    no_engine: "one of the two files is missing",
    no_sidecar: "one of the two files is missing",
    no_json: "the sidecar cannot be read",
    other_version: "it was built for version '10.7.0' in place of '10.3.0'",
    other_schema: "edge-rul/engine/0",
    refused: "no engine",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_what_is_damaged_or_of_another_version_is_set_aside_told_and_rebuilt(
    box: Builder, damage: Callable[[Path, Path], None]
) -> None:
    box.open()
    entry = box.cache.entry(FACTS)
    damage(*entry)
    left = [path.name for path in entry if path.exists()]
    box.said.clear()
    assert box.open() == "engine 2"
    assert DAMAGE[damage] in box.said[0]
    assert sorted(p.name for p in box.cache.directory.glob("*.bad")) == sorted(f"{name}.bad" for name in left)
    assert box.open(never=True) == "engine 2"


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_with_never_the_error_says_what_is_wrong(box: Builder, damage: Callable[[Path, Path], None]) -> None:
    box.open()
    damage(*box.cache.entry(FACTS))
    with pytest.raises(EngineError, match="was set aside") as caught:
        box.open(never=True)
    assert DAMAGE[damage] in str(caught.value)


def test_only_the_last_damaged_one_is_kept(box: Builder) -> None:
    for n in range(1, 4):
        assert box.open() == f"engine {n}"
        truncate(*box.cache.entry(FACTS))
    assert len(list(box.cache.directory.glob("*.bad"))) == 2


def test_a_build_that_fails_leaves_no_entry(box: Builder) -> None:
    def fail() -> bytes:
        raise EngineError("compile", "x", "no")

    with pytest.raises(EngineError, match="compile: x: no"):
        box.cache.open(FACTS, box.load, fail, command=COMMAND)
    assert check(box.cache.entry(FACTS), FACTS) is None
    assert box.open() == "engine 1"


def test_an_engine_that_does_not_load_is_not_kept(box: Builder) -> None:
    with pytest.raises(EngineError, match="refused though it was just built"):
        box.cache.open(FACTS, box.load, lambda: b"nonsense", command=COMMAND)
    assert check(box.cache.entry(FACTS), FACTS) is None


# -- a directory that cannot be written -----------------------------------------------------------------------------

# root may write anywhere, so the directory is one that nobody can write: a file's name, or /proc's.


@pytest.fixture
def read_only(box: Builder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    """The cache with one engine in it, whose directory answers "read-only" to whoever writes."""
    box.open()
    from edge_rul.engines import cache

    refusal = OSError(30, "Read-only file system")

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    real_open = os.open

    def guarded(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if str(path).startswith(str(box.cache.directory)) and flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise refusal
        return real_open(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cache.os, "open", guarded)
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    box.said.clear()
    return box


def test_a_read_only_directory_serves_what_it_holds(read_only: Builder) -> None:
    assert read_only.open(never=True) == "engine 1"
    assert read_only.said == []


def test_a_read_only_directory_costs_a_build_at_each_start_and_says_so(read_only: Builder) -> None:
    other = msgspec.structs.replace(FACTS, version="11.4")
    assert read_only.open(other) == "engine 2"
    assert "cannot keep it: Read-only file system" in read_only.said[-1]
    assert "next start builds it again" in read_only.said[-1]
    assert read_only.open(other) == "engine 3"


def test_a_damaged_engine_in_a_read_only_directory_is_passed_over(read_only: Builder) -> None:
    truncate(*read_only.cache.entry(FACTS))
    assert read_only.open() == "engine 2"
    assert "is passed over: 3 bytes, not the 8" in read_only.said[0]
    assert list(read_only.cache.directory.glob("*.bad")) == []


def test_a_damaged_engine_that_may_not_be_renamed_is_passed_over(box: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is ours from a time when the directory was."""
    box.open()
    truncate(*box.cache.entry(FACTS))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    box.said.clear()
    assert box.open() == "engine 2"
    assert "is passed over: 3 bytes, not the 8" in box.said[0]
    assert "does not let it be set aside: Permission denied" in box.said[0]


def test_a_lock_that_somebody_else_made_is_enough(box: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root's is for the daemon's user, who may read it and no more."""
    box.cache.directory.mkdir()
    with box.cache.alone(box.cache.entry(FACTS)):
        pass
    real = os.open

    def guarded(path: object, flags: int, *more: int) -> int:
        if str(path).endswith(".lock") and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("edge_rul.engines.cache.os.open", guarded)
    assert box.open() == "engine 1"


def test_a_lock_is_open_for_writing_where_it_may(box: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS gives an exclusive lock to no other."""
    locked = []
    real = fcntl.flock
    monkeypatch.setattr(
        "edge_rul.engines.cache.fcntl.flock",
        lambda handle, how: locked.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE) or real(handle, how),
    )
    assert box.open() == "engine 1"
    assert set(locked) == {os.O_RDWR}


def test_a_real_read_only_directory(tmp_path: Path) -> None:
    """As another user where we are root, whom permissions do not stop."""
    box = Builder(tmp_path / "cache")
    box.open()
    box.cache.directory.chmod(0o555)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from edge_rul.engines.cache import EngineCache, Facts\n"
        "import msgspec\n"
        "if os.geteuid() == 0:\n"
        "    os.setgid(65534); os.setuid(65534)\n"
        "facts = msgspec.json.decode(sys.argv[2], type=Facts)\n"
        "cache = EngineCache(Path(sys.argv[1]), print)\n"
        "print(cache.open(facts, bytes.decode, None, command=''))\n"
        "facts = msgspec.structs.replace(facts, version='11.4')\n"
        "print(cache.open(facts, bytes.decode, lambda: b'new', command=''))\n"
    )
    for parent in (tmp_path, *tmp_path.parents):  # pytest's directories are its user's alone
        if parent.owner() == tmp_path.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    try:
        facts = msgspec.json.encode(FACTS).decode()
        done = subprocess.run(
            [sys.executable, "-c", code, str(box.cache.directory), facts], capture_output=True, text=True, check=False
        )
    finally:
        box.cache.directory.chmod(0o755)
    if "Permission denied" in done.stderr and "edge_rul" in done.stderr:
        pytest.skip("another user cannot read this environment")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "engine 1"
    assert lines[-1] == "new"
    assert "Permission denied" in lines[-2]


def test_a_full_disk_costs_a_build_at_each_start_and_leaves_no_draft(
    box: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_rul.whole_file.os.fsync", full)
    assert [box.open(), box.open()] == ["engine 1", "engine 2"]
    assert "cannot keep it: No space left on device" in box.said[-1]
    assert [path.suffix for path in box.cache.directory.iterdir()] == [".lock"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = Builder(tmp_path / "file" / "cache")
    assert box.open() == "engine 1"
    assert "cannot keep it" in box.said[-1]


# -- two that start together ----------------------------------------------------------------------------------------


def _start(directory: Path, gate: object, results: object) -> None:
    """One daemon's start. Its build takes until the other one has been seen to wait, or is not there."""
    box = Builder(directory)

    def build() -> bytes:
        results.put("built")  # type: ignore[attr-defined]
        gate.wait(10)  # type: ignore[attr-defined]
        return b"engine of one"

    results.put(  # type: ignore[attr-defined]
        box.cache.open(FACTS, box.load, build, command=COMMAND, waiting=gate.set)  # type: ignore[attr-defined]
    )


def test_two_processes_that_start_together_build_once_and_both_serve(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate, results = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=_start, args=(tmp_path / "cache", gate, results)) for _ in range(2)]
    for process in processes:
        process.start()
    got = [results.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(got) == ["built", "engine of one", "engine of one"]
    assert check(EngineCache(tmp_path / "cache", print).entry(FACTS), FACTS) == b"engine of one"


def test_a_process_that_dies_while_it_builds_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; import msgspec\n"
        "from edge_rul.engines.cache import EngineCache, Facts\n"
        "facts = msgspec.json.decode(sys.argv[2], type=Facts)\n"
        "EngineCache(Path(sys.argv[1]), print).open(facts, bytes.decode, lambda: os._exit(9), command='')\n"
    )
    box = Builder(tmp_path / "cache")
    arguments = [sys.executable, "-c", code, str(box.cache.directory), msgspec.json.encode(FACTS).decode()]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 9
    assert box.open() == "engine 1"


# -- small things ---------------------------------------------------------------------------------------------------


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/op")
    assert default_directory() == Path("/home/op/.cache/edge-rul")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_directory() == Path("/x/edge-rul")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/edge-rul:/var/cache/other")
    assert default_directory() == Path("/var/cache/edge-rul")


def test_a_measurement_is_kept_or_it_is_said_that_it_cannot_be(tmp_path: Path) -> None:
    said: list[str] = []
    write_json(tmp_path / "p.json", Profile(1, 2, 3), said.append)
    assert load(tmp_path / "p.json", Profile) == Profile(1, 2, 3)
    assert said == []
    write_json(tmp_path / "p.json" / "q.json", Profile(1, 2, 3), said.append)
    assert "cannot keep q.json" in said[0]
