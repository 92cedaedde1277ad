"""Which engine serves: by name, by measurement, never another than was asked for without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from conftest import absent

from edge_rul.bundle import Bundle
from edge_rul.config import EngineSettings
from edge_rul.engines import auto, choose, failures, open_engine
from edge_rul.engines.auto import Choice
from edge_rul.engines.choose import cache_directory, installed, open_configured
from edge_rul.engines.cuda import FatalCudaError, GpuTaken
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EXIT_CONFIG, EXIT_FATAL_CUDA, EXIT_INTERNAL, EngineError
from edge_rul.kept import load


@pytest.fixture
def said() -> list[str]:
    return []


class Watched:
    """Counts what is opened, and decides how fast each is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.seconds = {"onnxruntime": 2.0, "openvino": 1.0}
        self.refuses: set[str] = set()
        self.refusal: type[EngineError] = EngineError
        self.installed = {"onnxruntime": "1", "openvino": "1"}
        closed = self.closed

        class Fake:
            version, precision, max_batch = "1", "float32", 4

            def __init__(self, name: str) -> None:
                self.name = name

            def close(self) -> None:
                closed.append(self.name)

        def opened(name: str, bundle: Bundle, options: Any) -> Any:
            self.opened.append(name)
            if name in self.refuses:
                raise self.refusal("open", name, "will not", hint="ask them")
            return Fake(name)

        monkeypatch.setattr(auto, "open_verified", opened)
        monkeypatch.setattr(choose, "open_verified", opened)
        monkeypatch.setattr(auto, "installed", lambda: dict(self.installed))
        monkeypatch.setattr(auto, "_times", lambda engines, x: {name: self.seconds[name] for name in engines})
        monkeypatch.setattr(auto, "nvidia_driver", lambda: "")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def start(bundle: Bundle, cache: Path, said: list[str], **options: Any) -> str:
    return open_engine("auto", bundle, max_batch=4, cache=cache, say=said.append, **options).name


def test_the_fastest_serves_and_the_measurement_is_kept(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    assert start(tiny_bundle, tmp_path, said) == "openvino"
    assert (watched.opened, watched.closed) == (["onnxruntime", "openvino"], ["onnxruntime"])
    assert said == ["auto: openvino serves; measured at a batch of 4: onnxruntime 2 windows/s, openvino 4 windows/s"]
    kept = load(next(tmp_path.glob("auto-*.json")), Choice)
    assert (kept.engine, kept.rates) == ("openvino", {"onnxruntime": 2.0, "openvino": 4.0})
    watched.opened.clear()
    assert start(tiny_bundle, tmp_path, said) == "openvino"
    assert watched.opened == ["openvino"]
    assert len(said) == 1


def test_a_little_faster_is_not_worth_another_library(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    watched.seconds["openvino"] = 1.9
    assert start(tiny_bundle, tmp_path, said) == "onnxruntime"
    assert watched.closed == ["openvino"]


@pytest.mark.parametrize("change", ["version", "threads", "_cpu", "nvidia_driver", "less"])
def test_what_changes_the_speed_is_measured_again(
    watched: Watched,
    change: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(tiny_bundle, tmp_path, said)
    watched.opened.clear()
    options = {}
    if change == "version":
        watched.installed["openvino"] = "2"
    elif change == "threads":
        options["threads"] = 7
    elif change == "less":
        del watched.installed["openvino"]
    else:
        monkeypatch.setattr(auto, change, lambda: "another")
    start(tiny_bundle, tmp_path, said, **options)
    assert watched.opened[0] == "onnxruntime"


def test_an_engine_that_refuses_is_named_and_the_rest_serve(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    watched.refuses.add("openvino")
    assert start(tiny_bundle, tmp_path, said) == "onnxruntime"
    assert said[0] == "auto: openvino does not serve here: will not"
    watched.refuses.clear()
    assert start(tiny_bundle, tmp_path, said) == "openvino", "what was mended is tried again"


def test_a_kept_engine_that_refuses_now_is_measured_again(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    start(tiny_bundle, tmp_path, said)
    watched.refuses.add("openvino")
    assert start(tiny_bundle, tmp_path, said) == "onnxruntime"
    assert any("does not open any more" in line for line in said)


def test_none_serves(watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]) -> None:
    watched.refuses |= {"openvino", "onnxruntime"}
    with pytest.raises(EngineError, match="onnxruntime: will not; openvino: will not"):
        start(tiny_bundle, tmp_path, said)


@pytest.mark.parametrize("text", ["", "{}", '{"facts": 3}'])
def test_a_kept_measurement_that_cannot_be_read_is_taken_again(
    watched: Watched, text: str, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    start(tiny_bundle, tmp_path, said)
    next(tmp_path.glob("auto-*.json")).write_text(text)
    assert start(tiny_bundle, tmp_path, said) == "openvino"
    assert len(said) == 2


def test_a_cache_that_cannot_be_written_costs_a_measurement_at_each_start(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert start(tiny_bundle, tmp_path / "file" / "cache", said) == "openvino"
    assert "cannot keep" in said[-1]


def test_gpu_engines_are_not_loaded_where_there_is_no_driver(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.installed["tensorrt_rtx"] = "1"
    watched.seconds["tensorrt_rtx"] = 0.1
    assert start(tiny_bundle, tmp_path, said) == "openvino"
    assert "tensorrt_rtx" not in watched.opened
    monkeypatch.setattr(auto, "nvidia_driver", lambda: "NVRM version: 580")
    assert start(tiny_bundle, tmp_path, said) == "tensorrt_rtx"


def test_require_gpu_looks_at_nothing_else(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str]
) -> None:
    with pytest.raises(EngineError, match="no engine serves"):
        start(tiny_bundle, tmp_path, said, require_gpu=True)
    assert watched.opened == []


def test_auto_on_this_machine(tiny_bundle: Bundle, tmp_path: Path, said: list[str]) -> None:
    """Nothing is faked: it opens what is here, keeps what it found, and finds it again."""
    with open_engine("auto", tiny_bundle, cache=tmp_path, say=said.append) as engine:
        first = engine.name
        assert engine.precision == "float32"
    with open_engine("auto", tiny_bundle, cache=tmp_path, say=said.append) as engine:
        assert engine.name == first
    assert sum("measured" in line for line in said) == 1


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"precision": "int8"}, {"provider": "cuda"}])
def test_auto_never_takes_less_than_float32_on_the_cpu(tiny_bundle: Bundle, tmp_path: Path, options: Any) -> None:
    with pytest.raises(EngineError, match="name the engine") as caught:
        open_engine("auto", tiny_bundle, cache=tmp_path, **options)
    assert caught.value.exit_code == EXIT_CONFIG


def test_without_a_cache_auto_is_onnx_runtime(tiny_bundle: Bundle) -> None:
    with open_engine("auto", tiny_bundle) as engine:
        assert engine.name == "onnxruntime"


def test_an_engine_that_is_not_installed_says_what_to_install(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = choose.find_spec
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "openvino" else real(name))
    with pytest.raises(EngineError, match="openvino, which is not installed") as caught:
        open_engine("openvino", tiny_bundle)
    assert "edge-rul[openvino]" in caught.value.hint
    assert "openvino" not in installed()


def test_an_engine_that_does_not_exist(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="there is no such engine; there are onnxruntime"):
        open_engine("tpu", tiny_bundle)


def test_a_precision_that_an_engine_does_not_have(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="computes float32, not float16"):
        open_engine("onnxruntime", tiny_bundle, precision="float16")


def test_the_daemons_settings_reach_the_engine(tiny_bundle: Bundle, tmp_path: Path, said: list[str]) -> None:
    settings = EngineSettings(name="onnxruntime", max_batch=5, cache="engines")
    assert cache_directory(settings, tmp_path) == tmp_path / "engines"
    engine, _ = open_configured(settings, tiny_bundle, tmp_path, said.append)
    with engine:
        assert (engine.name, engine.max_batch) == ("onnxruntime", 5)


def test_the_settings_name_no_pair_that_does_not_exist() -> None:
    for options in (
        {"precision": "int8"},
        {"name": "onnxruntime", "precision": "float16"},
        {"name": "openvino", "precision": "float16"},
        {"name": "tensorrt", "precision": "int8"},
        {"name": "openvino", "provider": "cuda"},
        {"name": "openvino", "require_gpu": True},
        {"name": "onnxruntime", "require_gpu": True},
    ):
        with pytest.raises(ValueError, match="`name: "):
            EngineSettings(**options)
    EngineSettings(name="onnxruntime", provider="cuda", require_gpu=True)
    EngineSettings(name="tensorrt_rtx", precision="float16", require_gpu=True)


@pytest.mark.parametrize(("refusal", "exit_code"), [(EngineError, EXIT_CONFIG), (GpuTaken, EXIT_INTERNAL)])
def test_auto_with_require_gpu_starts_again_where_others_hold_the_gpu(
    watched: Watched, tiny_bundle: Bundle, tmp_path: Path, said: list[str], refusal: Any, exit_code: int
) -> None:
    watched.installed["tensorrt"] = "10.3"
    watched.refuses, watched.refusal = {"tensorrt"}, refusal
    with pytest.raises(EngineError, match="will not") as caught:
        start(tiny_bundle, tmp_path, said, require_gpu=True)
    assert caught.value.exit_code == exit_code
    assert (caught.value.hint == "ask them") == (refusal is GpuTaken)


@pytest.mark.parametrize("error", [ImportError("libx.so: cannot open shared object file"), ModuleNotFoundError("no x")])
def test_a_package_that_does_not_load_is_passed_over_by_auto_and_refused_by_name(
    tiny_bundle: Bundle, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, error: ImportError
) -> None:
    whole = choose._open

    def broken(name: str, *arguments: Any) -> Any:
        if name == "openvino":
            raise error
        return whole(name, *arguments)

    monkeypatch.setattr(choose, "_open", broken)
    for module in (auto, choose):
        monkeypatch.setattr(module, "installed", lambda: {"onnxruntime": "1", "openvino": "1"})
    assert start(tiny_bundle, tmp_path, said) == "onnxruntime"
    assert said[0] == f"auto: openvino does not serve here: the Python package openvino is installed, but: {error}"
    with pytest.raises(EngineError, match="is installed, but") as caught:
        open_engine("openvino", tiny_bundle, cache=tmp_path)
    assert caught.value.exit_code == EXIT_CONFIG


# -- ONNX Runtime's providers ---------------------------------------------------------------------------------------


def test_a_provider_that_is_not_built_in_is_refused(tiny_bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(EngineError, match=r"has no CUDAExecutionProvider; it has .*CPUExecutionProvider") as caught:
        open_engine("onnxruntime", tiny_bundle, provider="cuda")
    assert "onnxruntime-gpu" in caught.value.hint


def test_an_unknown_provider_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="has no provider rocm; it has cpu, cuda, tensorrt"):
        open_engine("onnxruntime", tiny_bundle, provider="rocm")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_onnx_runtime_drops_silently_is_refused(
    tiny_bundle: Bundle, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when the GPU's libraries do not load: a warning in its log, and the CPU."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        return real(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(EngineError, match="ONNX Runtime took CPUExecutionProvider"):
        open_engine("onnxruntime", tiny_bundle, provider=provider)
    assert (os.environ["NVIDIA_TF32_OVERRIDE"] == "0") == (provider == "tensorrt"), "which has no option for TF32"
    assert ("CUDAExecutionProvider", {"use_tf32": "0"}) in asked


def test_a_run_that_fails_is_the_engines_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new bundle that fails so is taken out again."""
    with open_engine("onnxruntime", tiny_bundle) as engine:
        monkeypatch.setattr(engine, "_session", Failing("Invalid input"))
        with pytest.raises(EngineError, match="ONNX Runtime failed: Invalid input"):
            engine.infer(tiny_bundle.golden_inputs)


class Failing:
    """A session that fails."""

    def __init__(self, message: str) -> None:
        self.message = message

    def run(self, *_: Any) -> None:
        raise RuntimeError(self.message)


def test_a_gpu_that_a_provider_loses_ends_the_process_and_is_counted(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of ONNX Runtime, which has no other way to tell."""
    told = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=box ; expr=cudaMemcpyAsync"
    for count in range(1, failures.LIMIT + 1):
        with open_engine("onnxruntime", tiny_bundle, cache=tmp_path) as engine:
            monkeypatch.setattr(engine, "_session", Failing(told))
            with pytest.raises(FatalCudaError, match="CUDA failure 700") as caught:
                engine.infer(tiny_bundle.golden_inputs)
        assert caught.value.exit_code == EXIT_FATAL_CUDA
        assert (failures.losses(tmp_path) > 0) == (count == failures.LIMIT)


def test_a_provider_whose_gpu_is_full_is_tried_again_by_the_next_start(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(GpuTaken, match="out of memory") as caught:
        open_engine("onnxruntime", tiny_bundle, provider="cuda", cache=tmp_path)
    assert caught.value.exit_code == EXIT_INTERNAL


# -- OpenVINO -------------------------------------------------------------------------------------------------------


def test_bfloat16_is_refused_where_the_cpu_computes_it_in_float32(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not choose.find_spec("openvino"):
        absent("the package openvino")
    from edge_rul.engines.openvino import ov

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(ov, "Core", Core)
    with pytest.raises(EngineError, match="does not compute bfloat16; it has FP32, INT8"):
        open_engine("openvino", tiny_bundle, precision="bfloat16")


def test_openvino_reports_to_nobody(tiny_bundle: Bundle) -> None:
    """Importing it would tell its makers' analytics; no socket may be asked for, nor the library that asks."""
    if not choose.find_spec("openvino"):
        absent("the package openvino")
    code = (
        "import socket, sys; from pathlib import Path\n"
        "asked = []\n"
        "socket.getaddrinfo = lambda *a, **k: asked.append(a) or []\n"
        "socket.socket.connect = lambda self, address: asked.append(address)\n"
        "from edge_rul.bundle import load; from edge_rul.engines import open_engine\n"
        "open_engine('openvino', load(Path(sys.argv[1]))).close()\n"
        "import threading\n"
        "for thread in threading.enumerate():\n"
        "    if thread is not threading.current_thread(): thread.join(5)\n"
        "print(asked, sys.modules.get('openvino_telemetry'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # where it is silent anyway
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle.path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.stdout, done.returncode) == ("[] None\n", 0), done.stderr


# -- threads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))

    def make(own: str | None, **quotas: str) -> int:
        root = tmp_path / "cgroup"
        inside = root / "system.slice" / "edge-rul.service"
        inside.mkdir(parents=True, exist_ok=True)
        for name, text in quotas.items():
            {"root": root, "slice": inside.parent, "service": inside}[name].joinpath("cpu.max").write_text(text)
        proc = tmp_path / "proc"
        if own is not None:
            proc.write_text(own)
        return usable_threads(root, proc)

    return make


SERVICE = "12:cpu:/elsewhere\n0::/system.slice/edge-rul.service\n"


@pytest.mark.parametrize(
    ("own", "quotas", "threads"),
    [
        (SERVICE, {}, 8),
        (SERVICE, {"service": "max 100000\n"}, 8),
        (SERVICE, {"service": "200000 100000\n"}, 2),
        (SERVICE, {"service": "150000 100000\n"}, 1),
        (SERVICE, {"service": "20000 100000\n"}, 1),
        (SERVICE, {"service": "max 100000\n", "slice": "300000 100000\n"}, 3),
        (SERVICE, {"service": "400000 100000\n", "slice": "300000 100000\n"}, 3),
        (SERVICE, {"service": "9900000 100000\n"}, 8),
        (SERVICE, {"service": "rubbish"}, 8),
        (SERVICE, {"service": "1 0"}, 8),
        ("0::/\n", {"root": "200000 100000\n"}, 2),
        ("0::/../../escape\n", {}, 8),
        ("4:cpu:/x\n", {}, 8),
        (None, {}, 8),
    ],
)
def test_threads_stay_within_the_control_groups_share(
    groups: Any, own: str | None, quotas: dict[str, str], threads: int
) -> None:
    assert groups(own, **quotas) == threads
