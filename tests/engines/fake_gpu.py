"""A GPU made of this process's memory: CUDA's runtime binding and a TensorRT module, for tests where there is none.

    cuda = FakeCuda()                          the binding: memory at real addresses, streams that run when waited for,
                                               captured graphs; `cuda.fail("cudaMalloc", 700, after=2)`
    trt = fake_tensorrt(cuda, rtx=True)        a module with the calls that the engine uses; an engine is the ONNX graph
                                               with a header, and computes through ONNX Runtime

Work given to a stream runs in order when the stream is waited for and not before, so that a result that is read too
early is garbage here too.
"""

# ruff: noqa: N802, N815 - the names are NVIDIA's

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

Work = Callable[[], None]


class Code(int):
    @property
    def name(self) -> str:
        return f"cudaError{int(self)}"


OK, INVALID, CAPTURING = Code(0), Code(1), Code(900)


class FakeCuda:
    """The calls of `cuda.bindings.runtime` that edge_rul.engines.cuda makes."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, name: str = "Fake GPU", capability: tuple[int, int] = (8, 9), driver: int = 13050) -> None:
        self.properties = SimpleNamespace(name=name.encode(), major=capability[0], minor=capability[1])
        self.driver = driver
        self.others = 0  # bytes that other processes hold
        self.memory: dict[int, Any] = {}  # of the device
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.capturing: dict[int, list[Work]] = {}
        self.captured: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}  # that can be launched
        self.calls: list[str] = []
        self._kept: list[Any] = []
        self._failures: dict[str, list[int]] = {}
        self._next = 1000

    def fail(self, name: str, code: int, after: int = 0) -> None:
        """The call `name` answers `code` once, after `after` good ones."""
        self._failures[name] = [code, after]

    @property
    def leaks(self) -> dict[str, int]:
        names = ("memory", "pinned", "streams", "capturing", "captured", "graphs")
        return {name: len(held) for name in names if (held := getattr(self, name))}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not (name.startswith("cuda") and callable(found)):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name in self._failures:
                code, after = self._failures[name]
                if after == 0:
                    del self._failures[name]
                    return (Code(code), None)
                self._failures[name][1] -= 1
            answer: tuple[Any, ...] = found(*arguments)
            return answer

        return call

    def _number(self) -> int:
        self._next += 1
        return self._next

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return OK, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return OK, self.properties

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return OK, 13050

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        used = sum(len(buffer) for buffer in self.memory.values())
        return OK, 8 * 2**30 - used - self.others, 8 * 2**30

    def cudaDeviceSynchronize(self) -> tuple[Any, ...]:
        return (OK,)

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (OK,)

    def _take(self, size: int, pool: dict[int, Any]) -> tuple[Any, ...]:
        buffer = np.full(size, 0xFF, np.uint8)  # NaN, as float32
        pool[buffer.ctypes.data] = buffer
        return OK, buffer.ctypes.data

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._take(size, self.memory)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._take(size, self.pinned)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return (OK if self.memory.pop(address, None) is not None else INVALID,)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        self._kept.append(self.pinned.get(address))  # a test may look at the array once more
        return (OK if self.pinned.pop(address, None) is not None else INVALID,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = self._number()
        self.streams[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.capturing.pop(stream, None)
        return (OK if self.streams.pop(stream, None) is not None else INVALID,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if stream in self.capturing:
            return (CAPTURING,)
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (OK,)

    def give(self, stream: int, work: Work) -> None:
        self.capturing.get(stream, self.streams[stream]).append(work)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:
        pools = (self.memory, self.pinned) if kind == 1 else (self.pinned, self.memory)
        for address, pool in zip((target, source), pools, strict=True):
            if not any(start <= address and address + size <= start + b.nbytes for start, b in pool.items()):
                return (INVALID,)
        self.give(stream, lambda: ctypes.memmove(target, source, size) and None)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.capturing[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        number = self._number()
        self.captured[number] = self.capturing.pop(stream)
        return OK, number

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        number = self._number()
        self.graphs[number] = list(self.captured[graph])
        return OK, number

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return (OK if self.captured.pop(graph, None) is not None else INVALID,)

    def cudaGraphLaunch(self, number: int, stream: int) -> tuple[Any, ...]:
        for work in self.graphs[number]:
            self.give(stream, work)
        return (OK,)

    def cudaGraphExecDestroy(self, number: int) -> tuple[Any, ...]:
        return (OK if self.graphs.pop(number, None) is not None else INVALID,)


HEADER = b"FAKE-ENGINE:"


class Context:
    def __init__(self, engine: Any, config: Any) -> None:
        self.engine, self.config = engine, config
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return 1 <= shape[0] <= self.engine.largest

    def execute_async_v3(self, stream: int) -> bool:
        engine, shape, addresses = self.engine, self.shape, dict(self.addresses)
        if engine.module.refuses_to_run:
            return False

        def array(name: str, shape: tuple[int, ...]) -> Any:
            size = int(np.prod(shape)) * 4
            return np.frombuffer((ctypes.c_ubyte * size).from_address(addresses[name]), np.float32).reshape(shape)

        def work() -> None:
            rul, logits = engine.session.run(["rul", "logits"], {"x": array("x", shape).copy()})
            array("rul", rul.shape)[:] = rul
            array("logits", logits.shape)[:] = logits

        engine.module.cuda.give(stream, work)
        engine.module.ran.append(shape[0])
        return True


class Engine:
    def __init__(self, module: Any, blob: bytes) -> None:
        self.module = module
        self.largest = int.from_bytes(blob[len(HEADER) : len(HEADER) + 4], "big")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(blob[len(HEADER) + 4 :], options)
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {t.name: tuple(d if isinstance(d, int) else -1 for d in t.shape) for t in tensors}
        self.num_io_tensors = len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def create_execution_context(self, config: Any = None) -> Context | None:
        return None if self.module.has_no_context else self.module.context_type(self, config)

    def create_runtime_config(self) -> Any:
        return RuntimeConfig()


class RuntimeCache:
    def __init__(self) -> None:
        self.content = b"kernels"
        self.loaded = b""

    def deserialize(self, data: bytes) -> bool:
        self.loaded = bytes(data)
        return self.loaded == self.content

    def serialize(self) -> bytes:
        return self.content

    def reset(self) -> bool:
        self.loaded = b""
        return True


class RuntimeConfig:
    cuda_graph_strategy: Any = None
    cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Network:
    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.graph = b""
        self.num_inputs = self.num_outputs = 0

    def get_input(self, i: int) -> Any:
        return self.inputs[i]

    def get_output(self, i: int) -> Any:
        return self.outputs[i]


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profile: Any = None
        self.timing: bytes | None = None
        self.capability: Any = None
        self.num_compute_capabilities = 0

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None: ...

    def add_optimization_profile(self, profile: Any) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: bytes(data) + b"+") if data != b"of another version" else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.timing_cache = cache
        return b"another GPU" not in cache.serialize()

    def get_timing_cache(self) -> Any:
        return self.timing_cache

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self.capability = capability
        return True


def fake_tensorrt(cuda: FakeCuda, *, rtx: bool, capturable: bool = False, version: str = "1.0.fake") -> Any:
    """The module. capturable: its contexts have `is_stream_capturable`, and say yes; without rtx only."""

    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    class ILogger:
        def __init__(self) -> None: ...

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class CapturableContext(Context):
        def is_stream_capturable(self, stream: int) -> bool:
            return True

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, blob: bytes) -> Engine | None:
            if not blob.startswith(HEADER):
                self.logger.log(Severity.ERROR, "the engine's magic tag does\nnot match")
                return None
            return Engine(module, blob)

    class Profile:
        def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
            self.shapes = (least, best, most)

    class Builder:
        def __init__(self, logger: Any) -> None: ...

        def create_network(self, flags: int) -> Network:
            assert flags == 1, "strongly typed"
            return Network()

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
            module.builds += 1
            assert config.flags == set(), "TF32 is on"
            largest: int = config.profile.shapes[2][0]
            return HEADER + largest.to_bytes(4, "big") + network.graph

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self.network = network
            self.num_errors = 1

        def parse(self, data: bytes) -> bool:
            try:
                graph = onnx.load_from_string(data).graph
                onnx.checker.check_graph(graph)
                onnxruntime.InferenceSession(data)
            except Exception as e:
                self.error = str(e)
                return False
            for kind in ("input", "output"):
                tensors = [
                    SimpleNamespace(
                        name=t.name,
                        dtype=module.DataType.FLOAT if t.type.tensor_type.elem_type == 1 else "other",
                        shape=tuple(d.dim_value or -1 for d in t.type.tensor_type.shape.dim),
                    )
                    for t in getattr(graph, kind)
                ]
                setattr(self.network, f"{kind}s", tensors)
                setattr(self.network, f"num_{kind}s", len(tensors))
            self.network.graph = data
            return True

        def get_error(self, i: int) -> Any:
            return SimpleNamespace(desc=lambda: self.error)

    module = SimpleNamespace(
        __version__=version,
        cuda=cuda,
        builds=0,
        ran=[],  # batch sizes of the enqueued runs, captured ones once
        refuses_to_run=False,
        has_no_context=False,
        context_type=CapturableContext if capturable else Context,
        ILogger=ILogger,
        Runtime=Runtime,
        Builder=Builder,
        OnnxParser=OnnxParser,
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
        DataType=SimpleNamespace(FLOAT="float32"),
    )
    if rtx:
        module.ComputeCapability = SimpleNamespace(CURRENT="current", SM80="80", SM89="89")
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    return module
