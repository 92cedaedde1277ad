"""Our side of a GPU: buckets, copies, captures, errors, the cache. docs/engines.md lists what only a GPU shows."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import absent
from engines.fake_gpu import HEADER, FakeCuda, RuntimeCache, fake_tensorrt
from engines.test_conformance import windows

from edge_rul import kept
from edge_rul.bundle import Bundle
from edge_rul.engines import failures, open_engine, verify
from edge_rul.engines.cuda import Cuda, FatalCudaError, GpuTaken
from edge_rul.engines.failures import gpu_given_up
from edge_rul.engines.flavour import Flavour, Target, parse_target
from edge_rul.engines.tensorrt import TensorRtEngine
from edge_rul.errors import EXIT_CONFIG, EXIT_FATAL_CUDA, EXIT_INTERNAL, EngineError

MAX_BATCH = 20


class Box:
    """A machine with a fake GPU."""

    def __init__(self, directory: Path, bundle: Bundle, *, rtx: bool = False, capturable: bool = False) -> None:
        self.cuda = FakeCuda()
        self.bundle = bundle
        self.rtx = rtx
        self.module = fake_tensorrt(self.cuda, rtx=rtx, capturable=capturable)
        self.cache = directory / "cache"
        self.said: list[str] = []

    def open(self, **options: Any) -> TensorRtEngine:
        flavour = Flavour("tensorrt_rtx" if self.rtx else "tensorrt", self.module)
        options = {"max_batch": MAX_BATCH, **options}
        return TensorRtEngine(
            self.bundle, flavour, cache=self.cache, say=self.said.append, cuda=Cuda(self.cuda), **options
        )


@pytest.fixture(params=["tensorrt", "tensorrt, captured", "tensorrt_rtx"])
def box(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Bundle) -> Box:
    rtx, capturable = request.param == "tensorrt_rtx", "captured" in request.param
    return Box(tmp_path, tiny_bundle, rtx=rtx, capturable=capturable)


def test_it_gives_everything_back(box: Box) -> None:
    for _ in range(3):
        with box.open() as engine:
            verify(engine, box.bundle)
            assert box.cuda.leaks
        assert box.cuda.leaks == {}


def test_it_tells_how_full_the_gpu_is(box: Box) -> None:
    with box.open() as engine:
        used, total = engine.gpu_memory()
        assert 0 < used < total == 8 * 2**30


CONSTANTS = ["cudaStreamNonBlocking", "cudaMemcpyKind", "cudaStreamCaptureMode"]
GIVES_BACK = ["cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaGraphDestroy", "cudaGraphExecDestroy"]
# Of no batch; their tests are below.
ASKS = {"cudaMemGetInfo", "cudaRuntimeGetVersion", "cudaGetLastError", "cudaDeviceSynchronize"}
CALLS = sorted({name for name in dir(FakeCuda) if name.startswith("cuda")} - {*GIVES_BACK, *ASKS, *CONSTANTS})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_call_that_fails_leaves_nothing_behind(box: Box, call: str, after: int) -> None:
    """At the opening or at the first batch, whichever makes that call: an EngineError, and all is given back."""
    box.cuda.fail(call, 2, after=after)
    x = windows(box.bundle, 3)
    try:
        with box.open() as engine:
            engine.infer(x)
            engine.infer(x)
    except EngineError as e:
        assert call in str(e)
        assert "(2)" in str(e)
    else:
        assert box.cuda.calls.count(call) <= after, f"{call} failed and nobody noticed"
    assert box.cuda.leaks == {}


@pytest.mark.parametrize("call", GIVES_BACK)
def test_a_failure_to_give_back_is_told_and_does_not_end_the_process(box: Box, call: str) -> None:
    engine = box.open()
    box.cuda.fail(call, 2)
    engine.close()
    if call in box.cuda.calls:
        assert call in box.said[-1]
        assert sum(box.cuda.leaks.values()) == 1, "the rest is given back all the same"


@pytest.mark.parametrize("has", [0, 12040])
def test_no_driver_and_one_that_is_too_old_are_told_apart(box: Box, has: int) -> None:
    """One code of CUDA's, 35, for both."""
    box.cuda.driver = has
    box.cuda.fail("cudaGetDevice", 35)
    with pytest.raises(EngineError) as caught:
        box.open()
    assert ("driver is for CUDA 12.4, this cuda-bindings needs 13.5" in caught.value.problem) == (has > 0)
    assert ("packages for CUDA 12" if has else "is there an NVIDIA GPU") in caught.value.hint


def test_buffers_and_stream_are_made_once(box: Box) -> None:
    with box.open() as engine:
        made = {
            name: box.cuda.calls.count(name) for name in ("cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags")
        }
        assert made == {"cudaMalloc": 3, "cudaHostAlloc": 3, "cudaStreamCreateWithFlags": 1}
        for n in (1, MAX_BATCH, 3):
            engine.infer(windows(box.bundle, n))
        assert made == {name: box.cuda.calls.count(name) for name in made}


@pytest.mark.parametrize("code", [214, 700, 702, 719, 999])
def test_a_lost_context_ends_the_process_and_is_remembered(box: Box, code: int) -> None:
    with box.open() as engine:
        box.cuda.fail("cudaStreamSynchronize", code)
        with pytest.raises(FatalCudaError) as caught:
            engine.infer(windows(box.bundle, 2))
    assert caught.value.exit_code == EXIT_FATAL_CUDA == 71
    assert not isinstance(caught.value, EngineError), "the worker would take it for one"
    assert gpu_given_up(box.cache) is None
    for _ in range(failures.LIMIT - 1):
        failures.record_failure(box.cache, box.said.append)
    assert f"{failures.LIMIT} times" in str(gpu_given_up(box.cache))


@pytest.mark.parametrize("call", ["cudaGetDevice", "cudaMalloc", "cudaHostAlloc"])
def test_a_gpu_that_is_lost_at_each_start_is_remembered_too(box: Box, call: str) -> None:
    for _ in range(failures.LIMIT):
        assert gpu_given_up(box.cache) is None
        box.cuda.fail(call, 719)
        with pytest.raises(FatalCudaError):
            box.open()
    assert gpu_given_up(box.cache) is not None
    assert box.cuda.leaks == {}


def test_an_engine_is_not_blamed_for_a_gpu_that_is_full(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT answers None to both; CUDA knows."""
    box.open().close()
    monkeypatch.setattr(box.module.Runtime, "deserialize_cuda_engine", lambda self, blob: None)
    box.cuda.fail("cudaGetLastError", 2)
    with pytest.raises(EngineError, match=r"cudaGetLastError: cudaError2 \(2\)"):
        box.open(build="never")
    monkeypatch.undo()
    box.open(build="never").close()


FULL = 8 * 2**30 - 1000  # bytes that others hold


def deserialised(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.open().close()
    monkeypatch.setattr(box.module.Runtime, "deserialize_cuda_engine", lambda self, blob: None)


def built(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.module.Builder, "build_serialized_network", lambda *_: None)


def set_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.module.has_no_context = True


@pytest.mark.parametrize("cannot_be", [deserialised, built, set_up])
def test_where_tensorrt_gives_up_cuda_is_asked_why(box: Box, monkeypatch: pytest.MonkeyPatch, cannot_be: Any) -> None:
    """TensorRT may have a CUDA runtime of its own, whose last error is not ours."""
    cannot_be(box, monkeypatch)
    box.cuda.fail("cudaDeviceSynchronize", 719)
    with pytest.raises(FatalCudaError, match="cudaDeviceSynchronize"):
        box.open()
    assert len(kept.load(box.cache / "gpu-failures.json", failures.Failures).times) == 1
    box.cuda.others = FULL
    with pytest.raises(GpuTaken, match="MiB of 8192 are free"):
        box.open()
    assert box.cuda.leaks == {}
    assert list(box.cache.glob("*.bad")) == [], "the engine is not to blame"


def refuse(*_: Any) -> Any:
    raise RuntimeError("the context is gone")


@pytest.mark.parametrize("serialize", [lambda _: None, refuse], ids=["none", "raises"])
def test_kernels_that_a_lost_gpu_does_not_hand_out_do_not_hide_the_loss(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, serialize: Any
) -> None:
    box = Box(tmp_path, tiny_bundle, rtx=True)
    monkeypatch.setattr(RuntimeCache, "serialize", serialize)
    with pytest.raises(FatalCudaError), box.open() as engine:
        box.cuda.fail("cudaStreamSynchronize", 719)
        engine.infer(windows(tiny_bundle, 2))
    assert box.cuda.leaks == {}
    assert "does not hand out its compiled kernels" in box.said[-1]


def test_how_far_an_engine_was_off_is_kept_beside_it_by_its_first_start(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from edge_rul.engines import cache, choose, flavour, tensorrt

    name = "tensorrt_rtx" if box.rtx else "tensorrt"
    monkeypatch.setattr(tensorrt, "Cuda", lambda: Cuda(box.cuda))
    monkeypatch.setattr(choose, "installed", lambda: {name: "1"})
    monkeypatch.setattr(flavour, "importlib", SimpleNamespace(import_module=lambda _: box.module))
    found = []
    for _ in range(2):
        open_engine(name, box.bundle, max_batch=MAX_BATCH, cache=box.cache).close()
        sidecar = next(path for path in box.cache.glob("*.json"))
        found.append((kept.load(sidecar, cache.Sidecar).parity, sidecar.stat().st_mtime_ns))
    assert found[0][0] is not None
    assert 0 <= found[0][0]["rul"] <= 1e-3
    assert found[1] == found[0], "once"

    def read_only(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    sidecar.write_text("{")
    for call in ("replace", "unlink"):
        monkeypatch.setattr(Path, call, read_only)
    open_engine(name, box.bundle, max_batch=MAX_BATCH, cache=box.cache).close()
    assert sidecar.read_text() == "{", "built and serving, though nothing can be kept"


def test_each_captured_graph_is_verified(tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a program of its own; one that no golden window comes by would serve unseen."""
    box = Box(tmp_path, tiny_bundle, capturable=True)
    with box.open() as engine:
        assert engine.captured == (1, 4, 16, 20)
        verify(engine, tiny_bundle)
        whole = engine.infer

        def off(x: Any) -> Any:
            rul, logits = whole(x)
            return (rul + 1.0, logits) if len(x) == 4 else (rul, logits)

        monkeypatch.setattr(engine, "infer", off)
        with pytest.raises(EngineError, match="a window in a batch of 4 moves by up to 1 cycles"):
            verify(engine, tiny_bundle)


@pytest.mark.parametrize(("code", "exit_code"), [(2, EXIT_INTERNAL), (46, EXIT_INTERNAL), (100, EXIT_CONFIG)])
def test_a_gpu_that_others_hold_is_tried_again_by_the_next_start(box: Box, code: int, exit_code: int) -> None:
    box.open().close()
    box.cuda.fail("cudaMalloc", code)
    with pytest.raises(EngineError, match="nvidia-smi") as caught:
        box.open(build="never")
    assert caught.value.exit_code == exit_code
    assert box.cuda.leaks == {}


def test_old_failures_are_forgotten(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for age in (failures.WITHIN + 5, 30.0, 20.0):
        monkeypatch.setattr(failures.time, "time", lambda age=age: now - age)
        failures.record_failure(box.cache, box.said.append)
    monkeypatch.setattr(failures.time, "time", lambda: now)
    assert gpu_given_up(box.cache) is None
    failures.record_failure(box.cache, box.said.append)
    assert gpu_given_up(box.cache) is not None
    monkeypatch.setattr(failures.time, "time", lambda: now - 86400)  # a clock that was set back
    assert gpu_given_up(box.cache) is None


def test_after_repeated_failures_the_cpu_serves_and_says_so(tmp_path: Path, tiny_bundle: Bundle) -> None:
    said: list[str] = []
    for _ in range(failures.LIMIT):
        failures.record_failure(tmp_path, said.append)
    with open_engine("tensorrt_rtx", tiny_bundle, cache=tmp_path, precision="float16", say=said.append) as engine:
        assert (engine.name, engine.precision) == ("onnxruntime", "float32")
    assert "tensorrt_rtx is not used" in said[-1]
    for name in ("tensorrt", "auto"):
        with pytest.raises(EngineError, match="require_gpu refuses the CPU"):
            open_engine(name, tiny_bundle, cache=tmp_path, require_gpu=True, say=said.append)


def test_require_gpu_refuses_an_engine_on_the_cpu(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(EngineError, match="runs on the CPU") as caught:
            open_engine(name, tiny_bundle, cache=tmp_path, require_gpu=True)
        assert caught.value.exit_code == EXIT_CONFIG


def test_batches_take_the_next_larger_captured_graph(tmp_path: Path, tiny_bundle: Bundle) -> None:
    box = Box(tmp_path, tiny_bundle, capturable=True)
    with box.open() as engine:
        assert list(engine._graphs) == [1, 4, 16, 20]
        box.module.ran.clear()
        box.cuda.calls.clear()
        for n, launches in ((1, 1), (3, 2), (4, 3), (17, 4), (20, 5)):
            engine.infer(windows(tiny_bundle, n))
            assert box.cuda.calls.count("cudaGraphLaunch") == launches
        assert box.module.ran == [], "a captured batch is not enqueued kernel by kernel"
        assert "cudaMemcpyAsync" not in box.cuda.calls


def test_what_a_larger_batch_left_in_the_buffers_does_not_count(box: Box) -> None:
    x = windows(box.bundle, MAX_BATCH)
    with box.open() as engine:
        first = engine.infer(x[:3])
        engine.infer(x)
        again = engine.infer(x[:3])
        for a, b in zip(first, again, strict=True):
            assert np.array_equal(a, b)
        assert len(engine.infer(x[:3])[0]) == 3


def test_without_a_word_on_capturing_each_batch_is_enqueued(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for rtx in (False, True):
        box = Box(tmp_path / str(rtx), tiny_bundle, rtx=rtx)
        with box.open() as engine:
            engine.infer(windows(tiny_bundle, 5))
            assert box.module.ran == [5]
            assert engine._graphs == {}
            config = engine._context.config
            assert (config.cuda_graph_strategy if rtx else config) == ("whole" if rtx else None)


def test_a_run_that_tensorrt_refuses(box: Box) -> None:
    if box.module.context_type.__name__ == "CapturableContext":
        pytest.skip("a captured run was accepted before")
    with box.open() as engine:
        box.module.refuses_to_run = True
        with pytest.raises(EngineError, match="did not run a batch of 2"):
            engine.infer(windows(box.bundle, 2))
        box.module.refuses_to_run = False
        assert np.isfinite(engine.infer(windows(box.bundle, 2))[0]).all()


def test_no_context(box: Box) -> None:
    box.module.has_no_context = True
    with pytest.raises(EngineError, match="no execution context"):
        box.open()
    assert box.cuda.leaks == {}


# -- the cache, as the engine uses it -------------------------------------------------------------------------------


def test_a_second_start_builds_nothing(box: Box) -> None:
    box.open().close()
    box.open(build="never").close()
    assert box.module.builds == 1


def change_driver(box: Box) -> None:
    box.cuda.driver = 12080


def change_gpu(box: Box) -> None:
    box.cuda.properties.name = b"Another GPU"


def change_capability(box: Box) -> None:
    box.cuda.properties.minor = 6


def change_version(box: Box) -> None:
    box.module.__version__ = "1.1"


@pytest.mark.parametrize(
    ("change", "of_rtx"),
    [(change_driver, False), (change_gpu, False), (change_capability, True), (change_version, True)],
)
def test_another_gpu_driver_or_version_builds_again_where_the_engine_depends_on_it(
    box: Box, change: Any, of_rtx: bool
) -> None:
    box.open().close()
    change(box)
    box.open().close()
    assert box.module.builds == (2 if of_rtx or not box.rtx else 1)


@pytest.mark.parametrize("options", [{"max_batch": 7}, {"precision": "float16"}])
def test_another_profile_or_precision_is_another_engine(box: Box, options: dict[str, Any]) -> None:
    pytest.importorskip("onnxconverter_common")
    box.open().close()
    box.open(**options).close()
    assert box.module.builds == 2


def test_never_build_says_what_to_run(box: Box) -> None:
    with pytest.raises(EngineError) as caught:
        box.open(build="never")
    assert "edge-rul compile" in caught.value.hint
    assert f"--max-batch {MAX_BATCH}" in caught.value.hint
    assert ("build it on any machine" if box.rtx else "build it on this machine") in caught.value.hint
    assert ("--target 8.9" in caught.value.hint) == box.rtx
    assert box.module.builds == 0


def test_an_engine_that_the_runtime_refuses_is_set_aside_and_built_again(box: Box, monkeypatch: Any) -> None:
    """Bytes that are whole by their hash, and yet of no use to this TensorRT."""
    from edge_rul.engines import compile as compile_room

    whole = compile_room.build_engine
    monkeypatch.setattr(compile_room, "build_engine", lambda *a, **k: b"NO" + whole(*a, **k))
    with pytest.raises(EngineError, match="refused though it was just built: the engine's magic tag does not match"):
        box.open()
    monkeypatch.setattr(compile_room, "build_engine", whole)
    box.open().close()
    engine = next(box.cache.glob("*.engine"))
    sidecar = engine.with_suffix(".json")
    from edge_rul.engines import cache as cache_room

    facts = kept.load(sidecar, cache_room.Sidecar).facts
    cache_room.store(cache_room.Entry(engine, sidecar), facts, b"of another age", 1.0)
    box.said.clear()
    with box.open() as opened:
        verify(opened, box.bundle)
    assert any("set aside" in line and "magic tag" in line for line in box.said)
    assert engine.with_name(engine.name + ".bad").read_bytes() == b"of another age"
    assert engine.read_bytes().startswith(HEADER)


def test_compiled_kernels_are_kept_for_the_next_start_of_this_gpu(tmp_path: Path, tiny_bundle: Bundle) -> None:
    box = Box(tmp_path, tiny_bundle, rtx=True)
    with box.open() as engine:
        assert engine._kernels.loaded == b""
    with box.open() as engine:
        assert engine._kernels.loaded == b"kernels"
    next(box.cache.glob("*.kernels")).write_bytes(b"of another version")
    with box.open() as engine:
        assert engine._kernels.loaded == b""
    assert "compiled again" in box.said[-1]
    change_driver(box)
    with box.open() as engine:
        assert engine._kernels.loaded == b""


def test_the_timing_cache_is_kept_where_there_is_one(tmp_path: Path, tiny_bundle: Bundle) -> None:
    box = Box(tmp_path, tiny_bundle)
    box.open().close()
    kept = next(box.cache.glob("*.timing"))
    assert kept.read_bytes() == b"+"
    for n, stored in enumerate((b"of another version", b"+ of another GPU")):
        kept.write_bytes(stored)
        box.open(max_batch=3 + n).close()
        assert kept.read_bytes() == b"+"


def test_without_the_binding_or_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="needs the Python package cuda-bindings"):
        Cuda()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt does not load") as caught:
        Flavour("tensorrt")
    assert "edge-rul[tensorrt]" in caught.value.hint


def test_the_real_binding_has_what_we_call() -> None:
    """The names only: without a driver a call answers an error."""
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError:
        absent("the package cuda-bindings")
    assert [name for name in [*CALLS, *GIVES_BACK, *ASKS, *CONSTANTS] if not hasattr(runtime, name)] == []
    assert int(runtime.cudaError_t.cudaErrorIllegalAddress) == 700
    kinds = runtime.cudaMemcpyKind
    assert (int(kinds.cudaMemcpyHostToDevice), int(kinds.cudaMemcpyDeviceToHost)) == (1, 2)
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert {"name", "major", "minor"} <= set(dir(runtime.cudaDeviceProp()))


def test_the_real_binding_takes_our_arguments() -> None:
    """Each call as we make it, where there is no driver: an error of CUDA's, and none of Python's."""
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError:
        absent("the package cuda-bindings")
    if int(runtime.cudaGetDevice()[0]) == 0:
        pytest.skip("there is a GPU here: these calls would reach it")
    cuda, array, stream = Cuda(), np.zeros(4, np.float32), 0
    calls = [
        *(cuda.device, cuda.memory, cuda.stream, cuda.check),
        *(lambda: cuda.allocate(16), lambda: cuda.pinned((2, 2)), lambda: cuda.free(0), lambda: cuda.unpin(array)),
        *(lambda: cuda.to_device(4096, array, stream), lambda: cuda.to_host(array, 4096, stream)),
        *(lambda: cuda.wait(stream), lambda: cuda.destroy_stream(stream)),
        *(lambda: cuda.begin_capture(stream), lambda: cuda.end_capture(stream)),
        *(lambda: cuda.instantiate(runtime.cudaGraph_t()), lambda: cuda.destroy_graph(runtime.cudaGraph_t())),
        lambda: cuda.launch(runtime.cudaGraphExec_t(), stream),
        lambda: cuda.destroy_launchable(runtime.cudaGraphExec_t()),
    ]
    for call in calls:
        with contextlib.suppress(EngineError):
            call()


@pytest.mark.parametrize(
    ("text", "capability"), [("sm89", "8.9"), ("SM120", "12.0"), ("8.6", "8.6"), ("12.0", "12.0"), ("sm_80", "8.0")]
)
def test_targets(text: str, capability: str) -> None:
    assert parse_target(text).compute_capability == capability


@pytest.mark.parametrize("text", ["", "sm", "ada", "sm8", "8.9.1", "-89"])
def test_no_targets(text: str) -> None:
    with pytest.raises(ValueError, match="such as sm89"):
        parse_target(text)


def test_the_classic_flavour_has_no_target(tmp_path: Path) -> None:
    flavour = Flavour("tensorrt", fake_tensorrt(FakeCuda(), rtx=False))
    with pytest.raises(EngineError, match="on the GPU that runs the engine only"):
        flavour.aim(None, Target("89"))
