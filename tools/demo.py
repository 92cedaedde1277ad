"""The first run: a broker, the daemon with the bundled model and a fleet of engines, and a live table of what they say.

    make demo                 simulated engines
    make demo DATA=DIR        the real test engines of NASA C-MAPSS FD001 in DIR, with their true RUL beside ours

Owns the order of things from start to end, and the screen. How processes are run is demo_processes.py's, what the table
shows demo_table.py's. Must not need torch, or anything outside this directory but a terminal.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback of half of one

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from demo_processes import LOOPBACK, ROOT, Child, Children, Failed, free_port, listening
from demo_table import Board, as_svg
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from replay import engine_name, load_set
from rich.console import Console
from rich.live import Live
from rich.text import Text

from edge_rul.bundle import load
from edge_rul.config import load_settings
from edge_rul.errors import EXIT_FOUND, EXIT_OK, EdgeRulError

CONFIG = ROOT / "configs" / "edge-rul.yaml"
FRAME = 0.25  # seconds between two pictures on a terminal
SNAPSHOT = 5.0  # and between two where there is none
PLAIN_WIDTH = 100  # columns where there is none


class Listener:
    """Everything that the broker says, with the time at which it came."""

    def __init__(self, filters: list[str], port: int) -> None:
        self._inbox: deque[tuple[float, str, bytes]] = deque()
        self.subscribed = threading.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, "edge-rul-demo-table", protocol=MQTTProtocolVersion.MQTTv5
        )

        def on_connect(client: mqtt.Client, *_: Any) -> None:
            client.subscribe([(text, 0) for text in filters])

        def on_message(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
            self._inbox.append((time.monotonic(), message.topic, bytes(message.payload)))

        self._client.on_connect = on_connect
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = on_message
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()

    def drain_into(self, board: Board) -> None:
        while self._inbox:
            now, topic, payload = self._inbox.popleft()
            board.apply(topic, payload, now)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def write_config(directory: Path, port: int, page: int) -> Path:
    """The shipped configuration, turned to the demo's broker. page: port of the status page."""
    data = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    data["bundle"] = str((CONFIG.parent / data["bundle"]).resolve())
    data["mqtt"] = {"host": LOOPBACK, "port": port, "version": 5, "client_id": "edge-rul-demo"}
    data["journal"] = {"directory": str(directory / "state"), "min_free": 0}
    data["engine"] = {"name": "onnxruntime", "cache": str(directory / "cache")}
    data["http"] = {"host": LOOPBACK, "port": page}
    data["log"] = {"level": "info", "format": "console"}
    path = directory / "edge-rul.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def fleet_argv(args: argparse.Namespace, port: int, window: int) -> list[str]:
    to = ["--host", LOOPBACK, "--port", str(port), "--rate", f"{args.rate:g}"]
    if args.data is not None:
        replay = [str(ROOT / "tools" / "replay.py"), "--data", str(args.data), *to]
        return [*replay, "--warm-up", str(window), *(["--engines", str(args.assets)] if args.assets else [])]
    return ["-m", "edge_rul.cli", "simulate", *to, "--assets", str(args.assets or 12)]


def ends_of(data: Path, engines: int | None) -> dict[str, tuple[int, int]]:
    """Last recorded cycle, and the cycle of failure, of each test engine by asset. Raises DataError."""
    table = load_set(data, "test_FD001.txt")
    last = [*(table.starts[1:] - 1), len(table) - 1][:engines]
    return {
        engine_name(int(table.asset[row])): (int(table.cycle[row]), int(table.cycle[row] + table.rul[row]))
        for row in last
    }


def run(args: argparse.Namespace, console: Console, stop: threading.Event, children: Children) -> None:
    """Start everything, show the table until `stop`, and leave the last picture. Raises Failed, EdgeRulError."""
    began = time.monotonic()

    def step(text: str) -> None:
        console.print(Text.assemble((f"{time.monotonic() - began:5.1f} s  ", "dim"), text))

    port, page = free_port(), free_port()
    config = write_config(children.logs, port, page)
    settings, source = load_settings(config)
    manifest = load(source.file("bundle", settings.bundle)).manifest
    ends = ends_of(args.data, args.assets) if args.data is not None else None
    title = "C-MAPSS FD001 test engines, replayed" if ends else "SIMULATED engines"
    board = Board(title, settings.topics, manifest, ends)

    children.start_broker(port)
    if not children.wait_for(lambda: listening(port), "starting the broker", stop):
        return
    step(f"broker up on {LOOPBACK}:{port}")
    listener = Listener(board.filters, port)
    try:
        if not children.wait_for(listener.subscribed.is_set, "listening to the broker", stop):
            return
        children.start("daemon", ["-m", "edge_rul.cli", "run", "--config", str(config)])
        step(f"daemon starting: loading {manifest.name} and verifying its golden windows ...")

        def online() -> bool:
            listener.drain_into(board)
            return board.daemon == "online"

        if not children.wait_for(online, "starting the daemon", stop):
            return
        step(f"daemon online; its status page is http://{LOOPBACK}:{page}/")
        fleet = children.start("fleet", fleet_argv(args, port, manifest.window))
        step(f"fleet starting; an engine's first RUL comes with the {manifest.window}th cycle that it sends")
        footer = f"Ctrl-C stops.  Status page: http://{LOOPBACK}:{page}/  MQTT: mosquitto_sub -V 5 -p {port} -v -t '#'"
        show(args, console, stop, children, fleet, board, listener, footer)
    finally:
        listener.close()


def show(
    args: argparse.Namespace,
    console: Console,
    stop: threading.Event,
    children: Children,
    fleet: Child,
    board: Board,
    listener: Listener,
    footer: str,
) -> None:
    """The table, until `stop` or --seconds; then once more where it stays, and as a picture for --svg."""
    end = time.monotonic() + args.seconds if args.seconds else float("inf")
    may_end = fleet if args.data is not None else None
    due = 0.0
    live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
    try:
        if live:
            live.start()
        while not stop.is_set() and (now := time.monotonic()) < end:
            listener.drain_into(board)
            children.check(may_end=may_end)
            if live:
                live.update(board.render(console.width, console.height, now, footer), refresh=True)
            elif board.engines and now >= due:
                console.print(board.render(console.width, None, now), "")
                due = now + SNAPSHOT
            stop.wait(min(FRAME, end - now))
    finally:
        if live:
            live.stop()
    listener.drain_into(board)
    console.print(board.render(console.width, None, time.monotonic()))
    if args.svg:
        svg = as_svg(board.render(100, 30, time.monotonic()), 100, "edge_rul: make demo")
        args.svg.write_text(svg, encoding="utf-8")


def next_steps(args: argparse.Namespace) -> str:
    command, script = "edge-rul", Path(sys.prefix) / "bin" / "edge-rul"
    if not shutil.which(command) and script.is_relative_to(Path.cwd()):
        command = str(script.relative_to(Path.cwd()))
    lines = [
        "",
        "What to do next",
        "  your own broker   edit configs/edge-rul.yaml, then",
        f"                    {command} run --config configs/edge-rul.yaml",
        f"  engines for it    {command} simulate --host BROKER",
        f"  your own data     {command} train CONFIG --data DIR --out BUNDLE",
        "                    (configs/cmapss_fd001.yaml is an example of CONFIG)",
    ]
    if args.data is None:
        lines.append("  real engines      make demo DATA=DIR   (DIR holds C-MAPSS test_FD001.txt and RUL_FD001.txt)")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Broker, daemon, engines and a live table, all on loopback.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="replay the C-MAPSS FD001 test engines in DIR")
    parser.add_argument("--assets", type=int, metavar="N", help="engines (default 12 simulated ones, or all 100 real)")
    parser.add_argument("--rate", type=float, default=2.0, metavar="R", help="cycles a second of each engine (2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="end by itself, S seconds after the table appears")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="save the last picture")
    args = parser.parse_args(argv)
    if not args.rate > 0 or (args.assets is not None and args.assets < 1):
        parser.error("--rate is above 0, --assets at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    logs = Path(tempfile.mkdtemp(prefix="edge-rul-demo-"))
    children = Children(logs)
    try:
        run(args, console, stop, children)
    except (Failed, EdgeRulError) as e:
        children.stop()
        console.print(Text.assemble(("demo: ", "bold red"), str(e)))
        console.print(f"The logs are in {logs}", style="dim")
        return EXIT_FOUND
    finally:
        children.stop()
    shutil.rmtree(logs, ignore_errors=True)
    console.print(next_steps(args))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
