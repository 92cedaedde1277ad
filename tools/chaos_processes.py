"""The daemon and the broker of the chaos run: started, killed, frozen, started again; and the daemon's small disk.

Owns both processes, their configurations and logs, and what is done to them, one thing at a time to each. Must not know
when, or what passes between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import chaos_alarms
from chaos_witness import BUNDLE, DAEMON

from edge_rul.errors import EXIT_INTERNAL

ROOT = Path(__file__).resolve().parent.parent
BROKER_SETTINGS = ROOT / "configs" / "mosquitto.conf"
SABOTAGE = Path(__file__).resolve().parent / "chaos_sabotage.py"
DISK = 96  # MiB
MIN_FREE = 8  # MiB
_NO_DISK = ("edge-rul: open journal: ", "edge-rul: write journal: ")

# Snapshots and deletions every few seconds, so that a run of minutes restores from them many times. A short keepalive,
# so that a freeze may outlast it.
CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}, client_id: {client}, keepalive: 5}}
topics:
  readings: ["plant/{{line}}/{{asset}}/cycle"]
  prediction: edge-rul/{{line}}/{{asset}}/prediction
  alarm: edge-rul/{{line}}/{{asset}}/alarm/{{alarm}}
  alarm_event: edge-rul/{{line}}/{{asset}}/event
alarms:
  - {{name: {alarm.NAME}, watch: rul, below: {alarm.BELOW}, deadband: {alarm.DEADBAND}, on_delay: {alarm.ON_DELAY},
      off_delay: {alarm.OFF_DELAY}}}
engine: {{name: onnxruntime, threads: 1}}
journal: {{directory: {state}, snapshot_seconds: 4, keep_hours: 0.01, min_free: {min_free}}}
log: {{format: json}}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _with_parent() -> None:
    """Ended with us, whatever ends us: PR_SET_PDEATHSIG is 1."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Child:
    """A process that runs until it is told otherwise. exits: codes with which it ended of its own accord; refused: how
    often it could not start, and said so, since its disk was full to the last byte. may_refuse: whether it is now."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, say: Callable[[str], None]) -> None:
        self.name = name
        self.lock = asyncio.Lock()  # one thing at a time
        self.exits: list[int] = []
        self.refused = 0
        self.may_refuse = False
        self.frozen = False
        self._argv = list(argv)
        self._log = log
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,  # so that the daemon is the one of this tree
                start_new_session=True,
                preexec_fn=_with_parent,  # noqa: PLW1509  one thread: no lock can be held by another
            )

    async def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end; after 15 s without one, kill."""
        assert self._process is not None
        self._process.send_signal(number)
        for _ in range(1500):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        else:
            self._say(f"the {self.name} did not end within 15 s of {number.name}: killed")
            self.exits.append(-number)
            self._process.kill()
            self._process.wait()
        self._process = None

    async def freeze(self, seconds: float) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self.frozen = False
            self._process.send_signal(signal.SIGCONT)

    async def watch(self) -> None:
        """Start it again, as systemd would, whenever it ends of its own accord."""
        while True:
            await asyncio.sleep(0.1)
            if self.lock.locked() or self._process is None or (code := self._process.poll()) is None:
                continue
            if self.may_refuse and code == EXIT_INTERNAL and self.tail(1).startswith(_NO_DISK):
                self.refused += 1
                self._say(f"the {self.name} cannot start on a disk without a byte: again in a second")
            else:
                self.exits.append(code)
                self._say(f"the {self.name} ended of its own accord with code {code}; its log ends:\n{self.tail()}")
            async with self.lock:
                await asyncio.sleep(1.0)
                self.start()

    def tail(self, lines: int = 5) -> str:
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def make_broker(directory: Path, port: int, say: Callable[[str], None]) -> Child:
    """Mosquitto with the shipped settings; port and place of the persistent data are ours. Raises FileNotFoundError."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("mosquitto is not installed (apt-get install mosquitto)")
    shipped = re.sub(r"^(listener|persistence_location)\b.*\n", "", BROKER_SETTINGS.read_text(), flags=re.MULTILINE)
    data = directory / "broker"
    data.mkdir()
    ours = f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence_location {data}/\n"
    # Started as root it would become the user `mosquitto`, who may not write here.
    ours += "user root\n" if os.geteuid() == 0 else ""
    config = directory / "mosquitto.conf"
    config.write_text(shipped + ours)
    return Child("broker", [program, "-c", str(config)], directory / "broker.log", say)


def make_daemon(directory: Path, port: int, say: Callable[[str], None], sabotage: str | None) -> Child:
    state = directory / "state"
    state.mkdir()
    config = directory / "edge-rul.yaml"
    config.write_text(
        CONFIG.format(
            bundle=BUNDLE,
            port=port,
            client=DAEMON,
            alarm=chaos_alarms,
            state=state,
            min_free=MIN_FREE * 1024 * 1024,
        )
    )
    program = ["-m", "edge_rul.cli"] if sabotage is None else [str(SABOTAGE), sabotage]
    return Child("daemon", [sys.executable, *program, "run", "--config", str(config)], directory / "daemon.log", say)


class Disk:
    """A small tmpfs over `directory`, where mounting is allowed; `problem` says why not.

    It lies in a mount namespace of this process and its children, so that it goes with them, whatever ends them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._filler = directory / "filler"
        self.problem = "" if sys.platform == "linux" else "not on Linux"
        if not self.problem and ctypes.CDLL(None, use_errno=True).unshare(0x0002_0000):  # CLONE_NEWNS
            self.problem = os.strerror(ctypes.get_errno())
        for command in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "chaos", str(directory)],
        ):
            if not self.problem:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                self.problem = done.stderr.strip() if done.returncode else ""

    def fill(self, *, to_the_last_byte: bool) -> None:
        """Leave half of min_free, at which the daemon stops by itself, or nothing, where SQLite fails."""
        free = shutil.disk_usage(self._directory).free
        keep = 0 if to_the_last_byte else MIN_FREE * 1024 * 1024 // 2
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for _ in range(max(0, free - keep) // 65536 + (1 if to_the_last_byte else 0)):
                file.write(bytes(65536))

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if not self.problem:
            # Lazily: a process that was just killed may still hold a file open.
            subprocess.run(["umount", "-l", str(self._directory)], check=False)
