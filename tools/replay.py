"""Replay the engines of a C-MAPSS file to a broker, cycle by cycle, as a plant would send them.

    python tools/replay.py --data DIR                    every cycle of every engine of test_FD001.txt, 1 cycle/s each
    python tools/replay.py --data DIR --rate 0           the same, as fast as the broker acknowledges

Owns the engines' names and the order of their cycles: all engines run side by side, cycle 1 of each, then cycle 2 of
each, and an engine whose record ends falls silent. Reading the files and publishing are the package's. Must not know
the daemon, its bundle or its configuration.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edge_rul.core.topic import Template
from edge_rul.errors import EXIT_OK, EXIT_USAGE, EdgeRulError, TransportError
from edge_rul.simulate import TOPIC, Publisher, message, publish, read_password, stop_on_signals, topic_template
from edge_rul.simulator import Reading, line_of
from edge_rul.training.cmapss import SENSORS, load
from edge_rul.training.table import Table

ENGINES_A_LINE = 25
LOST_AFTER = 60.0  # seconds without an acknowledgement after which a replay has failed


def load_set(data: Path, name: str) -> Table:
    """name: a C-MAPSS file in `data`, such as test_FD001.txt. All 21 sensors. Raises DataError, ValueError."""
    part, _, subset = name.removesuffix(".txt").partition("_")
    if part not in ("train", "test") or not subset:
        raise ValueError(f"--set is {name!r}, expected a file like test_FD001.txt or train_FD001.txt")
    return load(data, subset, part, SENSORS)


def engine_name(number: int) -> str:
    """The asset's name of an engine counted from 1, as in the file."""
    return f"engine-{number:03d}"


def rounds(table: Table, engines: int | None = None) -> Iterator[list[Reading]]:
    """Cycle 1 of every engine, then cycle 2 of every engine that has one, ...; the first `engines` only."""
    starts = table.starts[:engines]  # (E,)
    ends = np.append(table.starts[1:], len(table))[:engines]  # (E,) row after the last
    for step in range(int((ends - starts).max())):
        yield [
            _reading(table, e, int(start) + step, int(end))
            for e, (start, end) in enumerate(zip(starts, ends, strict=True))
            if start + step < end
        ]


def _reading(table: Table, engine: int, row: int, end: int) -> Reading:
    # Through text, as float32 prints: 641.82 and not 641.8200073242188. It is the same float32 again at the receiver.
    values = {name: float(str(value)) for name, value in zip(SENSORS, table.inputs[row], strict=True)}
    name = engine_name(int(table.asset[row]))
    return Reading(name, line_of(engine, ENGINES_A_LINE), int(table.cycle[row]), values, end - row - 1)


def stamps(start: int, period: int) -> Callable[[Reading], int]:
    """Event times: cycle 1 of every engine at `start`, each later one `period` milliseconds after the one before."""
    return lambda reading: start + (reading.cycle - 1) * period


def messages(
    table: Table, topic: str = TOPIC, *, engines: int | None = None, start: int = 0, period: int = 1000
) -> Iterator[tuple[str, bytes]]:
    """What a replay sends, in order, as topic and payload. start, period: see `stamps`."""
    stamp, template = stamps(start, period), topic_template(topic)
    for readings in rounds(table, engines):
        for reading in readings:
            yield message(reading, template, stamp(reading), "replay")


def replay(
    table: Table,
    publisher: Publisher,
    *,
    topic: Template,
    rate: float = 0.0,
    engines: int | None = None,
    warm_up: int = 0,
    stop: threading.Event | None = None,
) -> int:
    """Publish the engines and return how many readings the broker has acknowledged: all, unless `stop` was set.

    rate: cycles a second of each engine, 0 as fast as the broker acknowledges. warm_up: cycles that go out at once at
    the start. Event times end up at about now. Raises TransportError when acknowledgements stop coming.
    """
    period = round(1000 / rate) if rate > 0 else 1000
    ahead = warm_up if rate > 0 else int(table.cycle.max())  # cycles that go out before their time
    sent = publish(
        rounds(table, engines),
        publisher,
        topic=topic,
        source="replay",
        stamp=stamps(int(time.time() * 1000) - ahead * period, period),
        rate=rate,
        free=warm_up,
        stop=stop,
    )
    stopped = stop is not None and stop.is_set()
    if not publisher.drain(1.5 if stopped else LOST_AFTER) and not stopped:
        where = f"{publisher.host}:{publisher.port}"
        raise TransportError("replay", where, f"the broker acknowledged nothing more for {LOST_AFTER:.0f} s")
    return sent


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay C-MAPSS engines over MQTT.")
    parser.add_argument("--data", type=Path, required=True, help="directory with the C-MAPSS files")
    parser.add_argument("--set", default="test_FD001.txt", help="file to replay (default test_FD001.txt)")
    parser.add_argument("--engines", type=int, help="only the first N engines (default all)")
    parser.add_argument("--rate", type=float, default=1.0, help="cycles/s of each engine, 0: no pause (default 1)")
    parser.add_argument("--warm-up", type=int, default=0, help="cycles of each engine to send at once (default 0)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--mqtt", choices=("5", "3.1.1"), default="5", help="protocol version (default 5)")
    parser.add_argument("--topic", default=TOPIC, help=f"default {TOPIC}")
    parser.add_argument("--username")
    parser.add_argument("--password-file", type=Path)
    args = parser.parse_args()
    if args.rate < 0 or (args.engines is not None and args.engines < 1):
        parser.error("--rate is at least 0, --engines at least 1")
    stop = stop_on_signals()
    try:
        table = load_set(args.data, args.set)
        publisher = Publisher(
            args.host,
            args.port,
            version=args.mqtt,
            username=args.username,
            password=read_password(args.password_file),
            client_id="edge-rul-replay",
            notice=lambda text: print(text, flush=True),
        )
        template = topic_template(args.topic)
        with publisher:
            print(
                f"replaying {args.set} of {args.data} to {args.host}:{args.port} on {args.topic}; Ctrl-C stops",
                flush=True,
            )
            sent = replay(
                table,
                publisher,
                topic=template,
                rate=args.rate,
                engines=args.engines,
                warm_up=args.warm_up,
                stop=stop,
            )
    except ValueError as e:
        print(f"replay: {e}", file=sys.stderr)
        return EXIT_USAGE
    except EdgeRulError as e:
        print(f"replay: {e}", file=sys.stderr)
        return e.exit_code
    print(f"{sent} readings sent", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
