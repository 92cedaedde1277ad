"""Where built engines and measurements are kept between starts.

Owns the directory: its default place, the names in it, writing whole or not at all, what makes an entry valid, and
what happens to one that is not. Must not know TensorRT, ONNX Runtime or a GPU: an engine is bytes in here, and
whoever builds or loads it is a function that is passed in.

An entry is two files, NAME.engine and NAME.json, its sidecar. NAME holds a digest of the facts that make the engine
valid, so that another version, GPU, driver or bundle looks for another entry; the sidecar holds the facts themselves
and the engine's sha256. The sidecar is written last: an engine without one was never finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from edge_rul.engines import Say
from edge_rul.errors import EngineError
from edge_rul.whole_file import write_whole

T = TypeVar("T")

SCHEMA = "edge-rul/engine/1"
_WAIT = 0.2  # seconds between two looks at a lock that another process holds


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The batch sizes that an engine is built for."""

    min: int
    opt: int
    max: int


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an engine depends on: where one differs, it is another engine.

    bundle: sha256. flavour, version: of TensorRT. gpu: its name, or "any" for an engine built for a target ahead of
    time. compute_capability: as "8.9". driver: CUDA's driver version, "any" where the engine does not depend on it.
    """

    bundle: str
    flavour: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    precision: str
    profile: Profile

    @property
    def name(self) -> str:
        digest = hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()
        return f"{self.flavour}-{self.precision}-{digest[:20]}"


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside an engine. built: UTC. parity: largest differences from the golden answers, where it ran."""

    schema: str
    facts: Facts
    sha256: str
    bytes: int
    built: str
    build_seconds: float
    parity: dict[str, float] | None = None


class Unusable(Exception):
    """Raised by a loader: these bytes are no engine for this machine, and another build may help."""


class Entry(NamedTuple):
    engine: Path
    sidecar: Path


def default_directory() -> Path:
    """systemd's CacheDirectory, else the user's cache."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-rul"


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all, and its directory before it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, mode=0o644)  # built by an administrator, read by the daemon's user


def store(entry: Entry, facts: Facts, blob: bytes, seconds: float) -> None:
    """Write an engine and its sidecar. Raises OSError."""
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    digest = hashlib.sha256(blob).hexdigest()
    sidecar = Sidecar(SCHEMA, facts, digest, len(blob), built, round(seconds, 2))
    entry.sidecar.unlink(missing_ok=True)  # it would vouch for an engine that is being replaced
    keep(entry.engine, blob)
    keep(entry.sidecar, _json(sidecar))


def note_parity(entry: Entry, parity: dict[str, float]) -> None:
    """Put the figures into the sidecar of an engine that is kept, if it has none. Raises OSError."""
    sidecar = msgspec.json.decode(entry.sidecar.read_bytes(), type=Sidecar)
    if sidecar.parity is None:
        keep(entry.sidecar, _json(msgspec.structs.replace(sidecar, parity=parity)))


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def check(entry: Entry, facts: Facts) -> bytes | None:
    """The entry's engine if it is whole and valid for `facts`, None where there is none. Raises Unusable."""
    try:
        text, blob = entry.sidecar.read_bytes(), entry.engine.read_bytes()
    except FileNotFoundError:
        if entry.engine.exists() or entry.sidecar.exists():
            raise Unusable("one of the two files is missing: the write was cut short") from None
        return None
    try:
        sidecar = msgspec.json.decode(text, type=Sidecar)
    except ValueError as e:
        raise Unusable(f"the sidecar cannot be read: {e}") from None
    if sidecar.schema != SCHEMA:
        raise Unusable(f"the sidecar is of {sidecar.schema!r}, this version reads {SCHEMA!r}")
    if sidecar.facts != facts:
        mine, its = msgspec.to_builtins(facts), msgspec.to_builtins(sidecar.facts)
        other = ", ".join(f"{key} {its[key]!r} in place of {mine[key]!r}" for key in mine if its[key] != mine[key])
        raise Unusable(f"it was built for {other}")
    if len(blob) != sidecar.bytes or hashlib.sha256(blob).hexdigest() != sidecar.sha256:
        raise Unusable(f"{len(blob)} bytes, not the {sidecar.bytes} that were written, or altered ones")
    return blob


class EngineCache:
    """The engines in one directory. One that cannot be written serves what it holds, and keeps nothing new."""

    def __init__(self, directory: Path, say: Say) -> None:
        self.directory = directory
        self._say = say

    def entry(self, facts: Facts) -> Entry:
        return Entry(self.directory / f"{facts.name}.engine", self.directory / f"{facts.name}.json")

    def open(
        self,
        facts: Facts,
        load: Callable[[bytes], T],
        build: Callable[[], bytes] | None,
        *,
        command: str,
        waiting: Callable[[], None] = lambda: None,
    ) -> T:
        """What `load` makes of the engine for `facts`: the one that is here, or a new one of `build`.

        load raises Unusable where the runtime refuses the bytes. build: None for `build: never`. command: where and by
        what the engine is built, for the error's hint. waiting: called while another process builds the same engine.
        Raises EngineError, and what load and build raise.
        """
        entry = self.entry(facts)
        with self.alone(entry, waiting) as refusal:
            try:
                blob = check(entry, facts)
                if blob is not None:
                    return load(blob)
                why = "is not in the cache"
            except Unusable as e:
                why = f"was set aside: {e}"
                self._set_aside(entry, str(e), refusal)
            except OSError as e:
                why = f"cannot be read: {e.strerror}"
            if build is None:
                problem = f"the engine {entry.engine.name} {why}, and build is `never`"
                raise EngineError("open engine", str(self.directory), problem, hint=f"build it {command}")
            self._say(f"building {entry.engine.name}: it {why}")
            began = time.monotonic()
            blob = build()
            seconds = time.monotonic() - began
            try:
                made = load(blob)
            except Unusable as e:
                raise EngineError("open engine", entry.engine.name, f"is refused though it was just built: {e}") from e
            self._keep(entry, facts, blob, seconds, refusal)
            return made

    def _keep(self, entry: Entry, facts: Facts, blob: bytes, seconds: float, refusal: OSError | None) -> None:
        try:
            if refusal is not None:
                raise refusal
            store(entry, facts, blob, seconds)
            self._say(f"built {entry.engine.name} in {seconds:.1f} s, {len(blob) / 1e6:.1f} MB")
        except OSError as e:
            self._say(
                f"built {entry.engine.name} in {seconds:.1f} s, but {self.directory} cannot keep it: {e.strerror}; "
                "the next start builds it again"
            )

    def _set_aside(self, entry: Entry, why: str, refusal: OSError | None) -> None:
        """Rename the entry's files to NAME.bad, for a person to look at. The last one of a name is kept."""
        if refusal is None:
            try:
                for path in entry:
                    with contextlib.suppress(FileNotFoundError):
                        path.replace(path.with_name(path.name + ".bad"))
                self._say(f"engine {entry.engine.name} is set aside as {entry.engine.name}.bad: {why}")
                return
            except OSError as e:
                why = f"{why}; {self.directory} does not let it be set aside: {e.strerror}"
        self._say(f"engine {entry.engine.name} is passed over: {why}")

    @contextlib.contextmanager
    def alone(self, entry: Entry, waiting: Callable[[], None] = lambda: None) -> Iterator[OSError | None]:
        """Alone with the entry, among processes too; yields what keeps the directory from being written, if anything.

        waiting: called while another process is. Not to be nested for one entry.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # It stays: removing it would let two processes lock two files of one name.
            lock = self.directory / f"{entry.engine.stem}.lock"
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)  # NFS locks no other
            except PermissionError:
                if not lock.exists():
                    raise
                # Somebody else made it, and elsewhere to read is enough.
                handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            yield e
            return
        try:
            told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        self._say(f"waiting for another process that builds {entry.engine.name}")
                        told = True
                    waiting()
                    time.sleep(_WAIT)
            refused = errno.EACCES
            yield None if os.access(self.directory, os.W_OK) else PermissionError(refused, os.strerror(refused))
        finally:
            os.close(handle)  # and with it the lock


def write_json(path: Path, value: Any, say: Say) -> None:
    """Keep a measurement; a directory that refuses costs another measurement at the next start, and a word."""
    try:
        keep(path, _json(value))
    except OSError as e:
        say(f"{path.parent} cannot keep {path.name}: {e.strerror}")
