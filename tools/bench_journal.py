"""What the journal costs: bytes on the disk for each reading, and CPU until a restart has its windows back.

    python tools/bench_journal.py                                  both, with the limits that the project has set
    python tools/bench_journal.py --only bytes --seconds 1200
    python tools/bench_journal.py --only restart --assets 100000

Owns the loads and what is counted. It drives the daemon's own worker, pipeline and journal, with a clock, a broker and
an engine that cost nothing. Prints figures beside their limits, and judges nothing by its exit code: a shared machine
is slower than itself. Must not need a network.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import structlog

from edge_rul import bundle as bundles
from edge_rul.adapters.journal import Journal
from edge_rul.adapters.mqtt_inbox import Received
from edge_rul.config import Settings, load_settings
from edge_rul.core.entry import Entry
from edge_rul.core.normalise import Array
from edge_rul.core.outgoing import Message
from edge_rul.core.payload import Reading
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.topic import Asset
from edge_rul.wiring import build_outgoing, build_pipeline
from edge_rul.worker import Worker
from edge_rul.yaml_file import Source

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundles" / "cmapss_fd001"
BYTES_LIMIT = 600.0  # for each reading, at 1,000 readings/s of 14 float32, snapshots included
RESTART_LIMITS = {10_000: 0.5, 100_000: 3.0}  # CPU seconds by number of assets
RATE = 1000  # readings/s
STEP = 0.01  # simulated seconds between two steps of the worker
START = 1_700_000_000.0  # epoch seconds; no stamp lies ahead of a daemon with a real clock
RUNS = 3


class NullEngine:
    """Answers at once, so that what is measured is not the model."""

    name, version, precision = "null", "0", "float32"

    def __init__(self, max_batch: int, classes: int) -> None:
        self.max_batch = max_batch
        self._rul = np.full(max_batch, 100.0, np.float32)
        self._logits = np.zeros((max_batch, classes), np.float32)

    def infer(self, x: Array) -> tuple[Array, Array]:
        return self._rul[: len(x)], self._logits[: len(x)]

    def close(self) -> None: ...

    def __enter__(self) -> NullEngine:
        return self

    def __exit__(self, *exc: object) -> None: ...


class NullTransport:
    """A broker in the same process that acknowledges at once."""

    connected, new_session = True, False
    dropped_qos0 = refused = backlog = 0
    oldest_seq: int | None = None
    waiting_seq: int | None = None

    def __init__(self) -> None:
        self.inbox: deque[Received] = deque()
        self.acknowledged = 0

    def receive(self) -> Received | None:
        return self.inbox.popleft() if self.inbox else None

    def acknowledge(self, message: Received) -> None:
        self.acknowledged += 1

    def send(self, messages: list[Message]) -> None: ...

    def pump(self) -> None: ...


class SteppedClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return START + self.now


class Rig(NamedTuple):
    """A daemon without broker and engine, as the shipped bundle and the default settings make it."""

    worker: Worker
    pipeline: Pipeline
    journal: Journal
    transport: NullTransport
    clock: SteppedClock
    settings: Settings


def write_config(directory: Path, more: str = "") -> tuple[Settings, Source]:
    """The default settings for the shipped bundle, with its state beside the file. more: further sections, YAML."""
    path = directory / "edge-rul.yaml"
    path.write_text(
        f"bundle: {BUNDLE}\ntopics: {{readings: ['plant/{{asset}}/cycle']}}\n"
        "alarms: [{name: rul_low, watch: rul, below: 30}]\nlimits: {assets: 1000000}\n"
        f"journal: {{directory: state}}\n{more}"
    )
    return load_settings(path)


def make_rig(directory: Path, more: str = "") -> Rig:
    settings, _ = write_config(directory, more)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    bundle = _bundle()
    engine = NullEngine(settings.engine.max_batch, len(bundle.manifest.classes))
    journal = Journal(directory / "state", settings.journal, inputs=[i.name for i in bundle.manifest.inputs])
    outgoing, transport, clock = build_outgoing(settings), NullTransport(), SteppedClock()
    pipeline = build_pipeline(settings, bundle, engine, outgoing, journal.id)
    worker = Worker(
        pipeline=pipeline,
        engine=engine,
        transport=transport,
        journal=journal,
        outgoing=outgoing,
        settings=settings,
        clock=clock,
        log=structlog.get_logger(),
    )
    return Rig(worker, pipeline, journal, transport, clock, settings)


@functools.cache
def _bundle() -> bundles.Bundle:
    return bundles.load(BUNDLE)


def row(what: str, figure: str, limit: str = "", ok: bool = True) -> None:
    """One line of the report."""
    print(
        f"{what:<66} {figure:>14}   {'' if not limit else f'limit {limit}' + ('' if ok else '  ABOVE IT')}", flush=True
    )


def payload(cycle: int, values: list[float]) -> bytes:
    return msgspec.json.encode({"cycle": cycle, "ts": round(START * 1000) + cycle * 1000, "values": values})


# -- bytes -----------------------------------------------------------------------------------------------------------


def written() -> tuple[int, int]:
    """(write_bytes, wchar) of this process so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"]), int(fields["wchar"])


def bench_bytes(directory: Path, assets: int, seconds: int, more: str = "") -> tuple[float, float, float, float]:
    """(disk bytes, bytes passed to write, CPU seconds) for each reading, and bytes that the journal holds for each."""
    rig = make_rig(directory, more)
    values = _bundle().golden.windows[0, -1].tolist()
    topics = [f"plant/engine-{i:06d}/cycle" for i in range(assets)]
    disk, calls = written()
    cpu = time.process_time()
    count = 0
    for _ in range(round(seconds / STEP)):
        for _ in range(round(RATE * STEP)):
            cycle, asset = divmod(count, assets)
            rig.transport.inbox.append(Received(topics[asset], payload(cycle + 1, values), 1, 1, 1))
            count += 1
        while rig.worker.step():
            pass
        rig.clock.now += STEP
    rig.worker.commit()
    size = rig.journal.size
    rig.journal.close()
    cpu = (time.process_time() - cpu) / count
    after = written()
    return (after[0] - disk) / count, (after[1] - calls) / count, cpu, size / count


def report_bytes(directory: Path, assets: Iterable[int], seconds: int) -> None:
    print(
        f"\nBytes for each reading: {RATE} readings/s of 14 float32 at QoS 1, {seconds} s simulated, a snapshot of\n"
        "all changed assets every 300 s. `disk` is write_bytes of /proc/self/io: what the process made the kernel\n"
        "send to the disk, in whole pages, which is what flash wears by, without the file system's own journal.\n"
        "`calls` is wchar: what was passed to write()."
    )
    # How many acknowledgements may be owed decides how many readings share a commit.
    cases = [(n, "MQTT 5", "") for n in assets]
    cases += [(n, "broker_in_flight 1000", "mqtt: {broker_in_flight: 1000}\n") for n in assets]
    cases.append((1000, "MQTT 3.1.1", "mqtt: {version: 3.1.1}\n"))
    for n, name, more in cases:
        with tempfile.TemporaryDirectory(dir=directory, prefix="bench-journal-") as scratch:
            disk, calls, cpu, kept = bench_bytes(Path(scratch), n, seconds, more)
        row(f"{n} assets, {name}: disk", f"{disk:.0f} bytes", f"{BYTES_LIMIT:.0f}", disk <= BYTES_LIMIT)
        row("   the same a day", f"{disk * RATE * 86400 / 1e9:.1f} GB")
        row("   calls", f"{calls:.0f} bytes")
        row("   the file at the end, for each reading", f"{kept:.0f} bytes")
        row("   CPU for each reading, with windows and a null engine", f"{cpu * 1e6:.0f} us")


# -- restart ---------------------------------------------------------------------------------------------------------


def prepare(directory: Path, assets: int, since: int) -> None:
    """A state directory with a snapshot of a full ring for each asset, then `since` readings that came after it."""
    rig = make_rig(directory)
    windows = _bundle().golden.windows[0]  # (T, F)
    first = Asset("engine-000000")
    for cycle in range(1, 3 * len(windows)):
        rig.pipeline.lives.apply(Reading(first, cycle, round(START * 1000) + cycle, windows[cycle % len(windows)]))
    blob = rig.pipeline.lives.dump(first)
    names = [Asset(f"engine-{i:06d}") for i in range(assets)]
    rig.journal.begin_round(0)
    for i in range(0, assets, 1000):
        assert rig.journal.snapshot(0, [(name, blob) for name in names[i : i + 1000]])
    assert rig.journal.end_round(wall=round(START))
    cycle = 3 * len(windows)
    entries: list[Entry] = [
        Reading(names[i % assets], cycle + i // assets, round(START * 1000) + cycle + i, windows[0])
        for i in range(since)
    ]
    rig.journal.append(entries, 0.0)
    assert rig.journal.commit(since, wall=round(START))
    rig.journal.close()


def restart(directory: Path) -> tuple[float, float, float]:
    """(CPU seconds until windows are restored, CPU seconds for the entries since, MiB at the end), in this process."""
    _bundle()
    began = time.process_time()
    rig = make_rig(directory)
    rig.worker.restore()
    restored = time.process_time()
    while rig.worker.lag:
        rig.worker.step()
    ended = time.process_time()
    rig.journal.close()
    status = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return restored - began, ended - restored, resident / 1024


def report_restart(directory: Path, assets: Iterable[int], since: int) -> None:
    print(
        f"\nRestart: CPU until every asset's ring and life is restored from its snapshot; imports and the engine are\n"
        f"not counted, the journal's check is. Then the readings since the snapshot are applied. Best of {RUNS} runs."
    )
    for n in assets:
        with tempfile.TemporaryDirectory(dir=directory, prefix="bench-journal-") as scratch:
            prepare(Path(scratch), n, since)
            size = (Path(scratch) / "state" / "journal.db").stat().st_size
            found = []
            for _ in range(RUNS):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    found.append(pool.submit(restart, Path(scratch)).result())
        cpu, replay, resident = (min(run[i] for run in found) for i in range(3))
        limit = RESTART_LIMITS.get(n)
        row(f"{n} assets: windows restored", f"{cpu:.2f} s", f"{limit:g}" if limit else "", not limit or cpu <= limit)
        row(f"   {since} readings since applied, each", f"{replay / since * 1e6:.1f} us" if since else "-")
        row("   the journal, and resident memory", f"{size / 2**20:.0f}, {resident:.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description="Bytes written for each reading, and the CPU of a restart.")
    parser.add_argument("--only", choices=("bytes", "restart"))
    parser.add_argument("--assets", type=int, nargs="+", help="default 1000 and 10000; restart 10000 and 100000")
    parser.add_argument("--seconds", type=int, default=660, help="simulated, of the bytes (default 660: two snapshots)")
    parser.add_argument("--since", type=int, default=10_000, help="readings since the snapshot, of the restart")
    parser.add_argument("--dir", type=Path, default=None, help="a directory on the disk in question")
    args = parser.parse_args()
    directory = args.dir or Path(tempfile.gettempdir())
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, in {directory}")
    if args.only != "restart":
        report_bytes(directory, args.assets or (1000, 10_000), args.seconds)
    if args.only != "bytes":
        report_restart(directory, args.assets or RESTART_LIMITS, args.since)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
