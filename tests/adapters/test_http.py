"""Metrics and health, asked over a real socket."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_rul.adapters.http import Metrics, MetricsServer
from edge_rul.core.outgoing import Statistics
from edge_rul.errors import EXIT_CONFIG, EdgeRulError

STATISTICS = Statistics(
    schema="edge-rul/statistics/1",
    ts="2026-01-01T00:00:00.000Z",
    uptime=12.5,
    assets=3,
    readings=100,
    predictions=40,
    revisions=2,
    late=1,
    gaps=5,
    skipped=0,
    future_times=0,
    dropped={"duplicate": 4, "bad_cycle": 1},
    lag_entries=7,
    lag_seconds=0.25,
    oldest_unanswered=1.5,
    unpublished=9,
    publish_refused=0,
    watermark=93,
    journal="j",
    journal_bytes=4096,
    journal_rate=0.0,
    disk_free=10**9,
    connected=True,
)


class Asked:
    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()


@contextmanager
def serving(**options: Any) -> Iterator[tuple[Metrics, Asked]]:
    metrics = Metrics({"bundle": "b", "engine": "onnxruntime"})
    server = MetricsServer(
        metrics, "127.0.0.1", 0, **{"ready": lambda: "", "alive": lambda: "", "token": None, **options}
    )
    try:
        yield metrics, Asked(server.port)
    finally:
        server.close()


def samples(text: str) -> dict[str, float]:
    return {
        s.name + "".join(f"{{{k}={v}}}" for k, v in sorted(s.labels.items()) if s.name != "edge_rul_info"): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_metrics_are_what_was_handed_over() -> None:
    with serving() as (metrics, asked):
        metrics.update(STATISTICS)
        metrics.batch(4, 0.02)
        metrics.answered(0.3, [1.0, 2.0])
        code, text = asked.get("/metrics")
    found = samples(text)
    assert code == 200
    assert found["edge_rul_readings_total"] == 100
    assert found["edge_rul_dropped_total{reason=duplicate}"] == 4
    assert found["edge_rul_lag_seconds"] == 0.25
    assert found["edge_rul_mqtt_connected"] == 1
    assert found["edge_rul_info"] == 1
    assert found["edge_rul_batch_windows_sum"] == 4
    assert found["edge_rul_engine_seconds_count"] == 1
    assert found["edge_rul_event_to_publish_seconds_count"] == 2


def test_before_the_first_statistics_only_what_is_known_is_told() -> None:
    with serving() as (_, asked):
        code, text = asked.get("/metrics")
    assert code == 200
    assert "edge_rul_readings_total" not in text
    assert 'bundle="b"' in text


def test_health_and_readiness_say_why_not() -> None:
    state = {"ready": "not connected to the broker", "alive": ""}
    with serving(ready=lambda: state["ready"], alive=lambda: state["alive"]) as (_, asked):
        assert asked.get("/healthz") == (200, "ok\n")
        assert asked.get("/readyz") == (503, "not connected to the broker\n")
        state["ready"] = ""
        assert asked.get("/readyz")[0] == 200
        state["alive"] = "stuck"
        assert asked.get("/healthz") == (503, "stuck\n")


def test_a_token_guards_the_metrics_and_not_the_health() -> None:
    with serving(token="secret") as (_, asked):
        assert asked.get("/metrics")[0] == 401
        assert asked.get("/metrics", Authorization="Bearer wrong")[0] == 401
        assert asked.get("/metrics", Authorization="Bearer secret")[0] == 200
        assert asked.get("/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/metrics?x=1"])
def test_there_is_nothing_else(path: str) -> None:
    with serving() as (_, asked):
        assert asked.get(path)[0] == 404


def test_a_port_that_is_taken_is_the_operators_fault() -> None:
    with serving() as (metrics, asked):
        with pytest.raises(EdgeRulError, match=r"serve metrics: 127.0.0.1") as caught:
            MetricsServer(metrics, "127.0.0.1", asked._port, ready=lambda: "", alive=lambda: "")
        assert caught.value.exit_code == EXIT_CONFIG
