"""What the daemon costs: CPU seconds and memory from start to ready, with 100 assets, and after a time under load.

    python tools/bench_start.py bundles/cmapss_fd001 [--engine onnxruntime] [--max-batch 64] [--assets 100]
                                [--load SECONDS] [--json]

Starts a Mosquitto on loopback (apt-get install mosquitto) and `edge-rul run` as its own process, waits for READY on the
notification socket, gives each asset one window's cycles, and reads /proc: CPU of the process, its resident memory,
its peak. --load then publishes as fast as predictions come back. Says whether torch was loaded, which it must not be.
The first start is thrown away: it compiles bytecode and measures for `auto`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle

_PATIENCE = 60.0  # seconds for anything to happen


def settings(bundle: Bundle, port: int, engine: str, max_batch: int) -> str:
    return (
        f"bundle: {json.dumps(str(bundle.path.resolve()))}\n"
        f"mqtt: {{host: 127.0.0.1, port: {port}}}\n"
        'topics: {readings: ["plant/{asset}/cycle"]}\n'
        f"engine: {{name: {engine}, max_batch: {max_batch}}}\n"
        "log: {level: warning}\n"
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Daemon:
    """`edge-rul run`, from its start to READY."""

    def __init__(self, config: Path, scratch: Path, cache: Path) -> None:
        state = Path(tempfile.mkdtemp(dir=scratch))
        address = str(state / "notify")
        environment = {**os.environ, "NOTIFY_SOCKET": address, "STATE_DIRECTORY": str(state)}
        environment["CACHE_DIRECTORY"] = str(cache)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(_PATIENCE)
            began = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)], env=environment
            )
            while b"READY=1" not in manager.recv(4096):
                pass
            self.seconds = time.monotonic() - began
        self.at_ready = self.now()

    def now(self) -> dict[str, float]:
        directory = Path("/proc") / str(self.process.pid)
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in (directory / "status").read_text().splitlines())
        ticks = os.sysconf("SC_CLK_TCK")
        return {
            "cpu_s": (int(fields[11]) + int(fields[12])) / ticks,
            "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
            "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        }

    def libraries(self) -> str:
        return (Path("/proc") / str(self.process.pid) / "maps").read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(_PATIENCE)


class Plant:
    """Publishes readings and counts the predictions that come back."""

    def __init__(self, bundle: Bundle, port: int, assets: int) -> None:
        self._inputs = bundle.manifest.inputs
        self._assets = assets
        self._cycle = 0
        self._came = threading.Semaphore(0)
        self.predictions = 0
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = self._count
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("edge-rul/+/prediction", qos=1)
        self._client.loop_start()

    def _count(self, *_: Any) -> None:
        self.predictions += 1
        self._came.release()

    def round(self, *, answered: bool) -> None:
        """One cycle of each asset. answered: wait for as many predictions."""
        self._cycle += 1
        values = {i.name: (i.low + i.high) / 2 + (i.high - i.low) * 1e-3 * (self._cycle % 7) for i in self._inputs}
        payload = json.dumps({"cycle": self._cycle, "values": values})
        sent = [self._client.publish(f"plant/m{n}/cycle", payload, qos=1) for n in range(self._assets)]
        for message in sent:
            message.wait_for_publish(_PATIENCE)
        for _ in range(self._assets if answered else 0):
            if not self._came.acquire(timeout=_PATIENCE):
                raise TimeoutError("the daemon does not answer")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def measure(bundle: Bundle, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    port = free_port()
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("mosquitto is not installed: apt-get install mosquitto")
    broker_settings = scratch / "mosquitto.conf"
    broker_settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 1000000\nmax_inflight_messages 5000\n"
        f"user {os.environ.get('USER', 'root')}\n"
    )
    broker = subprocess.Popen([program, "-c", str(broker_settings)], stderr=subprocess.DEVNULL)
    try:
        config = scratch / "edge-rul.yaml"
        config.write_text(settings(bundle, port, args.engine, args.max_batch))
        wait_for(port)
        cache = scratch / "cache"
        Daemon(config, scratch, cache).stop()
        daemon = Daemon(config, scratch, cache)
        plant = Plant(bundle, port, args.assets)
        try:
            for cycle in range(1, bundle.manifest.window + 1):
                plant.round(answered=cycle == bundle.manifest.window)
            result = {
                "engine": args.engine,
                "max_batch": args.max_batch,
                "seconds_to_ready": daemon.seconds,
                "ready": daemon.at_ready,
                "assets": args.assets,
                "with_assets": daemon.now(),
                "torch_loaded": "libtorch" in daemon.libraries(),
            }
            if args.load:
                began, before = time.monotonic(), plant.predictions
                while time.monotonic() - began < args.load:
                    plant.round(answered=True)
                rate = (plant.predictions - before) / (time.monotonic() - began)
                result["load"] = {"seconds": args.load, "predictions_per_s": rate, **daemon.now()}
            return result
        finally:
            plant.close()
            daemon.stop()
    finally:
        broker.terminate()
        broker.wait(_PATIENCE)


def wait_for(port: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with socket.socket() as sock:
            sock.settimeout(0.1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise TimeoutError("Mosquitto does not listen")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--assets", type=int, default=100)
    parser.add_argument("--load", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(bundles.load(args.bundle), args, Path(scratch))
    if args.json:
        print(json.dumps({"load_before": load, **result}, indent=1))
        return 0
    print(f"{args.engine}, max_batch {args.max_batch}; load before {load:.1f}")
    print(
        f"start to ready   {result['ready']['cpu_s']:.2f} s of CPU in {result['seconds_to_ready']:.2f} s, "
        f"{result['ready']['rss_mb']:.0f} MB"
    )
    print(
        f"{args.assets} assets       {result['with_assets']['rss_mb']:.0f} MB, "
        f"peak {result['with_assets']['peak_mb']:.0f} MB"
    )
    if "load" in result:
        print(
            f"{args.load:.0f} s of load    {result['load']['predictions_per_s']:.0f} predictions/s, "
            f"{result['load']['rss_mb']:.0f} MB, peak {result['load']['peak_mb']:.0f} MB"
        )
    print(f"torch            {'LOADED' if result['torch_loaded'] else 'not loaded'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
