"""How long the status page takes with a large fleet: p50 and p95 of each of its forms, beside the limit; and what the
hand-over to it costs the worker.

    python tools/bench_page.py [--assets 10000] [--requests 100]

Server and caller share one process and one interpreter lock, as the daemon's page and worker do. Ends with 1 where a
p95 is above the limit.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import structlog
from page_fleet import prediction, serving

from edge_rul.adapters.history import History
from edge_rul.core.answers import Answered
from edge_rul.core.entry import AssetEntry
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.errors import EXIT_FOUND, EXIT_OK

LIMIT_MS = 200.0
FORMS = {
    "by urgency": "/",
    "last page": "/?page=1000000",
    "sorted by trend": "/?sort=trend",
    "sorted by health, descending": "/?sort=health&desc=1",
    "filtered by name": "/?q=engine-77&sort=seen",
    "in alarm only": "/?show=alarm",
    "one asset": "/asset?name=B%2Fengine-001",
    "the daemon": "/daemon",
    "/metrics": "/metrics",
}


def hand_over(readings: int = 20_000, at_once: int = 32) -> tuple[float, float]:
    """Microseconds a reading and its prediction: of the worker, which hands over, and of the thread that takes."""
    assets = [Asset(f"engine-{n:03d}", (("line", "A"),)) for n in range(100)]
    values = np.zeros(14, np.float32)
    batches = []
    for start in range(0, readings, at_once):
        some = [(assets[n % 100], n // 100) for n in range(start, start + at_once)]
        entries: list[AssetEntry] = [Reading(asset, cycle, None, values) for asset, cycle in some]
        batches.append((entries, [Answered(a, prediction(a, 0, cycle, 50.0), True) for a, cycle in some]))
    with tempfile.TemporaryDirectory() as directory:
        history = History(Path(directory), max_assets=1000, log=structlog.get_logger())
        given = taken = 0.0
        for entries, answers in batches:
            began = time.perf_counter()
            for entry in entries:
                history.heard([entry])  # as they come: one reading a message
            history.answered(answers, [])
            middle = time.perf_counter()
            history.take()
            given, taken = given + middle - began, taken + time.perf_counter() - middle
        history.close()
    return 1e6 * given / readings, 1e6 * taken / readings


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--assets", type=int, default=10_000, metavar="N", help="size of the fleet (10000)")
    parser.add_argument("--requests", type=int, default=100, metavar="N", help="requests of each form (100)")
    args = parser.parse_args(argv)
    given, taken = hand_over()
    print(
        f"hand-over of a reading and its prediction: {given:.1f} us of the worker, {taken:.1f} us of the page's thread"
    )
    worst = 0.0
    with serving(args.assets, cycles=60) as (server, _):
        caller = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        print(f"{args.assets} assets, {args.requests} requests each; limit of p95 {LIMIT_MS:.0f} ms")
        print(f"{'form':<30} {'p50, ms':>9} {'p95, ms':>9} {'bytes':>9}")
        for name, path in FORMS.items():
            times = []
            for _ in range(args.requests):
                began = time.perf_counter()
                caller.request("GET", path)
                answer = caller.getresponse()
                body = answer.read()
                times.append(1000 * (time.perf_counter() - began))
                if answer.status != 200:
                    raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
            p95 = statistics.quantiles(times, n=20)[-1]
            worst = max(worst, p95)
            print(f"{name:<30} {statistics.median(times):>9.1f} {p95:>9.1f} {len(body):>9}")
    print(f"worst p95: {worst:.1f} ms, {'within' if worst <= LIMIT_MS else 'ABOVE'} the limit")
    return EXIT_OK if worst <= LIMIT_MS else EXIT_FOUND


if __name__ == "__main__":
    sys.exit(main())
