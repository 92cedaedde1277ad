"""A status page over a fleet of made-up assets, for pictures, measurements and tests; no broker and no daemon.

Owns the made-up fleet. Asset 0 has the least RUL; about one asset in ten is in alarm, one in twenty waits for its
window. The same arguments give the same fleet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from edge_rul.adapters.http.metrics import Metrics
from edge_rul.adapters.http.pages import Catalogue, Pages, ShownInput
from edge_rul.adapters.http.server import HttpServer
from edge_rul.core.alarm import Change, HealthAlarm, RulAlarm, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.fleet import Fleet
from edge_rul.core.outgoing import Statistics, iso
from edge_rul.core.payload import Reading
from edge_rul.core.prediction import BundleId, EngineId, Health, Interval, Prediction, Quality
from edge_rul.core.topic import Asset

MAX_RUL = 125.0
INPUTS = (
    ShownInput("T24", "°R", "total temperature at the LPC outlet", 641.2, 644.5),
    ShownInput("T30", "°R", "total temperature at the HPC outlet", 1571.0, 1616.9),
    ShownInput("P30", "psia", "total pressure at the HPC outlet", 549.9, 556.1),
    ShownInput("Nc", "rpm", "physical core speed", 9021.7, 9244.6),
    ShownInput("phi", "pps/psi", "ratio of fuel flow to Ps30", 518.7, 523.4),
    ShownInput("BPR", "", "bypass ratio", 8.32, 8.58),
)
LOW = RulAlarm(name="rul_low", below=30, priority="high")
CRITICAL = HealthAlarm(name="health_critical", classes=["critical"], priority="urgent")
CATALOGUE = Catalogue(
    unit="cycles",
    max_rul=MAX_RUL,
    window=30,
    classes=("healthy", "degrading", "critical"),
    inputs=INPUTS,
    limits=((LOW.name, LOW.below),),
)
STATISTICS = Statistics(
    schema="edge-rul/statistics/1",
    ts="2026-01-01T00:00:00.000Z",
    uptime=4512.5,
    assets=120,
    stale_assets=2,
    alarms_on=9,
    alarms_acknowledged=2,
    alarms_shelved=1,
    readings=43210,
    parts=0,
    predictions=39876,
    revisions=12,
    late=14,
    gaps=5,
    restarted=1,
    skipped=0,
    invalid_values=0,
    held_too_long=0,
    dead_letters=3,
    dropped={"duplicate": 41, "bad_cycle": 3},
    lag_entries=2,
    lag_seconds=0.01,
    oldest_unanswered=0.2,
    unpublished=3,
    publish_refused=0,
    watermark=43100,
    journal="6f1c",
    journal_bytes=7_340_032,
    journal_rate=5_872_025.0,
    disk_free=41_000_000_000,
    connected=True,
)
INFO = {
    "version": "0.1.0",
    "bundle": "cmapss_fd001",
    "bundle_sha256": "3b1f0c" * 10 + "abcd",
    "engine": "onnxruntime",
    "engine_version": "1.23.2",
    "precision": "float32",
    "journal": "6f1c",
}


class MadeUp:
    """A `Source` that changes when it is told to."""

    def __init__(self, fleet: Fleet) -> None:
        self.daemon_alarms: dict[str, tuple[bool, float]] = {}
        self.dropped = 0
        self._fleet = fleet
        self._lock = threading.Lock()
        self._turned = threading.Condition()
        self._version = 0

    @contextmanager
    def fleet(self) -> Iterator[Fleet]:
        with self._lock:
            yield self._fleet

    def wait(self, version: int, timeout: float) -> int:
        with self._turned:
            self._turned.wait_for(lambda: self._version != version, timeout)
            return self._version

    def turn(self) -> None:
        """Tell who waits that the fleet has changed."""
        with self._turned:
            self._version += 1
            self._turned.notify_all()


def prediction(asset: Asset, life: int, cycle: int, rul: float, **changes: Any) -> Prediction:
    spread = 4 + 0.18 * rul
    critical, healthy = float(np.clip(1 - rul / 45, 0.01, 0.97)), float(np.clip(rul / 110 - 0.2, 0.01, 0.97))
    weights = {"healthy": healthy, "degrading": 0.35, "critical": critical}
    shares = {name: round(weight / sum(weights.values()), 5) for name, weight in weights.items()}
    fields: dict[str, Any] = {
        "schema": "edge-rul/prediction/1",
        "asset": asset.name,
        "levels": dict(asset.levels),
        "life": life,
        "cycle": cycle,
        "revision": 0,
        "ts": iso(1_767_225_600_000),
        "rul": round(rul, 5),
        "rul_unit": "cycles",
        "health": Health(max(shares, key=lambda name: shares[name]), shares),
        "quality": Quality("good", 0, 0, [], 0),
        "bundle": BundleId("cmapss_fd001", "0" * 64),
        "engine": EngineId("onnxruntime", "float32"),
        "journal": "6f1c",
    }
    fields |= {"rul_low": max(0.0, rul - spread), "rul_high": rul + spread if rul + spread < MAX_RUL else None}
    said = Prediction(**{**fields, **changes})
    return msgspec.structs.replace(said, interval=Interval(0.9, not said.quality.outside))


def make_fleet(assets: int, wall: float, *, cycles: int = 140) -> Fleet:
    """A fleet of made-up assets on three lines, as it stands at `wall`."""
    rng = np.random.default_rng(7)
    fleet = Fleet(assets + 10)  # with room for who comes later
    low = np.array([i.low for i in INPUTS])
    width = np.array([i.high - i.low for i in INPUTS])
    for n in range(assets):
        asset = Asset(f"engine-{n:03d}", (("line", "ABC"[n % 3]),))
        left = 4.0 + 120.0 * (n / max(1, assets)) ** 0.8
        values = (low + width * rng.uniform(0.1, 0.9, len(INPUTS))).astype(np.float32)
        waiting = n % 20 == 19
        length = 17 if waiting else int(cycles * (0.6 + 0.4 * (n % 7) / 6))
        if n % 9 == 4:
            values[1] = low[1] + 1.3 * width[1]
        fleet.heard(Reading(asset, length, round(wall * 1000) - 400, values), wall - (90 if n % 33 == 5 else 1))
        if waiting:
            continue
        drift = np.cumsum(rng.normal(0, 0.5, length))
        for life, count in ((0, length // 2), (1, length)) if n % 4 == 0 else ((0, length),):
            end = 3.0 if (n % 4 == 0 and life == 0) else left
            for cycle in range(30, count + 1):
                rul = float(np.clip(end + (count - cycle) + 2 * (drift[cycle - 1] - drift[count - 1]), 0.5, MAX_RUL))
                said = prediction(asset, life, cycle, rul)
                if cycle == count and n % 9 == 4:
                    said = prediction(asset, life, cycle, rul, quality=Quality("uncertain", 2, 0, ["T30"], 0))
                fleet.answered(Answered(asset, said, True))
        for rule, limit in ((LOW, 20.0), (CRITICAL, 10.0)):
            if left < limit:
                known, shelved = rule is LOW and n % 5 == 2, length + 14 if n == 3 else None
                status = Status(State.ACTIVE, 0, length - 6, left, known, shelved)
                fleet.alarm(Change(asset, rule, status, length, None, None))
    return fleet


@contextmanager
def serving(assets: int, *, cycles: int = 140, **options: Any) -> Iterator[tuple[HttpServer, MadeUp]]:
    """A server over a made-up fleet on a free port of loopback. options: of `HttpServer`."""
    source = MadeUp(make_fleet(assets, time.time(), cycles=cycles))
    metrics = Metrics(INFO, source, starts=(3, 1))
    metrics.update(STATISTICS)
    pages = Pages(source, metrics, CATALOGUE, ready=lambda: "")
    server = HttpServer(
        metrics, "127.0.0.1", 0, **{"ready": lambda: "", "alive": lambda: "", "pages": pages, **options}
    )
    with contextlib.closing(server):
        yield server, source
