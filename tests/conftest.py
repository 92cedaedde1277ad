"""What the tests share: where the data is, a broker, a small bundle.

A test that needs what is absent is skipped with the reason; under CI=true what CI must have is required.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import hypothesis
import pytest
import structlog

from bundles import make_bundle
from edge_rul.bundle import Bundle

ROOT = Path(__file__).parent.parent

# Nothing of a test lands in the user's own cache or state: children inherit these.
_HOME = tempfile.mkdtemp(prefix="edge-rul-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["XDG_CACHE_HOME"], os.environ["XDG_STATE_HOME"] = f"{_HOME}/cache", f"{_HOME}/state"

# torch's threads spin while they wait, which costs seconds a step where anything else runs. Read at torch's import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No deadline: a slow machine is no failure.
hypothesis.settings.register_profile("edge_rul", deadline=None)
hypothesis.settings.load_profile("edge_rul")


def absent(what: str) -> NoReturn:
    """Skip, or under CI=true fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that ran inside the test configures structlog to write to a stream that ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The root of the shared data: EDGE_RUL_DATA, or ../shared/data beside the repository."""
    path = Path(os.environ.get("EDGE_RUL_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "cmapss").is_dir():
        absent("the shared data (EDGE_RUL_DATA)")
    return path


@pytest.fixture(scope="session")
def shipped_bundle() -> Path:
    """The trained bundle of the repository."""
    return ROOT / "bundles" / "cmapss_fd001"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of `bundles.make_bundle`, 3 inputs and a window of 5. For reading only; copy it to alter it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Broker(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def start_mosquitto(directory: Path, settings: str = "allow_anonymous true", port: int | None = None) -> Broker:
    """A Mosquitto on loopback with `settings`; returns once it accepts connections."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        absent("mosquitto (apt-get install mosquitto)")
    port = port or free_port()
    config = directory / f"mosquitto-{port}.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nmax_queued_messages 1000000\nmax_queued_bytes 0\n"
        f"max_inflight_messages 5000\nuser {os.environ.get('USER', 'root')}\n{settings}\n"
    )
    log = directory / f"mosquitto-{port}.log"
    with log.open("ab") as out:
        process = subprocess.Popen([str(program), "-c", str(config)], stdout=out, stderr=out)
    wait_for_port(port, process, log)
    return Broker(port, process, log)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once something listens on `port`; fail with the log if the process ends before."""
    for _ in range(6000):
        with socket.socket() as sock:
            sock.settimeout(0.05)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        break
    process.kill()
    pytest.fail(f"nothing listens on port {port}:\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    broker = start_mosquitto(tmp_path)
    yield broker
    broker.process.terminate()
    broker.process.wait(10)
