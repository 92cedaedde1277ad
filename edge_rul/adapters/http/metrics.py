"""What Prometheus is told.

Owns the registry and the metrics' names. The worker tells what it did (`Metrics.batch`, `.answered`) and hands over its
statistics now and then; a scrape reads only what was handed over, so that it never waits for the worker and the worker
never for it. Series are of the daemon, and their number does not grow with the plant, unless series of each asset are
asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edge_rul.adapters.http.source import Source
from edge_rul.core.fleet import PRIORITIES
from edge_rul.core.outgoing import Statistics
from edge_rul.core.status import Candidate
from edge_rul.errors import EdgeRulError

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of its own for each, which nobody asks for
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)

# Statistics' counters and gauges by metric; the rest is named below.
_COUNTERS = {
    "readings": "Readings that came in",
    "parts": "Parts of readings, from sensors that send apart",
    "predictions": "Predictions published",
    "revisions": "Predictions published again, as a late reading changed them",
    "late": "Readings that came late and were put in their place",
    "gaps": "Cycles that never came",
    "restarted": "Windows that began anew behind a gap",
    "skipped": "Windows left out, as scoring lagged",
    "invalid_values": "Values beyond their input's valid range, taken as missing",
    "held_too_long": "Windows not answered, as a value in them was held for longer than it may",
    "dead_letters": "Messages not used that were told on the dead-letter topic",
    "publish_refused": "Messages that the broker refused",
}
_GAUGES = {
    "assets": ("assets", "Assets that were heard of"),
    "stale_assets": ("stale_assets", "Assets of which nothing has come for too long"),
    "lag_entries": ("lag_entries", "Entries that came in and are not applied"),
    "lag_seconds": ("lag_seconds", "How long the oldest of them has waited"),
    "oldest_unanswered": ("oldest_unanswered_seconds", "Age of the oldest entry whose answers are not acknowledged"),
    "unpublished": ("unpublished_messages", "Messages that wait for the broker"),
    "journal_bytes": ("journal_bytes", "Size of the journal"),
    "disk_free": ("disk_free_bytes", "Room on the journal's disk"),
    "connected": ("mqtt_connected", "1 while connected to the broker"),
    "uptime": ("uptime_seconds", "Time since the start"),
}
GpuMemory = Callable[[], tuple[int, int]]


class Metrics(Collector):
    """What Prometheus is told. info: constant labels, such as bundle and engine. starts: of the daemon on its state
    directory, and how many of them followed on no orderly end. gpu_memory: bytes in use and in all, where there is a
    GPU. asset_series: series of each asset too."""

    def __init__(
        self,
        info: dict[str, str],
        source: Source | None = None,
        *,
        starts: tuple[int, int] = (1, 0),
        gpu_memory: GpuMemory | None = None,
        asset_series: bool = False,
    ) -> None:
        self.info = info
        self.statistics: Statistics | None = None
        self.candidate: Candidate | None = None
        self._source = source
        self.starts = starts
        self.gpu_memory = gpu_memory
        self._asset_series = asset_series
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"edge_rul_{name}", what, buckets=buckets, registry=self.registry)

        self._windows = histogram("batch_windows", "Windows in an engine call", _WINDOWS)
        self._engine = histogram("engine_seconds", "Time of an engine call", _SECONDS)
        self._received = histogram("receive_to_publish_seconds", "From a reading's arrival to its answer", _SECONDS)
        self._event = histogram("event_to_publish_seconds", "From a reading's event time to its answer", _SECONDS)

    def batch(self, windows: int, seconds: float) -> None:
        """An engine call of `windows` took `seconds`."""
        self._windows.observe(windows)
        self._engine.observe(seconds)

    def answered(self, since_receipt: float, since_event: Iterable[float]) -> None:
        """A batch was handed to the publisher. since_receipt: of its oldest entry. since_event: of each prediction."""
        self._received.observe(since_receipt)
        for seconds in since_event:
            self._event.observe(max(0.0, seconds))

    def update(self, statistics: Statistics) -> None:
        self.statistics = statistics

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, and their content type. accept: the request's header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Any]:
        yield InfoMetricFamily("edge_rul", "What serves", value=self.info)
        yield CounterMetricFamily("edge_rul_starts", "Starts on this state directory", value=self.starts[0])
        yield CounterMetricFamily(
            "edge_rul_unclean_starts", "Starts that followed on no orderly end", value=self.starts[1]
        )
        if self.statistics is not None:
            yield from _of_statistics(msgspec.structs.asdict(self.statistics))
        if self.candidate is not None:
            yield from _of_candidate(self.candidate)
        if self.gpu_memory is not None:
            with contextlib.suppress(EdgeRulError):  # the worker meets a lost GPU, and tells of it
                used, total = self.gpu_memory()
                yield GaugeMetricFamily("edge_rul_gpu_memory_used_bytes", "GPU memory in use, by anybody", value=used)
                yield GaugeMetricFamily("edge_rul_gpu_memory_bytes", "GPU memory in all", value=total)
        if self._source is not None:
            yield from self._of_fleet(self._source)

    def _of_fleet(self, source: Source) -> Iterator[Any]:
        alarms = GaugeMetricFamily(
            "edge_rul_assets_in_alarm", "Assets by the priority of their highest alarm", labels=["priority"]
        )
        rul = GaugeMetricFamily("edge_rul_asset_rul", "Remaining useful life, in the bundle's unit", labels=["asset"])
        rank = GaugeMetricFamily(
            "edge_rul_asset_alarm", "0 without an alarm, 1 to 4 for low, medium, high, urgent", labels=["asset"]
        )
        seen = GaugeMetricFamily(
            "edge_rul_asset_seen_timestamp_seconds", "When its last message came", labels=["asset"]
        )
        with source.fleet() as fleet:
            records = fleet.records()
            ranks = [record.rank for record in records]
            unwritten = len(fleet.changed)
            if self._asset_series:
                for record, value in zip(records, ranks, strict=True):
                    rank.add_metric([record.name], value)
                    seen.add_metric([record.name], record.seen)
                    if record.answer is not None:
                        rul.add_metric([record.name], record.answer.rul)
        for index, priority in enumerate(PRIORITIES):
            alarms.add_metric([priority], ranks.count(index + 1))
        yield alarms
        own = GaugeMetricFamily("edge_rul_daemon_alarm", "1 while an alarm of the daemon's own is on", labels=["alarm"])
        for name, (active, _) in source.daemon_alarms.items():
            own.add_metric([name], float(active))
        yield own
        yield CounterMetricFamily("edge_rul_page_dropped", "Entries and answers lost to the page", value=source.dropped)
        yield GaugeMetricFamily(
            "edge_rul_history_unwritten_assets", "Assets whose history is newer than its file", value=unwritten
        )
        if self._asset_series:
            yield from (rul, rank, seen)


def _of_candidate(candidate: Candidate) -> Iterator[Any]:
    yield CounterMetricFamily("edge_rul_candidate_windows", "Windows that both bundles answered", candidate.windows)
    yield CounterMetricFamily("edge_rul_candidate_skipped", "Windows left out, as others waited", candidate.skipped)
    for name, what, value in (
        ("rul_mean_difference", "Mean absolute difference in RUL from what serves", candidate.rul_mean),
        ("rul_largest_difference", "Largest absolute difference in RUL from what serves", candidate.rul_largest),
        ("class_disagreement", "Share of the windows with another health class", candidate.disagreement),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"edge_rul_candidate_{name}", what, value)


def _of_statistics(values: dict[str, Any]) -> Iterator[Any]:
    for field, what in _COUNTERS.items():
        yield CounterMetricFamily(f"edge_rul_{field}", what, value=values[field])
    dropped = CounterMetricFamily("edge_rul_dropped", "Readings and messages not used", labels=["reason"])
    for reason, count in sorted(values["dropped"].items()):
        dropped.add_metric([reason], count)
    yield dropped
    for field, (name, what) in _GAUGES.items():
        yield GaugeMetricFamily(f"edge_rul_{name}", what, value=float(values[field]))
