"""The few calls of the CUDA runtime that an engine needs, over NVIDIA's `cuda-bindings`.

Owns the binding: its tuples of (error, value), memory on both sides, one stream, captured graphs, and which errors end
the process. Must not know TensorRT or a model. The binding is an argument, so that tests give one that fails on demand.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import Any, NamedTuple

import numpy as np

from edge_rul.core.normalise import Array
from edge_rul.errors import EXIT_FATAL_CUDA, EXIT_INTERNAL, EdgeRulError, EngineError

# After these the context is lost: every later call fails too, and only a new process helps.
_FATAL = frozenset(
    {
        214,  # uncorrectable memory error
        220,  # uncorrectable NVLink error
        226,  # an error that the GPU contained, at the process's cost
        700,  # illegal address
        702,  # a kernel ran into the watchdog's limit
        709,  # context destroyed
        710,  # device-side assertion
        714,  # hardware stack error
        715,  # illegal instruction
        716,  # misaligned address
        717,  # invalid address space
        718,  # invalid program counter
        719,  # launch failure
        721,  # leak of tensor memory
        810,  # the multi-process service ended this client
        911,  # a device beside the GPU failed
        999,  # unknown
    }
)
_TAKEN = frozenset({2, 46})  # no memory is left, or another process has the device for itself
_ROOM = 1 << 28  # bytes; where TensorRT gives up with less than this free, it was for want of it
_NVIDIA_SMI = "other processes use the GPU: `nvidia-smi` tells which, and how much"
_NO_DRIVER_OR_TOO_OLD = 35  # one code for both
_TO_DEVICE, _TO_HOST = "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"


class FatalCudaError(EdgeRulError):
    """The GPU's context is lost. No EngineError: nothing but the end of the process mends it."""

    exit_code = EXIT_FATAL_CUDA


class GpuTaken(EngineError):
    """Others use the GPU. They may give back what they hold, so that a later start can do better: systemd tries it."""

    exit_code = EXIT_INTERNAL


class Device(NamedTuple):
    """name: as of the driver. compute_capability: as "8.9". driver: the CUDA version that the driver supports."""

    name: str
    compute_capability: str
    driver: str


def cuda_error(operation: str, object: str, code: int, problem: str) -> FatalCudaError | GpuTaken | None:
    """What CUDA's error `code` is for the daemon, None where it is just an error."""
    if code in _FATAL:
        hint = "the process ends and starts anew; `dmesg` has the driver's own words (Xid)"
        return FatalCudaError(operation, object, problem, hint=hint)
    if code in _TAKEN:
        return GpuTaken(operation, object, problem, hint=_NVIDIA_SMI)
    return None


class Cuda:
    """The current device. Addresses are plain integers; what was allocated is freed by its own counterpart.

    Every method raises FatalCudaError where the context is lost, else EngineError.
    """

    def __init__(self, binding: Any = None) -> None:
        if binding is None:
            try:
                from cuda.bindings import runtime  # noqa: PLC0415
            except ImportError as e:  # absent, or its library does not load
                absent = isinstance(e, ModuleNotFoundError)
                raise EngineError(
                    "open GPU",
                    "cuda",
                    "needs the Python package cuda-bindings, which "
                    + ("is not installed" if absent else f"does not load: {e}"),
                    hint="python -m pip install 'edge-rul[tensorrt]' or 'edge-rul[tensorrt-rtx]'",
                ) from None
            binding = runtime
        self._cuda = binding

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, name)(*arguments)
        if int(error) != 0:
            self._raise(name, error)
        return values[0] if values else None

    def _raise(self, name: str, error: Any) -> None:
        problem = f"{getattr(error, 'name', 'error')} ({int(error)})"
        if (known := cuda_error("CUDA", name, int(error), problem)) is not None:
            raise known
        if int(error) == _NO_DRIVER_OR_TOO_OLD and (has := int(self._cuda.cudaDriverGetVersion()[1] or 0)):
            needs = int(self._cuda.cudaRuntimeGetVersion()[1])
            problem = f"the NVIDIA driver is for CUDA {_version(has)}, this cuda-bindings needs {_version(needs)}"
            hint = f"a newer driver, or packages for CUDA {has // 1000}: docs/engines.md, On a GPU"
            raise EngineError("CUDA", name, problem, hint=hint)
        hint = "is there an NVIDIA GPU with a driver, and may this user open it? `nvidia-smi` tells"
        raise EngineError("CUDA", name, problem, hint=hint)

    def device(self) -> Device:
        index = self._call("cudaGetDevice")
        properties = self._call("cudaGetDeviceProperties", index)
        driver = int(self._call("cudaDriverGetVersion"))
        name = properties.name
        return Device(
            (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).strip("\0 "),
            f"{properties.major}.{properties.minor}",
            _version(driver),
        )

    def memory(self) -> tuple[int, int]:
        """Bytes in use, by anybody, and bytes in all."""
        error, free, total = self._cuda.cudaMemGetInfo()
        if int(error) != 0:
            self._raise("cudaMemGetInfo", error)
        return int(total) - int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...]) -> Array:
        """A float32 array of zeros in page-locked memory, which alone is copied without waiting."""
        size = math.prod(shape) * 4
        address = int(self._call("cudaHostAlloc", size, 0))
        memory = (ctypes.c_ubyte * size).from_address(address)
        array: Array = np.frombuffer(memoryview(memory), np.float32).reshape(shape)
        array[:] = 0
        return array

    def unpin(self, array: Array) -> None:
        """The array may not be read afterwards."""
        self._call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def to_device(self, address: int, source: Array, stream: int) -> None:
        """source: C-contiguous, unchanged until the stream has been waited for."""
        self._copy(address, source.ctypes.data, source.nbytes, _TO_DEVICE, stream)

    def to_host(self, target: Array, address: int, stream: int) -> None:
        self._copy(target.ctypes.data, address, target.nbytes, _TO_HOST, stream)

    def _copy(self, target: int, source: int, size: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, size, getattr(self._cuda.cudaMemcpyKind, kind), stream)

    def wait(self, stream: int) -> None:
        """Until all that was given to the stream is done; an error of any of it comes up here."""
        self._call("cudaStreamSynchronize", stream)

    def check(self) -> None:
        """Raise what may be why TensorRT gave up, which does not tell itself.

        It may have brought a CUDA runtime of its own, whose last error ours does not know: ours asks whether the
        context still works, and whether memory is left.
        """
        self._call("cudaGetLastError")
        self._call("cudaDeviceSynchronize")
        used, total = self.memory()
        if total - used < _ROOM:
            problem = f"{(total - used) >> 20} MiB of {total >> 20} are free"
            raise GpuTaken("CUDA", "memory", problem, hint=_NVIDIA_SMI)

    def begin_capture(self, stream: int) -> None:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """What was given to the stream since `begin_capture`, as a graph that `instantiate` takes."""
        return self._call("cudaStreamEndCapture", stream)

    def instantiate(self, graph: Any) -> Any:
        """The graph as one that can be launched."""
        return self._call("cudaGraphInstantiate", graph, 0)

    def abandon_capture(self, stream: int) -> None:
        """Leave capturing after an error, which is what counts: another one on the way is not raised."""
        with contextlib.suppress(EngineError):
            self.destroy_graph(self.end_capture(stream))

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call("cudaGraphDestroy", graph)

    def destroy_launchable(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)


def _version(number: int) -> str:
    """CUDA's 12060 as 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"
