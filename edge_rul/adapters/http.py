"""Metrics and health over HTTP: GET /metrics for Prometheus, /healthz and /readyz for whoever restarts things.

Owns the server's thread, the registry, and who may ask. The worker tells what it did (`Metrics.batch`, `.answered`) and
hands over its statistics now and then; a scrape reads only what was handed over, so that it never waits for the worker
and the worker never for it. Series are of the daemon and not of assets: their number does not grow with the plant.
"""

from __future__ import annotations

import hmac
import ssl
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from edge_rul.core.outgoing import Statistics
from edge_rul.errors import EXIT_CONFIG, EdgeRulError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)

# Statistics' counters and gauges by metric; the rest is named below.
_COUNTERS = {
    "readings": "Readings that came in",
    "predictions": "Predictions published",
    "revisions": "Predictions published again, as a late reading changed them",
    "late": "Readings that came late and were put in their place",
    "gaps": "Cycles that never came",
    "skipped": "Windows left out, as scoring lagged",
    "future_times": "Time stamps dropped, as they lay ahead of our clock",
    "publish_refused": "Messages that the broker refused",
}
_GAUGES = {
    "assets": ("assets", "Assets that were heard of"),
    "lag_entries": ("lag_entries", "Entries that came in and are not applied"),
    "lag_seconds": ("lag_seconds", "How long the oldest of them has waited"),
    "oldest_unanswered": ("oldest_unanswered_seconds", "Age of the oldest entry whose answers are not acknowledged"),
    "unpublished": ("unpublished_messages", "Messages that wait for the broker"),
    "journal_bytes": ("journal_bytes", "Size of the journal"),
    "disk_free": ("disk_free_bytes", "Room on the journal's disk"),
    "connected": ("mqtt_connected", "1 while connected to the broker"),
    "uptime": ("uptime_seconds", "Time since the start"),
}


class Metrics(Collector):
    """What Prometheus is told. info: constant labels, such as bundle and engine."""

    def __init__(self, info: dict[str, str]) -> None:
        self._info = info
        self._statistics: Statistics | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

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
        self._statistics = statistics

    def collect(self) -> Iterable[Any]:
        yield InfoMetricFamily("edge_rul", "What serves", value=self._info)
        if self._statistics is None:
            return
        values = msgspec.structs.asdict(self._statistics)
        for field, what in _COUNTERS.items():
            yield CounterMetricFamily(f"edge_rul_{field}", what, value=values[field])
        dropped = CounterMetricFamily("edge_rul_dropped", "Readings and messages not used", labels=["reason"])
        for reason, count in sorted(values["dropped"].items()):
            dropped.add_metric([reason], count)
        yield dropped
        for field, (name, what) in _GAUGES.items():
            yield GaugeMetricFamily(f"edge_rul_{name}", what, value=float(values[field]))


class MetricsServer:
    """Serves one `Metrics`. ready: a callable that says why it is not, or ""; alive: likewise."""

    def __init__(
        self,
        metrics: Metrics,
        host: str,
        port: int,
        *,
        ready: Any,
        alive: Any,
        token: str | None = None,
        tls: tuple[str, str] | None = None,
    ) -> None:
        """token: that a caller of /metrics has to bear. tls: certificate and key files. Raises EdgeRulError (78)."""
        self.metrics = metrics
        handler = type("_Handler", (_Handler,), {"metrics": metrics, "ready": ready, "alive": alive, "token": token})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
            if tls is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.load_cert_chain(*tls)
                self._server.socket = context.wrap_socket(
                    self._server.socket, server_side=True, do_handshake_on_connect=False
                )  # the handshake is the request thread's, or one slow caller would keep out all others
        except (OSError, OverflowError) as e:
            error = EdgeRulError("serve metrics", f"{host}:{port}", str(e), hint="choose another http.port")
            error.exit_code = EXIT_CONFIG
            raise error from e
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


class _Handler(BaseHTTPRequestHandler):
    metrics: Metrics
    ready: Any
    alive: Any
    token: str | None
    server_version = "edge-rul"
    sys_version = ""
    timeout = 10  # seconds for a request; nobody may hold a thread

    def do_GET(self) -> None:
        kind = type(self)
        if self.path == "/metrics":
            if not self._may():
                self._answer(401, "a bearer token is needed\n", {"WWW-Authenticate": "Bearer"})
            else:
                self._answer(200, generate_latest(kind.metrics.registry).decode(), {"Content-Type": CONTENT_TYPE})
        elif self.path in ("/healthz", "/readyz"):
            problem = kind.alive() if self.path == "/healthz" else kind.ready()
            self._answer(503 if problem else 200, f"{problem or 'ok'}\n")
        else:
            self._answer(404, "there is /metrics, /healthz and /readyz\n")

    def _may(self) -> bool:
        if type(self).token is None:
            return True
        given = self.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {type(self).token}".encode())

    def _answer(self, code: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is nothing to log."""
