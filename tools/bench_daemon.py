"""What a reading costs the daemon behind a real Mosquitto, and whether it stays whole under too much load.

    python tools/bench_daemon.py                      CPU for each QoS 1 reading, and the throughput at saturation
    python tools/bench_daemon.py --minutes 10         then ten minutes of twice the load that the engine sustains
    python tools/bench_daemon.py --only cpu

Owns the broker, the generator and what is counted. The CPU of a reading is that of the daemon's own transport, worker
and journal in this process, with an engine that costs nothing; the rest is `edge-rul run` as a process. Everything
listens on loopback. Prints figures beside their limits, and judges nothing by its exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paho.mqtt.client as paho
import structlog
from bench_journal import BUNDLE, ROOT, NullEngine, _bundle, payload, row, write_config
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_rul.adapters.journal import Journal
from edge_rul.adapters.journal_file import FILE, open_read_only
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.config import Settings
from edge_rul.core.entry import unpack
from edge_rul.core.outgoing import Message
from edge_rul.core.payload import Reading
from edge_rul.daemon import SystemClock
from edge_rul.wiring import build_outgoing, build_pipeline, build_transport
from edge_rul.worker import Worker

CPU_LIMIT = 50.0  # us for each QoS 1 reading at MQTT 3.1.1, engine and publishing not counted
RUNS = 3
PATIENCE = 60.0  # seconds without anything new
OURS = ("listener", "port", "bind_address", "persistence_location", "log_dest", "user", "pid_file", "password_file")
OURS_TOO = ("acl_file", "allow_anonymous", "cafile", "certfile", "keyfile", "require_certificate", "include_dir")


class Broker(NamedTuple):
    port: int
    settings: str


@contextmanager
def mosquitto(directory: Path) -> Iterator[Broker]:
    """A Mosquitto on loopback with the shipped settings, of which only place, port and rights are changed."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("bench_daemon: needs mosquitto (apt-get install mosquitto)")
    shipped = ROOT / "configs" / "mosquitto.conf"
    if shipped.exists():
        kept = [t for t in shipped.read_text().splitlines() if t.split(" ", 1)[0] not in OURS + OURS_TOO]
        settings = "configs/mosquitto.conf"
    else:
        kept = ["persistence true", "autosave_interval 5", "max_queued_messages 1000000"]
        kept += ["max_queued_bytes 0", "max_inflight_messages 5000"]
        settings = ", ".join(kept)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    ours = [f"listener {port} 127.0.0.1", "allow_anonymous true", f"persistence_location {directory}/"]
    config = directory / "mosquitto.conf"
    config.write_text("\n".join([*kept, *ours, f"user {os.environ.get('USER', 'root')}", ""]))
    with (directory / "mosquitto.log").open("ab") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    try:
        while process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        if process.poll() is not None:
            raise SystemExit("bench_daemon: mosquitto ended:\n" + (directory / "mosquitto.log").read_text())
        yield Broker(port, settings)
    finally:
        process.terminate()
        process.wait(30)


# -- the generator ---------------------------------------------------------------------------------------------------


def generate(
    port: int, assets: int, count: int, rate: float, first: int = 1, at_most: float = 1e9
) -> tuple[int, float]:
    """Publish `count` readings at QoS 1, asset after asset, cycles from `first`, for `at_most` seconds.

    rate: readings/s, 0 is as fast as they are acknowledged. Returns how many the broker has acknowledged, and seconds.
    A process of its own.
    """
    values = _bundle().golden.windows[0, -1].tolist()
    topics = [f"plant/engine-{i:06d}/cycle" for i in range(assets)]
    room = threading.Semaphore(2000)
    acknowledged = 0

    def on_publish(*_: Any) -> None:
        nonlocal acknowledged
        acknowledged += 1
        room.release()

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.max_inflight_messages_set(2000)
    client.on_publish = on_publish
    client.connect("127.0.0.1", port)
    client.loop_start()
    began, sent = time.monotonic(), 0
    for number in range(count):
        if rate and (ahead := number / rate - (time.monotonic() - began)) > 0:
            time.sleep(ahead)
        if time.monotonic() - began > at_most or not room.acquire(timeout=PATIENCE):
            break
        sent += 1
        cycle, asset = divmod(number, assets)
        client.publish(topics[asset], payload(first + cycle, values), qos=1)
    deadline = time.monotonic() + PATIENCE
    while acknowledged < sent and time.monotonic() < deadline:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return acknowledged, seconds


@contextmanager
def generator() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_bundle).result()  # its imports done
        yield pool


# -- CPU for each reading --------------------------------------------------------------------------------------------


class Silent:
    """The transport, but nothing is published."""

    def __init__(self, transport: MqttTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send(self, messages: list[Message]) -> None: ...


def _leave_session(settings: Settings) -> None:
    """Make the broker queue for the daemon, which is not there yet: then it is never the generator that is slow."""
    five = settings.mqtt.version == 5
    protocol = paho.MQTTv5 if five else paho.MQTTv311
    client = paho.Client(
        CallbackAPIVersion.VERSION2, settings.mqtt.client_id, clean_session=None if five else False, protocol=protocol
    )
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    options: dict[str, Any] = {}
    if five:
        options = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}  # type: ignore[no-untyped-call]
        options["properties"].SessionExpiryInterval = settings.mqtt.session_expiry
    client.connect(settings.mqtt.host, settings.mqtt.port, **options)
    client.loop_start()
    client.subscribe("plant/+/cycle", qos=1)
    subscribed.wait(PATIENCE)
    client.disconnect()
    client.loop_stop()


def bench_cpu(directory: Path, count: int, assets: int, more: str, *, publish: bool) -> tuple[float, float]:
    """(CPU us for each reading, readings/s) of transport, decoding, journal, lives, windows and acknowledgement."""
    with mosquitto(directory) as broker, generator() as pool:
        settings, source = write_config(directory, more.format(port=broker.port))
        engine = NullEngine(settings.engine.max_batch, len(_bundle().manifest.classes))
        outgoing = build_outgoing(settings)
        log = structlog.get_logger()
        transport = build_transport(settings, source, log)
        with Journal(directory / "state", settings.journal) as journal:
            worker = Worker(
                pipeline=build_pipeline(settings, _bundle(), engine, outgoing, journal.id),
                engine=engine,
                transport=transport if publish else Silent(transport),  # type: ignore[arg-type]
                journal=journal,
                outgoing=outgoing,
                settings=settings,
                clock=SystemClock(),
                log=log,
            )
            worker.restore()
            _leave_session(settings)
            sent = pool.submit(generate, broker.port, assets, count, 0.0)
            if sent.result()[0] != count:
                raise SystemExit("bench_daemon: the broker did not take the readings")
            transport.start()
            while not transport.subscribed:
                transport.wait(0.1)
            cpu, began, busy = time.process_time(), time.monotonic(), False
            until = began + PATIENCE
            while journal.committed < count or (publish and (worker.lag or transport.backlog)):
                transport.wait(0.0 if busy else worker.pause())
                if busy := worker.step():
                    until = time.monotonic() + PATIENCE
                elif time.monotonic() > until:
                    raise SystemExit(f"bench_daemon: {journal.committed} of {count} readings came")
            cpu, seconds = time.process_time() - cpu, time.monotonic() - began
            transport.close(time.monotonic() + 5)
    return cpu / count * 1e6, count / seconds


def report_cpu(directory: Path, count: int) -> None:
    print(
        f"\nCPU for each QoS 1 reading of 14 float32 in JSON, {count} of them, as fast as Mosquitto delivers what\n"
        f"it has queued. The daemon's process only, its engine a null one; best of {RUNS} runs."
    )
    old = "mqtt: {{host: 127.0.0.1, port: {port}, version: 3.1.1"
    five = "mqtt: {{host: 127.0.0.1, port: {port}"
    cases = [  # name, configuration, assets, publish, limit
        (
            "MQTT 3.1.1, shipped broker: into the journal and acknowledged",
            old + ", broker_in_flight: 1000}}\n",
            20,
            False,
        ),
        ("   with a window for each, normalised, null engine", old + ", broker_in_flight: 1000}}\n", 1000, False),
        ("   and its prediction published at QoS 1", old + ", broker_in_flight: 1000}}\n", 1000, True),
        ("MQTT 3.1.1, Mosquitto's own 20 in flight: into the journal", old + "}}\n", 20, False),
        ("MQTT 5, the default: into the journal", five + "}}\n", 20, False),
    ]
    for index, (name, more, spread, publish) in enumerate(cases):
        assets = count // spread if spread == 20 else spread  # 20 readings of an asset fill no window
        found = []
        for _ in range(RUNS):
            with tempfile.TemporaryDirectory(dir=directory, prefix="bench-daemon-") as scratch:
                found.append(bench_cpu(Path(scratch), count, assets, more, publish=publish))
        cpu, rate = min(f[0] for f in found), max(f[1] for f in found)
        row(name, f"{cpu:.1f} us", f"{CPU_LIMIT:g}" if index == 0 else "", index != 0 or cpu <= CPU_LIMIT)
        row("      at saturation", f"{rate:.0f}/s")


# -- the whole daemon ------------------------------------------------------------------------------------------------


class Daemon:
    """`edge-rul run` with the shipped bundle, and the newest of its statistics."""

    def __init__(self, directory: Path, port: int) -> None:
        write_config(directory, f"mqtt: {{host: 127.0.0.1, port: {port}}}\nlog: {{level: error}}\n")
        self.statistics: dict[str, Any] = {}
        self.news = threading.Event()
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message = self._on_message
        client.connect("127.0.0.1", port)
        client.subscribe("edge-rul/statistics")
        client.loop_start()
        command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(directory / "edge-rul.yaml")]
        self.process = subprocess.Popen(command)
        self.next()

    def _on_message(self, _client: Any, _: Any, message: paho.MQTTMessage) -> None:
        self.statistics = {**json.loads(message.payload), "at": time.monotonic()}
        self.news.set()

    def next(self) -> dict[str, Any]:
        """The next statistics, some seconds from now."""
        self.news.clear()
        if not self.news.wait(PATIENCE) or self.process.poll() is not None:
            raise SystemExit(f"bench_daemon: the daemon says nothing (exit code {self.process.poll()})")
        return self.statistics

    def resident(self) -> float:
        """MiB"""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._client.disconnect()
        self._client.loop_stop()


def rates(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float]:
    """(predictions/s, readings taken in/s) between two statistics."""
    seconds = after["at"] - before["at"]
    taken = [s["readings"] + s["lag_entries"] for s in (before, after)]
    return (after["predictions"] - before["predictions"]) / seconds, (taken[1] - taken[0]) / seconds


def report_load(directory: Path, minutes: float) -> None:
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix="bench-daemon-") as scratch,
        mosquitto(Path(scratch)) as broker,
        generator() as pool,
    ):
        print(f"\nThe whole daemon with {BUNDLE.name}; broker, generator and daemon on the same CPUs.")
        print(f"Broker: {broker.settings}")
        daemon = Daemon(Path(scratch), broker.port)
        try:
            sent, sustained = _saturate(daemon, broker, pool)
            if minutes:
                _overload(daemon, broker, pool, Path(scratch), minutes, sent, sustained)
        finally:
            daemon.close()


ASSETS = 1000
FLOOD = 60_000
BACKLOG = 6  # statistics, some seconds apart, of which the best counts


def _saturate(daemon: Daemon, broker: Broker, pool: ProcessPoolExecutor) -> tuple[int, float]:
    """Readings sent, and predictions/s while nothing else wants the CPUs."""
    job = pool.submit(generate, broker.port, ASSETS, FLOOD, 0.0)
    start = daemon.next()
    while not job.done():
        flooded = daemon.next()
    acknowledged, seconds = job.result()
    row("as fast as the broker acknowledges: publishing", f"{acknowledged / seconds:.0f}/s")
    row("   predictions meanwhile", f"{rates(start, flooded)[0]:.0f}/s")
    row("   readings taken in meanwhile", f"{rates(start, flooded)[1]:.0f}/s")
    before, sustained = daemon.next(), 0.0
    for _ in range(BACKLOG):
        after = daemon.next()
        if after["lag_entries"] < 1000:
            break
        sustained, before = max(sustained, rates(before, after)[0]), after
    if not sustained:
        raise SystemExit("bench_daemon: the engine kept up with the flood; raise FLOOD")
    row("predictions from the backlog, with nothing else to do, at best", f"{sustained:.0f}/s")
    return FLOOD, sustained


def _overload(
    daemon: Daemon,
    broker: Broker,
    pool: ProcessPoolExecutor,
    scratch: Path,
    minutes: float,
    sent: int,
    sustained: float,
) -> None:
    rate = 2 * sustained
    count = round(rate * minutes * 60 / ASSETS) * ASSETS
    print(f"\n{minutes:g} minutes of {rate:.0f} readings/s, twice that, from {ASSETS} assets:")
    job: Future[tuple[int, float]] = pool.submit(
        generate, broker.port, ASSETS, count, rate, 1 + sent // ASSETS, minutes * 60
    )
    start = daemon.next()
    samples = []
    shown = 0.0
    while not job.done():
        found = daemon.next()
        samples.append((found["at"] - start["at"], daemon.resident()))
        if found["at"] - shown >= 60:
            shown = found["at"]
            lag = f"lag {found['lag_entries']}, {found['lag_seconds']:.0f} s"
            row(f"   after {samples[-1][0] / 60:.1f} min: {lag}; resident", f"{samples[-1][1]:.0f} MiB")
    acknowledged, seconds = job.result()
    end = daemon.statistics
    row("readings published, and acknowledged by the broker", f"{acknowledged}")
    row("   at", f"{acknowledged / seconds:.0f}/s")
    row("   predictions meanwhile", f"{rates(start, end)[0]:.0f}/s")
    late = np.array([s for s in samples if s[0] >= samples[-1][0] / 4])  # (n, 2) seconds, MiB
    slope = float(np.polyfit(late[:, 0] / 60, late[:, 1], 1)[0]) if len(late) > 2 else float("nan")
    row("resident memory: after a quarter, at the end", f"{late[0, 1]:.0f}, {late[-1, 1]:.0f} MiB")
    row("   its slope over the last three quarters", f"{slope:+.2f} MiB/min")
    _lost(daemon, scratch, sent + count, sent + acknowledged)


def _lost(daemon: Daemon, scratch: Path, sent: int, acknowledged: int) -> None:
    """Every reading that the broker acknowledged to the generator has to be in the journal."""
    while True:
        before = daemon.statistics
        after = daemon.next()
        if rates(before, after)[1] < 1:
            break
    seen = np.zeros((ASSETS, sent // ASSETS + 1), bool)
    entries = 0
    with open_read_only(scratch / "state" / FILE) as db:
        for (data,) in db.execute("SELECT entry FROM entries"):
            entry = unpack(data)
            if not isinstance(entry, Reading):  # which bundle answers since when
                continue
            seen[int(entry.asset.name[-6:]), entry.cycle] = True
            entries += 1
    row("readings acknowledged by the broker in all", f"{acknowledged}")
    row("   in the journal, each counted once", f"{int(seen.sum())}")
    row("   entries in the journal", f"{entries}")
    row("   lost", f"{acknowledged - int(seen.sum())}", "0", int(seen.sum()) >= acknowledged)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU of a reading, throughput, and memory under overload.")
    parser.add_argument("--only", choices=("cpu", "load"))
    parser.add_argument("--count", type=int, default=60_000, help="readings of each run that measures CPU")
    parser.add_argument("--minutes", type=float, default=0.0, help="of twice the sustained load (default none)")
    parser.add_argument("--dir", type=Path, default=None, help="a directory on the disk in question")
    args = parser.parse_args()
    directory = args.dir or Path(tempfile.gettempdir())
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, in {directory}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if args.only != "load":
        report_cpu(directory, args.count)
    if args.only != "cpu":
        report_load(directory, args.minutes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
