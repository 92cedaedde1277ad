"""A GPU that is lost ends the process; lost too often, the CPU serves, with an alarm until a start has it again."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import paho.mqtt.client as paho
import pytest
from conftest import Broker
from paho.mqtt.enums import CallbackAPIVersion

from edge_rul.bundle import Bundle
from edge_rul.engines import failures
from edge_rul.engines.cuda import FatalCudaError
from edge_rul.errors import EXIT_FATAL_CUDA
from edge_rul.reload import Reload

CONFIG = """
bundle: {bundle}
mqtt: {{host: 127.0.0.1, port: {port}}}
topics: {{readings: ["plant/{{asset}}/cycle"]}}
engine: {{name: auto, cache: cache}}
log: {{format: json}}
"""
TOPIC = "edge-rul/_daemon/alarm/gpu_given_up"


def test_the_alarm_stands_while_the_cpu_serves_for_a_lost_gpu(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    config, cache = tmp_path / "edge-rul.yaml", tmp_path / "cache"
    config.write_text(CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port))
    cache.mkdir()
    for _ in range(failures.LIMIT + 1):
        failures.record_failure(cache, print)

    states: queue.Queue[dict[str, Any]] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    statuses: queue.Queue[dict[str, Any]] = queue.Queue()
    kinds = {TOPIC: states, "edge-rul/status": statuses}
    client.on_message = lambda _client, _data, message: kinds[message.topic].put(json.loads(message.payload))
    client.connect("127.0.0.1", mosquitto.port)
    client.subscribe([(topic, 1) for topic in kinds])
    client.loop_start()
    log = tmp_path / "daemon.log"
    try:
        with running(config, tmp_path, log) as daemon:
            found = states.get(timeout=60)
            assert (found["state"], found["value"]) == ("active", failures.LIMIT + 1)
            status = statuses.get(timeout=60)
            assert status["problems"] == ["CPU serves: GPU given up after 4 failures"]
            assert status["words"].endswith("on the CPU; CPU serves: GPU given up after 4 failures")
            assert status["engine"]["device"] == "CPU"

            # Over the hour or not, the CPU serves until an engine is opened anew.
            (cache / "gpu-failures.json").rename(tmp_path / "failures")
            text = config.read_text()
            config.write_text(text.replace("format: json", "format: json, level: debug"))
            daemon.send_signal(signal.SIGHUP)
            while (status := statuses.get(timeout=60))["reload"] is None:
                pass
            assert (status["reload"]["changed"], status["problems"]) == (
                ["log"],
                ["CPU serves: GPU given up after 4 failures"],
            )
            config.write_text(text.replace("cache: cache", "cache: cache, max_batch: 8"))
            daemon.send_signal(signal.SIGHUP)
            while (found := states.get(timeout=60))["state"] == "active":
                pass
            assert (found["state"], found["value"]) == ("normal", 0)
            while (status := statuses.get(timeout=60))["reload"]["changed"] == ["log"]:
                pass
            assert status["problems"] == []
            (tmp_path / "failures").rename(cache / "gpu-failures.json")
            config.write_text(text)
            daemon.send_signal(signal.SIGHUP)
            while (found := states.get(timeout=60))["state"] == "normal":
                pass
            assert found["value"] == failures.LIMIT + 1
        assert "auto passes the GPU over: the GPU was lost 4 times" in log.read_text()

        (cache / "gpu-failures.json").unlink()
        with running(config, tmp_path, log):
            while (found := states.get(timeout=60))["state"] == "active":
                pass  # a state that stands goes to a new session once more
            assert (found["state"], found["value"]) == ("normal", 0)
            while statuses.get(timeout=60)["problems"]:
                pass
    finally:
        client.disconnect()
        client.loop_stop()


# The command `edge-rul run` on a fake GPU, which is lost at the first batch after the start.
DOOMED = """
import sys
from types import SimpleNamespace
from edge_rul import daemon
from edge_rul.cli import main
from edge_rul.engines import choose, flavour, tensorrt
from edge_rul.engines.cuda import Cuda
from engines.fake_gpu import FakeCuda, fake_tensorrt
gpu = FakeCuda()
module = fake_tensorrt(gpu, rtx=False)
tensorrt.Cuda = lambda: Cuda(gpu)
choose.installed = lambda: {"tensorrt": "10.3"}
flavour.importlib = SimpleNamespace(import_module=lambda name: module)
serve = daemon.Loop.run
def doomed(loop):
    gpu.fail("cudaStreamSynchronize", 719)
    serve(loop)
daemon.Loop.run = doomed
sys.exit(main(sys.argv[1:]))
"""


def test_a_gpu_that_is_lost_ends_the_process_which_is_counted(
    tiny_bundle: Bundle, mosquitto: Broker, tmp_path: Path
) -> None:
    config, log = tmp_path / "edge-rul.yaml", tmp_path / "daemon.log"
    text = CONFIG.format(bundle=tiny_bundle.path, port=mosquitto.port)
    config.write_text(text.replace("name: auto", "name: tensorrt"))
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    online = threading.Event()
    client.on_message = lambda _client, _data, message: online.set() if message.payload == b"online" else None
    client.connect("127.0.0.1", mosquitto.port)
    client.subscribe("edge-rul/availability", 1)
    client.loop_start()
    environment = {
        **os.environ,
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-c", DOOMED, "run", "--config", str(config)]
    with log.open("wb") as err:
        process = subprocess.Popen(command, stderr=err, env=environment)
    try:
        assert online.wait(60), log.read_text()
        for cycle in range(tiny_bundle.manifest.window + 1):
            reading = {"cycle": cycle, "values": tiny_bundle.golden.windows[0, 0].tolist()}
            client.publish("plant/engine-1/cycle", json.dumps(reading), qos=1)
        assert process.wait(60) == EXIT_FATAL_CUDA, log.read_text()
    finally:
        process.kill()
        process.wait()
        client.disconnect()
        client.loop_stop()
    assert "cudaError719" in log.read_text()
    assert len(json.loads((tmp_path / "cache" / "gpu-failures.json").read_bytes())["times"]) == 1


def test_a_gpu_that_is_lost_while_a_reload_opens_an_engine_ends_the_process() -> None:
    """What serves may compute on the same GPU, in the same context: refusing the reload would not save it."""
    worker, transport = SimpleNamespace(failure=""), SimpleNamespace(wake=lambda: None)
    serving: Any = SimpleNamespace(source=SimpleNamespace(path=Path("edge-rul.yaml")))
    nobody: Any = SimpleNamespace(info=lambda *_, **__: None)
    reload = Reload(serving, worker=worker, transport=transport, board=nobody, server=None, log=nobody)  # type: ignore[arg-type]
    done = threading.Event()

    def lost(*_: object) -> None:
        raise FatalCudaError("CUDA", "cudaMalloc", "cudaError719 (719)")

    transport.wake = done.set
    with mock.patch("edge_rul.reload.read", lost):
        reload.ask()
        done.clear()
        with pytest.raises(FatalCudaError):
            reload.step()  # which starts the thread, and may find it at its end already
            assert done.wait(30)
            reload.step()


class running:  # noqa: N801
    """A daemon with this configuration, ended by SIGTERM at the block's end."""

    def __init__(self, config: Path, directory: Path, log: Path) -> None:
        self.command = [sys.executable, "-m", "edge_rul.cli", "run", "--config", str(config)]
        self.environment = {**os.environ, "STATE_DIRECTORY": str(directory / "state")}
        self.log = log

    def __enter__(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as err:
            self.process = subprocess.Popen(self.command, stderr=err, env=self.environment)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()
