"""The unit file, and what the daemon tells a service manager that listens as systemd does."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import paho.mqtt.publish
import pytest
from conftest import ROOT, Broker, absent, free_port, start_mosquitto

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul import daemon
from edge_rul.adapters import systemd
from edge_rul.bundle import Bundle, Golden
from edge_rul.cli import _parser
from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, EXIT_TAKEOVER

UNIT = ROOT / "systemd" / "edge-rul.service"


def unit() -> dict[str, list[str]]:
    """The assignments of the unit by key; comments are left out, and a section's name is not needed."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


# -- the unit --------------------------------------------------------------------------------------------------------


@pytest.fixture
def analyze(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """systemd-analyze on a copy of the unit whose program is one that exists: it insists on that."""
    program = shutil.which("systemd-analyze")
    if program is None:
        absent("systemd-analyze (apt-get install systemd)")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *arguments, str(copy)], capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_systemd_accepts_the_unit(analyze: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = analyze("verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "warnings count too"


def test_the_service_may_do_little(analyze: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager")
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250 or later")
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_unit_starts_a_command_that_there_is() -> None:
    (start,) = unit()["ExecStart"]
    program, *arguments = shlex.split(start)
    assert Path(program).name == "edge-rul"
    args = _parser().parse_args(arguments)
    assert (args.command, args.config) == ("run", Path("/etc/edge-rul/edge-rul.yaml"))


def test_the_unit_and_the_daemon_agree() -> None:
    found = unit()
    assert found["Type"] == ["notify"]
    assert found["NotifyAccess"] == ["main"]
    assert {int(code) for code in found["RestartPreventExitStatus"][0].split()} == {EXIT_TAKEOVER, EXIT_CONFIG}
    assert found["Restart"] == ["on-failure"]
    assert found["StartLimitIntervalSec"] == ["0"]
    # The drain, and the first connection, which is waited for where a stop comes early.
    assert int(found["TimeoutStopSec"][0]) > daemon._DRAIN + 10 + 2
    assert not [key for key in found if key.startswith("Watchdog")], "the daemon sends no WATCHDOG=1 yet"
    assert "ExecReload" not in found, "the daemon does not reload yet"


# -- sd_notify -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address in NOTIFY_SOCKET, and the socket on which a service manager would listen."""
    name = f"edge-rul-test-{os.getpid()}"
    address, bound = (f"@{name}", f"\0{name}") if request.param == "abstract" else (str(tmp_path / "notify"),) * 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(bound)
        yield address, sock


def test_notify_sends_one_datagram(manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager[0])
    assert systemd.notify("READY=1", "STATUS=serving") is True
    assert manager[1].recv(4096) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody-listens-here", "x" * 200])
def test_notify_without_a_manager_does_nothing(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert systemd.notify("READY=1") is False


# -- the daemon under a manager --------------------------------------------------------------------------------------


_COMMAND = "import sys; from edge_rul.cli import main; sys.exit(main())"


class Service:
    """`edge-rul run` as a manager starts it."""

    def __init__(self, directory: Path, bundle: Path, port: int, address: str, prelude: str = "") -> None:
        """prelude: Python that runs before the command."""
        config = directory / "edge-rul.yaml"
        config.write_text(
            f"bundle: {bundle}\nmqtt: {{port: {port}}}\ntopics: {{readings: ['plant/{{asset}}/cycle']}}\n"
            "engine: {name: onnxruntime}\nlog: {format: json}\n"
        )
        self.log = directory / "daemon.log"
        self._out: IO[bytes] = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{prelude}\n{_COMMAND}", "run", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": address, "STATE_DIRECTORY": str(directory / "state")},
            stdout=self._out,
            stderr=self._out,
        )

    def told(self, sock: socket.socket) -> list[str]:
        """The next datagram's assignments; fails with the log where the process ends without one."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([sock, pidfd], [], [], 60)
        finally:
            os.close(pidfd)
        if sock not in ready:
            pytest.fail(f"{'nothing in 60 s' if not ready else 'ended without a word'}:\n{self.events()}")
        return sock.recv(4096).decode().split("\n")

    def events(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._out.close()


@pytest.fixture
def start(tmp_path: Path, manager: tuple[str, socket.socket]) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(bundle: Path, port: int, prelude: str = "") -> Service:
        services.append(Service(tmp_path, bundle, port, manager[0], prelude))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture(params=["broker", "no broker"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    if request.param == "no broker":
        yield free_port()
        return
    broker: Broker = start_mosquitto(tmp_path)
    yield broker.port
    broker.process.terminate()
    broker.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_and_stopping_arrive_whether_or_not_a_broker_is_there(
    start: Callable[..., Service],
    manager: tuple[str, socket.socket],
    tiny_bundle: Bundle,
    port: int,
    number: signal.Signals,
) -> None:
    service = start(tiny_bundle.path, port)
    assert service.told(manager[1]) == ["READY=1", "STATUS=serving tiny on onnxruntime"], service.events()
    assert service.process.poll() is None
    # What systemd counts on at READY: the model was checked, and a connection was tried.
    assert '"event": "verified"' in service.events()
    assert ('"event": "connected"' in service.events()) != ('"event": "connect_failed"' in service.events())
    service.process.send_signal(number)
    assert service.told(manager[1]) == ["STOPPING=1"], service.events()
    assert service.process.wait(30) == 0, service.events()
    assert '"event": "stopped"' in service.events()


def test_a_daemon_that_cannot_serve_never_says_ready(
    start: Callable[..., Service], manager: tuple[str, socket.socket], tmp_path: Path
) -> None:
    parts = bundle_parts()
    golden = parts["golden"]
    lying = Golden(golden.windows, golden.rul + np.float32(1), golden.logits)
    bundle = bundles.write(tmp_path / "lying", **{**parts, "golden": lying})
    service = start(bundle.path, free_port())
    assert service.process.wait(60) == EXIT_CONFIG
    manager[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        manager[1].recv(4096)


def test_an_engine_that_fails_at_work_is_not_the_operators_fault(
    start: Callable[..., Service], manager: tuple[str, socket.socket], mosquitto: Broker, tiny_bundle: Bundle
) -> None:
    """At the start an engine that refuses is 78, and systemd leaves it; later it is 70, and systemd starts it anew."""
    prelude = """
from edge_rul.adapters import systemd
from edge_rul.engines.onnxruntime import OnnxRuntimeEngine as Engine
from edge_rul.errors import EngineError

infer, notify, ready = Engine.infer, systemd.notify, []

def failing(self, x):
    if ready and len(x):
        raise EngineError("infer", "onnxruntime", "out of memory")
    return infer(self, x)

def notify_and_break(*told):
    ready.append(told)
    return notify(*told)

Engine.infer, systemd.notify = failing, notify_and_break
"""
    service = start(tiny_bundle.path, mosquitto.port, prelude)
    assert service.told(manager[1])[0] == "READY=1"
    # READY does not wait for the broker's answer to the subscription, so that the first readings may find nobody.
    for cycle in range(600):
        payload = f'{{"cycle": {cycle}, "values": [10, 20, 30]}}'
        paho.mqtt.publish.single("plant/one/cycle", payload, qos=1, hostname="127.0.0.1", port=mosquitto.port)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(0.1)
            break
    assert service.process.poll() == EXIT_INTERNAL, service.events()
    assert "infer: onnxruntime: out of memory" in service.events()
