"""Real builds: TensorRT for RTX compiles the shipped bundle for GPUs that are not here.

An engine tells nothing without a driver. So the network is looked at before the build, and the blob and its sidecar
after it.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from conftest import absent
from engines.fake_gpu import FakeCuda, fake_tensorrt

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.cli import main
from edge_rul.core.features import Readings
from edge_rul.engines import compile as compile_room
from edge_rul.engines import tensorrt as tensorrt_room
from edge_rul.engines.cache import EngineCache, Profile, Sidecar, check
from edge_rul.engines.compile import build_engine
from edge_rul.engines.cuda import Cuda
from edge_rul.engines.flavour import Flavour, Target
from edge_rul.engines.onnx_precision import in_precision
from edge_rul.engines.tensorrt import facts_for
from edge_rul.engines.trt_build import Graph, prepare
from edge_rul.engines.waiting import extending
from edge_rul.errors import EXIT_CONFIG, EXIT_OK, EXIT_USAGE, EngineError

TARGETS = ["sm80", "sm86", "sm89", "sm120"]
PRECISIONS = ["float32", "float16", "bfloat16"]
PROFILE = Profile(1, 32, 64)


@pytest.fixture(scope="module")
def fd001(shipped_bundle: Path) -> Bundle:
    return bundles.load(shipped_bundle)


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    if find_spec("tensorrt_rtx") is None:
        absent("the package tensorrt-rtx-cu13")
    if find_spec("onnxconverter_common") is None:
        absent("the package onnxconverter-common")
    return Flavour("tensorrt_rtx")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_network_before_the_build(rtx: Flavour, fd001: Bundle, precision: str) -> None:
    trt = rtx.trt
    m = fd001.manifest
    data = in_precision(fd001.graph.read_bytes(), precision)
    graph = Graph(data, "model.onnx", m.window, len(m.inputs), len(m.classes))
    plan = prepare(graph, rtx, PROFILE, Target("89"))
    network = plan.network
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    assert {t.name: (t.dtype, tuple(t.shape)) for t in tensors} == {
        "x": (trt.DataType.FLOAT, (-1, 30, 14)),
        "rul": (trt.DataType.FLOAT, (-1,)),
        "logits": (trt.DataType.FLOAT, (-1, 3)),
    }
    assert [tuple(shape) for shape in plan.shapes.get_shape("x")] == [(1, 30, 14), (32, 30, 14), (64, 30, 14)]
    assert not plan.config.get_flag(trt.BuilderFlag.TF32)
    assert plan.config.get_compute_capability(0) == trt.ComputeCapability.SM89
    assert plan.config.num_optimization_profiles == 1
    assert not plan.timed
    # What computes: of floating types, the precision that was asked for, and float32 for the few reductions.
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    types = Counter(str(layer.get_output(0).dtype).split(".")[-1] for layer in layers if layer.num_outputs)
    name = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}[precision]
    floating = {key: n for key, n in types.items() if key in {"FLOAT", "HALF", "BF16"}}
    assert set(floating) == {name, "FLOAT"}
    assert floating[name] > 150
    assert precision == "float32" or floating["FLOAT"] < 20


def test_the_real_parser_has_nothing_to_say(rtx: Flavour, fd001: Bundle) -> None:
    """Opset and operators that it takes without a warning, as long as no GPU is asked for."""
    warnings: list[str] = []

    class Listening(rtx.trt.ILogger):  # type: ignore[name-defined,misc]
        def log(self, severity: Any, message: str) -> None:
            if severity == rtx.trt.ILogger.Severity.WARNING:
                warnings.append(message)

    # One logger a process: the flavour's is in use, so its methods are borrowed.
    said = rtx.logger.log
    try:
        type(rtx.logger).log = Listening.log
        m = fd001.manifest
        graph = Graph(fd001.graph.read_bytes(), "model.onnx", m.window, len(m.inputs), len(m.classes))
        prepare(graph, rtx, PROFILE, Target("89"))
    finally:
        type(rtx.logger).log = said.__func__
    assert warnings == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_shipped_bundle_builds(
    rtx: Flavour,
    fd001: Bundle,
    target: str,
    precision: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compile", str(fd001.path), "--engine", "tensorrt_rtx", "--precision", precision]
    assert main([*arguments, "--target", target, "--max-batch", "64", "--cache", str(tmp_path)]) == EXIT_OK
    printed = capsys.readouterr().out
    assert "not verified" in printed
    capability = f"{target[2:-1]}.{target[-1]}"
    facts = facts_for(fd001, rtx, ("any", capability, "any"), precision, Profile(1, 64, 64))
    entry = EngineCache(tmp_path, print).entry(facts)
    assert str(entry.engine) in printed
    blob = check(entry, facts)
    assert blob is not None
    sidecar = msgspec.json.decode(entry.sidecar.read_bytes(), type=Sidecar)
    assert (sidecar.sha256, sidecar.bytes) == (hashlib.sha256(blob).hexdigest(), len(blob))
    assert (sidecar.facts, sidecar.parity) == (facts, None)
    # The weights are in it: 3.5 million, in 4 or 2 bytes each.
    weights = fd001.manifest.network.parameters * (4 if precision == "float32" else 2)
    assert 0.75 * weights < len(blob) < 3 * weights
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {entry.engine.name, entry.sidecar.name, f"{entry.engine.stem}.lock"}


def test_a_precision_costs_half_the_weights_and_little_accuracy(fd001: Bundle) -> None:
    """float16's graph computed by ONNX Runtime, whose CPU kernels round as the graph says at each tensor."""
    if find_spec("onnxconverter_common") is None:
        absent("the package onnxconverter-common")
    import onnxruntime

    data = fd001.graph.read_bytes()
    half = in_precision(data, "float16")
    assert len(half) < 0.51 * len(data)
    x = fd001.manifest.transform.apply(Readings(fd001.golden.windows)).x
    rul, logits = onnxruntime.InferenceSession(half).run(["rul", "logits"], {"x": x})
    assert (rul.dtype, logits.dtype) == (np.float32, np.float32)
    off = float(np.abs(rul - fd001.golden.rul).max())
    assert 1e-4 < off < 1.0, "rounded, and not by much"


def test_bfloat16_is_float32_rounded_once(tmp_path: Path) -> None:
    if find_spec("onnxconverter_common") is None:
        absent("the package onnxconverter-common")
    graph = bundle_parts()["graph"]
    exact = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(graph).graph.initializer}
    swapped = onnx.load_from_string(in_precision(graph, "bfloat16")).graph
    rounded = [t for t in swapped.initializer if t.data_type == onnx.TensorProto.BFLOAT16]
    assert len(rounded) > 20
    for tensor in rounded:
        found = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        error = np.abs(found - exact[tensor.name])
        assert (error <= np.abs(exact[tensor.name]) * 2.0**-8).all(), tensor.name
    kinds = {t.data_type for t in swapped.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds


def test_an_unknown_precision() -> None:
    with pytest.raises(EngineError, match="no such precision"):
        in_precision(b"", "int4")


def test_a_target_that_the_flavour_lacks(rtx: Flavour, fd001: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(fd001.path), "--target", "sm87"]) == EXIT_CONFIG
    assert re.search(r"no target sm87; it has sm75, sm80", capsys.readouterr().err)


def test_a_build_that_fails_tells_tensorrts_reason(rtx: Flavour, fd001: Bundle, tmp_path: Path) -> None:
    """Turing has no float32 matrix product in this flavour."""
    with pytest.raises(EngineError, match=r"builds no engine for sm75: .*FP32 GEMM is not supported"):
        build_engine(fd001, rtx, "float32", PROFILE, Target("75"), tmp_path, say=print)


@pytest.mark.parametrize("target", ["ada", "", "sm8"])
def test_a_target_that_is_none(fd001: Bundle, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    if target == "":
        pytest.skip("an empty target is none given")
    assert main(["compile", str(fd001.path), "--target", target]) == EXIT_USAGE
    assert "such as sm89" in capsys.readouterr().err


def test_the_service_manager_is_asked_for_time_while_it_builds(
    rtx: Flavour, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        arguments = ["compile", str(tiny_bundle.path), "--target", "sm89", "--cache", str(tmp_path / "cache")]
        assert main(arguments) == EXIT_OK
        message = manager.recv(4096).decode()
    assert re.match(r"EXTEND_TIMEOUT_USEC=\d{7,}\nSTATUS=", message)


def test_asking_for_time_ends_with_the_build() -> None:
    asked: list[tuple[str, ...]] = []
    with pytest.raises(KeyError), extending(lambda *lines: asked.append(lines), "building", every=0.001):
        while len(asked) < 3:
            os.sched_yield()
        raise KeyError
    count = len(asked)
    assert count >= 3
    assert not any(t.name == "extend-timeout" for t in __import__("threading").enumerate())


def test_a_directory_that_cannot_be_written_is_told_before_the_build(
    rtx: Flavour, tiny_bundle: Bundle, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_room, "build_engine", no_build)
    (tmp_path / "file").write_text("")
    arguments = ["compile", str(tiny_bundle.path), "--target", "sm89", "--cache", str(tmp_path / "file" / "cache")]
    assert main(arguments) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert "cache: cannot be used: Not a directory" in said
    assert "--cache DIR" in said


def test_a_directory_of_somebody_elses_is_told_before_the_build_too(
    rtx: Flavour, tiny_bundle: Bundle, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose lock may be read, so that nothing but the directory itself says so."""
    monkeypatch.setattr(compile_room, "build_engine", no_build)
    monkeypatch.setattr("edge_rul.engines.cache.os.access", lambda path, _: path != tmp_path)
    assert main(["compile", str(tiny_bundle.path), "--target", "sm89", "--cache", str(tmp_path)]) == EXIT_CONFIG
    assert f"{tmp_path}: cannot be used: Permission denied" in capsys.readouterr().err


def test_a_precision_that_the_bundle_does_not_allow_is_told_before_the_build(
    rtx: Flavour, tiny_bundle: Bundle, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_room, "build_engine", no_build)
    assert main(["compile", str(tiny_bundle.path), "--target", "sm89", "--precision", "fp16"]) == EXIT_CONFIG
    assert "no tolerance for precision float16" in capsys.readouterr().err


def no_build(*_: object, **__: object) -> bytes:
    raise AssertionError("minutes, for nothing")


def test_what_is_there_is_not_built_again(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before each start of a service; and what is there and damaged is."""
    built: list[int] = []
    monkeypatch.setattr(compile_room, "build_engine", lambda *_, **__: built.append(1) or b"an engine")
    monkeypatch.setattr(compile_room, "Flavour", lambda name: Flavour(name, fake_tensorrt(FakeCuda(), rtx=True)))
    arguments = ["compile", str(tiny_bundle.path), "--target", "sm89", "--cache", str(tmp_path)]
    assert main(arguments) == main(arguments) == EXIT_OK
    assert len(built) == 1
    assert "is there already" in capsys.readouterr().out
    assert main([*arguments, "--again"]) == EXIT_OK
    assert len(built) == 2
    next(tmp_path.glob("*.engine")).write_bytes(b"an eng")
    assert main(arguments) == EXIT_OK
    assert len(built) == 3
    assert "is built again: 6 bytes, not the 9" in capsys.readouterr().err


def test_where_the_gpu_is_the_engine_is_verified_and_its_parity_kept(
    tiny_bundle: Bundle, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(compile_room, "Cuda", lambda: Cuda(cuda))
    monkeypatch.setattr(tensorrt_room, "Cuda", lambda: Cuda(cuda))
    module = fake_tensorrt(cuda, rtx=False)
    monkeypatch.setattr(compile_room, "Flavour", lambda name: Flavour(name, module))
    arguments = ["compile", str(tiny_bundle.path), "--engine", "tensorrt", "--cache", str(tmp_path)]
    for _ in range(2):
        assert main(arguments) == EXIT_OK
        assert "golden windows off by" in capsys.readouterr().out
        sidecar = msgspec.json.decode(next(tmp_path.glob("*.json")).read_bytes(), type=Sidecar)
        assert sidecar.parity is not None
        assert 0 <= sidecar.parity["rul"] <= 1e-3
        assert (sidecar.facts.gpu, sidecar.facts.driver) == ("Fake GPU", "13.5")
    assert module.builds == 1
    assert cuda.leaks == {}


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
def test_without_a_gpu_it_says_why_there_is_none(
    tiny_bundle: Bundle, engine: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(driver=12040)
    cuda.fail("cudaGetDevice", 35)
    monkeypatch.setattr(compile_room, "Cuda", lambda: Cuda(cuda))
    module = fake_tensorrt(cuda, rtx=engine == "tensorrt_rtx")
    monkeypatch.setattr(compile_room, "Flavour", lambda name: Flavour(name, module))
    assert main(["compile", str(tiny_bundle.path), "--engine", engine]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert "no GPU here to build for: the NVIDIA driver is for CUDA 12.4" in said
    assert ("--target sm89" in said) == (engine == "tensorrt_rtx")


def test_float32_needs_no_package_to_convert_with(fd001: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fd001.graph.read_bytes()
    for module in ("onnx", "onnxconverter_common"):
        monkeypatch.setitem(sys.modules, module, None)
    assert in_precision(graph, "float32") == graph
    with pytest.raises(EngineError, match="needs the Python package onnx, which is not installed") as caught:
        in_precision(graph, "float16")
    assert "edge-rul[compile]" in caught.value.hint
