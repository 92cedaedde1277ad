"""Replay the lives of a data set to a broker, cycle by cycle, as a plant would send them.

    python tools/replay.py --data DIR                    every cycle of every engine of test_FD001.txt, 1 cycle/s each
    python tools/replay.py --data DIR --rate 0           the same, as fast as the broker acknowledges
    python tools/replay.py --data DIR --bundle BUNDLE    the test lives of whatever data set the bundle was trained on

Owns the assets' names and the order of their cycles: all assets run side by side, the first cycle of each, then the
second of each, and an asset whose record ends falls silent. Reading the files and publishing are the package's. Must
not know the daemon or its configuration.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rul import bundle as bundles
from edge_rul.core.topic import Template
from edge_rul.errors import EXIT_OK, EXIT_USAGE, EdgeRulError, TransportError
from edge_rul.simulate import TOPIC, Publisher, message, publish, read_password, stop_on_signals, topic_template
from edge_rul.simulator import Reading, line_of
from edge_rul.training import dataset
from edge_rul.training.cmapss import SENSORS, load
from edge_rul.training.evaluate import dataset_of
from edge_rul.training.parts import Part
from edge_rul.training.table import Index, Table

ENGINES_A_LINE = 25
LOST_AFTER = 60.0  # seconds without an acknowledgement after which a replay has failed


class DataSet(NamedTuple):
    """Lives to replay. period: milliseconds from one cycle to the next, where the data set says so."""

    table: Table
    inputs: Sequence[str]
    period: int | None


def load_set(data: Path, name: str) -> Table:
    """name: a C-MAPSS file in `data`, such as test_FD001.txt. All 21 sensors. Raises DataError, ValueError."""
    part, _, subset = name.removesuffix(".txt").partition("_")
    if part not in ("train", "test") or not subset:
        raise ValueError(f"--set is {name!r}, expected a file like test_FD001.txt or train_FD001.txt")
    return load(data, subset, part, SENSORS)


def load_bundles_set(data: Path, bundle: Path, part: Part) -> DataSet:
    """The lives of `part` of the data set that the bundle was trained on, with its inputs as they are in the files.

    Raises BundleError, DataError.
    """
    loaded = bundles.load(bundle)
    inputs = [i.name for i in loaded.manifest.inputs]
    settings = dataset_of(loaded)
    table = dataset.load(settings, data, part, inputs, loaded.manifest.rul.unit)
    seconds = settings.seconds_per_cycle
    return DataSet(table, inputs, None if seconds is None else round(1000 * seconds))


def engine_name(number: int) -> str:
    """The asset's name of an engine counted from 1, as in the file."""
    return f"engine-{number:03d}"


def rounds(table: Table, engines: int | None = None, inputs: Sequence[str] = SENSORS) -> Iterator[list[Reading]]:
    """The first cycle of every asset, then the second of every asset that has one, ...; the first `engines` only."""
    starts = np.flatnonzero(np.append(True, table.asset[1:] != table.asset[:-1]))  # (E,)
    ends = np.append(starts[1:], len(table))[:engines]  # (E,) row after the last
    starts, before = starts[:engines], _before(table)
    for step in range(int((ends - starts).max())):
        yield [
            _reading(table, inputs, before, e, int(start) + step, int(end))
            for e, (start, end) in enumerate(zip(starts, ends, strict=True))
            if start + step < end
        ]


def _before(table: Table) -> Index:
    """(N,) cycles of the asset's lives before the reading's."""
    starts = table.starts  # (L,)
    lasted = table.cycle[np.append(starts[1:], len(table)) - 1] + 1  # (L,)
    before = np.cumsum(lasted) - lasted  # (L,)
    new = np.append(True, table.asset[starts[1:]] != table.asset[starts[:-1]])  # (L,)
    before -= np.maximum.accumulate(np.where(new, before, 0))
    return np.repeat(before, np.diff(np.append(starts, len(table))))


def _reading(table: Table, inputs: Sequence[str], before: Index, asset: int, row: int, end: int) -> Reading:
    # Through text, as float32 prints: 641.82 and not 641.8200073242188. It is the same float32 again at the receiver.
    values = {name: float(str(value)) for name, value in zip(inputs, table.inputs[row], strict=True)}
    name = str(table.asset[row])
    name = engine_name(int(name)) if name.isdecimal() else name  # a bare number is an engine's
    line = line_of(asset, ENGINES_A_LINE)
    return Reading(name, line, int(table.cycle[row]), values, end - row - 1, int(before[row]))


def stamps(start: int, period: int) -> Callable[[Reading], int]:
    """Event times: cycle 1 of every asset's first life at `start`, each later cycle `period` milliseconds after the one
    before."""
    return lambda reading: start + (reading.before + reading.cycle - 1) * period


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
    inputs: Sequence[str] = SENSORS,
    period: int | None = None,
) -> int:
    """Publish the assets and return how many readings the broker has acknowledged: all, unless `stop` was set.

    rate: cycles a second of each asset, 0 as fast as the broker acknowledges. warm_up: cycles that go out at once at
    the start. period: milliseconds of event time from cycle to cycle, in place of the rate's. Event times end up at
    about now. Raises TransportError when acknowledgements stop coming.
    """
    # With a period of their own, or at no rate, all cycles go out before their time.
    ahead = warm_up if rate > 0 and period is None else int((table.cycle + _before(table)).max())
    period = period or (round(1000 / rate) if rate > 0 else 1000)
    sent = publish(
        rounds(table, engines, inputs),
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
    parser = argparse.ArgumentParser(description="Replay the lives of a data set over MQTT.")
    parser.add_argument("--data", type=Path, required=True, help="directory with the data set's files")
    parser.add_argument("--set", default="test_FD001.txt", help="C-MAPSS file to replay (default test_FD001.txt)")
    parser.add_argument("--bundle", type=Path, help="in place of --set: the data set that this bundle was trained on")
    parser.add_argument("--part", choices=("test", "train"), default="test", help="with --bundle (default test)")
    parser.add_argument("--engines", type=int, help="only the first N assets (default all)")
    parser.add_argument("--rate", type=float, default=1.0, help="cycles/s of each asset, 0: no pause (default 1)")
    parser.add_argument("--warm-up", type=int, default=0, help="cycles of each asset to send at once (default 0)")
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
        if args.bundle is None:
            chosen, named = DataSet(load_set(args.data, args.set), SENSORS, None), args.set
        else:
            chosen, named = load_bundles_set(args.data, args.bundle, args.part), f"the {args.part} lives"
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
                f"replaying {named} of {args.data} to {args.host}:{args.port} on {args.topic}; Ctrl-C stops",
                flush=True,
            )
            sent = replay(
                chosen.table,
                publisher,
                topic=template,
                rate=args.rate,
                engines=args.engines,
                warm_up=args.warm_up,
                stop=stop,
                inputs=chosen.inputs,
                period=chosen.period,
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
