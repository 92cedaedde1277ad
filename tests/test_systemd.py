"""The unit file, and what the daemon tells a service manager that listens as systemd does."""

from __future__ import annotations

import contextlib
import ctypes
import json
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
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import paho.mqtt.publish
import pytest
from conftest import ROOT, Broker, absent, free_port, start_mosquitto

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.adapters import systemd
from edge_rul.adapters.kernel_clock import synchronised
from edge_rul.bundle import Bundle, Golden
from edge_rul.cli import _parser
from edge_rul.config import ServiceSettings
from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, EXIT_TAKEOVER

UNIT = ROOT / "systemd" / "edge-rul.service"
DROP_INS = sorted((ROOT / "systemd" / "edge-rul.service.d").glob("*.conf"))
# One of the first four goes with the unit, and the credentials with all; the most that systemd may say of its exposure.
LIMITS = {"10-cpu": 1.5, "10-cpu-onnxruntime": 1.5, "10-gpu-desktop": 2.0, "10-gpu-jetson": 2.0}


def assignments(*files: Path) -> dict[str, list[str]]:
    """The assignments of a unit and its drop-ins by key; comments are left out, and a section's name is not needed."""
    found: dict[str, list[str]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            if match := re.fullmatch(r"(\w+)=(.*)", line):
                found.setdefault(match[1], []).append(match[2])
    return found


def unit() -> dict[str, list[str]]:
    return assignments(UNIT)


# -- the unit --------------------------------------------------------------------------------------------------------


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        absent("systemd-analyze (apt-get install systemd)")
    command = [str(program), "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def placed(root: Path, drop_in: str | None) -> Path:
    """The unit below `root` with this drop-in and the credentials, all open, as systemd would merge them."""
    units = root / "etc" / "systemd" / "system"
    folder = units / f"{UNIT.name}.d"
    folder.mkdir(parents=True)
    # The program must be one that exists.
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text())
    (units / UNIT.name).write_text(text)
    for source in DROP_INS:
        if source.stem == drop_in or source.stem.startswith("20-"):
            (folder / source.name).write_text(re.sub(r"(?m)^#(LoadCredential=)", r"\1", source.read_text()))
    return units / UNIT.name


def exposure(root: Path) -> float:
    done = analyze("security", "--offline=true", f"--root={root}", UNIT.name)
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250 or later")
    match = re.search(r"Overall exposure level for \S+ ([\d.]+)", done.stdout)
    assert match, done.stderr
    return float(match[1])


def test_the_drop_ins_are_known() -> None:
    assert {path.stem for path in DROP_INS} == {*LIMITS, "20-credentials"}


@pytest.mark.parametrize("drop_in", [None, *LIMITS])
def test_systemd_accepts_the_unit(tmp_path: Path, drop_in: str | None) -> None:
    done = analyze("verify", str(placed(tmp_path, drop_in)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "warnings count too"


def test_systemd_is_asked_about_the_drop_ins_too(tmp_path: Path) -> None:
    copy = placed(tmp_path, "10-cpu")
    (copy.parent / f"{UNIT.name}.d" / "10-cpu.conf").write_text("[Service]\nPrivateDevice=yes\n")
    assert "10-cpu.conf:2: Unknown key" in analyze("verify", str(copy)).stderr


@pytest.mark.parametrize("drop_in", LIMITS)
def test_the_service_may_do_little(tmp_path: Path, drop_in: str) -> None:
    placed(tmp_path, drop_in)
    score = exposure(tmp_path)
    assert score <= LIMITS[drop_in]
    documented = re.search(rf"(?m)^\| `{drop_in}\.conf` .*\| ([\d.]+) \|$", (ROOT / "docs" / "service.md").read_text())
    assert documented, "docs/service.md has a row for each drop-in"
    if analyze("--version").stdout.startswith("systemd 252 "):  # which measured them; others weigh otherwise
        assert float(documented[1]) == score


def test_a_score_is_of_unit_and_drop_in_together(tmp_path: Path) -> None:
    for name in (None, "10-cpu-onnxruntime"):
        placed(tmp_path / str(name), name)
    assert exposure(tmp_path / "None") > exposure(tmp_path / "10-cpu-onnxruntime")


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
    assert int(found["TimeoutStopSec"][0]) > ServiceSettings().drain_seconds + 10 + 2
    # A turn of the worker waits a second at most, and what stands is noticed once its own deadline has passed.
    assert int(found["WatchdogSec"][0]) / 4 > 1
    sources = "".join(path.read_text() for path in (ROOT / "edge_rul").rglob("*.py"))
    assert ("WatchdogSec" in found) == ('"WATCHDOG=1"' in sources), "a watchdog is asked for where it is fed"
    assert ("ExecReload" in found) == ("SIGHUP" in sources), "a HUP is sent where it does not end the daemon"


@pytest.mark.parametrize("drop_in", LIMITS)
def test_memory_and_tasks_are_limited_and_the_directories_are_the_services_own(drop_in: str) -> None:
    found = assignments(UNIT, UNIT.parent / f"{UNIT.name}.d" / f"{drop_in}.conf")
    assert int(found["TasksMax"][-1]) >= 64
    assert re.fullmatch(r"\d+[MG%]", found["MemoryMax"][-1])
    assert found["LimitCORE"] == ["0"], "a core dump holds secrets"
    for directory in ("Configuration", "State", "Cache"):
        assert found[f"{directory}Directory"] == ["edge-rul"]
    assert found["StateDirectoryMode"] == found["CacheDirectoryMode"] == ["0700"]
    assert (found["User"], found["NoNewPrivileges"]) == (["edge-rul"], ["yes"])


def test_gpus_are_seen_and_nothing_else() -> None:
    for name in ("10-gpu-desktop", "10-gpu-jetson"):
        found = assignments(UNIT, UNIT.parent / f"{UNIT.name}.d" / f"{name}.conf")
        assert found["PrivateDevices"] == ["no"]
        assert found["DevicePolicy"] == ["closed"]
        assert found["DeviceAllow"]
        # systemd knows wildcards in the names of /proc/devices only; in a path they would be passed over in silence.
        assert not [line for line in found["DeviceAllow"] if line.startswith("/") and "*" in line]


# -- what a sandbox does to the engines ------------------------------------------------------------------------------

# libseccomp and the kernel do here what systemd has them do. The rest (mounts, devices, user namespace) only systemd's
# own process could set up.
_SANDBOX = """
import ctypes
if {deny_write_execute}:
    assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(0x00050001)))  # what is not allowed fails with EPERM
for name in {allowed}:
    if (number := seccomp.seccomp_syscall_resolve_name(name)) >= 0:
        assert seccomp.seccomp_rule_add(context, ctypes.c_uint32(0x7FFF0000), number, 0) == 0
assert seccomp.seccomp_load(context) == 0
"""
_OPENS = """
import sys
from pathlib import Path
from edge_rul import bundle as bundles
from edge_rul.engines import open_engine
from edge_rul.errors import EngineError

try:
    with open_engine(sys.argv[1], bundles.load(Path(sys.argv[2])), threads=2) as opened:
        print("serves", opened.name)
except EngineError as e:
    print("refused", e)
"""


def kernel_can_deny_write_execute() -> bool:
    return ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) >= 0  # PR_GET_MDWE, Linux 6.3 and later


def sandbox(drop_in: str) -> str:
    """Python that puts its own process under the unit's and the drop-in's filters, as far as this kernel has them."""
    found = assignments(UNIT, UNIT.parent / f"{UNIT.name}.d" / f"{drop_in}.conf")
    assert found["SystemCallErrorNumber"] == ["EPERM"]
    allowed = system_calls(found["SystemCallFilter"])
    assert {"futex", "openat", "clone3"} <= allowed
    assert "clock_settime" not in allowed
    assert ("sched_setaffinity" in allowed) == drop_in.startswith("10-gpu")
    names = [name.encode() for name in sorted(allowed)]
    deny = found["MemoryDenyWriteExecute"] == ["yes"] and kernel_can_deny_write_execute()
    return _SANDBOX.format(deny_write_execute=deny, allowed=names)


def system_calls(groups: list[str]) -> set[str]:
    """The calls that lines of SystemCallFilter= leave; `~` takes away."""
    left: set[str] = set()
    for line in groups:
        names = set(line.lstrip("~").split())
        while sets := {name for name in names if name.startswith("@")}:
            lines = analyze("syscall-filter", *sorted(sets)).stdout.splitlines()
            names = names - sets | {row.strip() for row in lines if re.match(r" +[@\w]", row)}
        left = left - names if line.startswith("~") else left | names
    return left


@pytest.mark.parametrize(
    ("drop_in", "engine", "says"),
    [
        ("10-cpu", "onnxruntime", "serves onnxruntime"),
        ("10-cpu", "openvino", "serves openvino"),
        ("10-cpu-onnxruntime", "onnxruntime", "serves onnxruntime"),
        ("10-cpu-onnxruntime", "openvino", "refused"),  # why there are two
    ],
)
def test_engines_survive_their_drop_in(tiny_bundle: Bundle, drop_in: str, engine: str, says: str) -> None:
    if find_spec(engine) is None:
        absent(engine)
    if says == "refused" and not kernel_can_deny_write_execute():
        pytest.skip("needs Linux 6.3 or later")
    command = [sys.executable, "-c", sandbox(drop_in) + _OPENS, engine, str(tiny_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith(says), done.stderr


_CLOCK = """
from edge_rul.adapters.kernel_clock import synchronised
print(synchronised())
"""


def clock_as_told(prelude: str) -> str:
    command = [sys.executable, "-c", prelude + _CLOCK]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.parametrize("drop_in", LIMITS)
def test_the_service_knows_whether_the_clock_is_right(drop_in: str) -> None:
    assert clock_as_told(sandbox(drop_in)) == str(synchronised()) != "None"
    # ProtectClock= would refuse the call on top of the filter.
    assert assignments(UNIT, UNIT.parent / f"{UNIT.name}.d" / f"{drop_in}.conf")["ProtectClock"] == ["no"]


def test_where_the_clock_may_not_be_asked_nobody_knows() -> None:
    allowed = system_calls(["@system-service", "~@privileged"])
    assert clock_as_told(_SANDBOX.format(deny_write_execute=False, allowed=[n.encode() for n in allowed])) == "None"


@pytest.mark.parametrize(
    ("state", "error", "right"), [(0, 500, True), (5, 16_000_000, False), (5, 500, True), (-1, 0, None)]
)
def test_the_kernels_bound_tells_where_its_mark_was_left(
    monkeypatch: pytest.MonkeyPatch, state: int, error: int, right: bool | None
) -> None:
    def adjtimex(timex: Any) -> int:
        timex._obj.maxerror = error
        return state

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(adjtimex=adjtimex))
    assert synchronised() is right


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


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that a manager listens on; without a word `recv` raises BlockingIOError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_the_watchdog_is_fed_at_a_quarter_of_what_is_allowed(
    told: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    watchdog = systemd.Watchdog()
    fed = []
    for now in (100.0, 101.9, 102.0, 103.9, 110.0):
        watchdog.feed(now)
        with contextlib.suppress(BlockingIOError):
            assert told.recv(4096) == b"WATCHDOG=1"
            fed.append(now)
    assert fed == [100.0, 102.0, 110.0]


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}])
def test_nothing_is_fed_where_no_watchdog_waits_for_us(
    told: socket.socket, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    systemd.Watchdog().feed(100.0)
    with pytest.raises(BlockingIOError):
        told.recv(4096)


# -- the daemon under a manager --------------------------------------------------------------------------------------


_COMMAND = "import sys; from edge_rul.cli import main; sys.exit(main())"


class Service:
    """`edge-rul run` as a manager starts it."""

    def __init__(
        self, directory: Path, bundle: Path, port: int, address: str, prelude: str = "", **environment: str
    ) -> None:
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
            env={**os.environ, "NOTIFY_SOCKET": address, "STATE_DIRECTORY": str(directory / "state"), **environment},
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

    def start(bundle: Path, port: int, prelude: str = "", **environment: str) -> Service:
        services.append(Service(tmp_path, bundle, port, manager[0], prelude, **environment))
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
    ready, status = service.told(manager[1])
    there = '"event": "connected"' in service.events()
    assert (ready, status.startswith("STATUS=serving tiny on onnxruntime ")) == ("READY=1", True), service.events()
    assert status.endswith(", float32 on the CPU" if there else ", float32 on the CPU; not connected to the broker")
    assert service.process.poll() is None
    # What systemd counts on at READY: the model was checked, and a connection was tried.
    assert '"event": "verified"' in service.events()
    assert ('"event": "connected"' in service.events()) != ('"event": "connect_failed"' in service.events())
    service.process.send_signal(number)
    # Beside what the unit allows, as much as the drain may take.
    assert service.told(manager[1]) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=12000000"], service.events()
    assert service.process.wait(30) == 0, service.events()
    assert '"event": "stopped"' in service.events()


def test_the_manager_is_asked_for_time_while_the_engine_takes_long(
    start: Callable[..., Service], manager: tuple[str, socket.socket], tiny_bundle: Bundle
) -> None:
    prelude = """
import threading
from edge_rul import daemon
from edge_rul.adapters import systemd

asked, notify, opened = threading.Event(), systemd.notify, daemon.open_engine_and_bundle

def notify_and_tell(*told):
    notify(*told)
    asked.set()

def slow(*arguments):
    assert asked.wait(60)
    return opened(*arguments)

daemon.EVERY, systemd.notify, daemon.open_engine_and_bundle = 0.01, notify_and_tell, slow
"""
    service = start(tiny_bundle.path, free_port(), prelude)
    assert service.told(manager[1]) == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=opening the engine"]
    assert service.told(manager[1])[0] == "READY=1", service.events()


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


# SIGUSR1 freezes a part. `turned` is written for each turn of the loop, so that a test can wait for turns and not for
# time; deadlines are short, since the test waits for them.
_FREEZES = """
import os, signal, sys, threading, time
from edge_rul import progress, worker
from edge_rul.adapters import mqtt, mqtt_loop

progress.DEADLINES.update({deadlines})
frozen = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: frozen.set())

def freezing(kind, name):
    original = getattr(kind, name)
    def call(*arguments):
        if frozen.is_set() and {stuck}:
            print("frozen", file=sys.stderr, flush=True)
            while True:
                time.sleep(0.05)  # not one wait without an end: a signal just before it would not be seen
        return None if frozen.is_set() and {deaf} else original(*arguments)
    setattr(kind, name, call)

freezing({kind}, {name!r})
tick = worker.Worker.tick
def turned(self):
    print("turned", file=sys.stderr, flush=True)
    tick(self)
worker.Worker.tick = turned
"""


def wait_for(service: Service, text: str, count: int = 1) -> None:
    """Until the log holds `text` so often; fails where the process ends before."""
    for _ in range(6000):
        if service.events().count(text) >= count:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(0.01)
            break
    pytest.fail(f"{text!r} {count} times:\n{service.events()[-3000:]}")


def wait_for_food(service: Service, sock: socket.socket, count: int) -> None:
    while count:
        count -= service.told(sock) == ["WATCHDOG=1"]


def drained(sock: socket.socket) -> list[bytes]:
    """What was told and not read yet."""
    found = []
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(4096))
    sock.setblocking(True)
    return found


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize(
    ("part", "kind", "name", "deaf"),
    [
        ("worker", "worker.Worker", "step", False),
        ("network loop", "mqtt_loop.Client", "loop_misc", False),
        ("publisher", "mqtt.MqttTransport", "_on_publish", True),
    ],
)
def test_the_watchdog_is_fed_until_a_part_stands_still(
    start: Callable[..., Service],
    manager: tuple[str, socket.socket],
    mosquitto: Broker,
    tiny_bundle: Bundle,
    part: str,
    kind: str,
    name: str,
    deaf: bool,
) -> None:
    prelude = _FREEZES.format(deadlines={part: 3.0}, kind=kind, name=name, stuck=not deaf, deaf=deaf)
    service = start(tiny_bundle.path, mosquitto.port, prelude, WATCHDOG_USEC="1000")
    assert service.told(manager[1])[0] == "READY=1"
    wait_for_food(service, manager[1], 5)
    service.process.send_signal(signal.SIGUSR1)
    if not deaf:
        wait_for(service, "frozen")
    else:  # something has to wait for an acknowledgement that is not heard
        readings = [{"cycle": cycle, "values": [10, 20, 30]} for cycle in range(10)]
        paho.mqtt.publish.single(
            "plant/one/cycle", json.dumps(readings), qos=1, hostname="127.0.0.1", port=mosquitto.port
        )
    if part == "worker":  # nobody else feeds, and who feeds is frozen: it needs no turn to be told
        drained(manager[1])
    else:
        wait_for(service, '"event": "stands_still"')
        assert f"the {part} has not moved" in service.events()
        drained(manager[1])
        wait_for(service, "turned", service.events().count("turned") + 3)
    assert b"WATCHDOG=1" not in drained(manager[1])


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_broker_that_goes_keeps_nobody_from_feeding_the_watchdog(
    start: Callable[..., Service], manager: tuple[str, socket.socket], mosquitto: Broker, tiny_bundle: Bundle
) -> None:
    """Though answers wait for it all the time."""
    prelude = _FREEZES.format(
        deadlines={"worker": 3.0, "publisher": 0.5},
        kind="mqtt.MqttTransport",
        name="_on_publish",
        stuck=False,
        deaf=True,
    )
    service = start(tiny_bundle.path, mosquitto.port, prelude, WATCHDOG_USEC="1000")
    assert service.told(manager[1])[0] == "READY=1"
    wait_for(service, '"event": "connected"')
    service.process.send_signal(signal.SIGUSR1)
    mosquitto.process.kill()
    wait_for(service, '"event": "connect_failed"')
    drained(manager[1])
    wait_for_food(service, manager[1], 4)
    assert "stands_still" not in service.events()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_second_signal_ends_the_drain(
    start: Callable[..., Service], manager: tuple[str, socket.socket], mosquitto: Broker, tiny_bundle: Bundle
) -> None:
    """At once, with a code that says so: what is left is answered after the next start."""
    prelude = _FREEZES.format(deadlines={}, kind="mqtt.MqttTransport", name="close", stuck=True, deaf=False)
    service = start(tiny_bundle.path, mosquitto.port, prelude)
    assert service.told(manager[1])[0] == "READY=1"
    service.process.send_signal(signal.SIGUSR1)
    service.process.send_signal(signal.SIGTERM)
    assert service.told(manager[1])[0] == "STOPPING=1"
    wait_for(service, "frozen")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 128 + signal.SIGTERM
