"""TensorRT on an NVIDIA GPU, in both flavours.

Owns the engine's life on the GPU: finding or building it through the cache, buffers that are allocated once, one
stream, and the walk of a batch: pinned memory, device, kernels, pinned memory. What differs between the flavours
stands in `flavour`, the CUDA calls in `cuda`. Must not know what a window means.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import Say, check_input
from edge_rul.engines.cache import EngineCache, Facts, Profile, Unusable, keep, note_parity
from edge_rul.engines.cuda import Cuda, FatalCudaError
from edge_rul.engines.failures import record_failure
from edge_rul.engines.flavour import Flavour, Target
from edge_rul.errors import EngineError

# A captured graph has one batch size; a batch takes the next larger graph, its rest filled with zeros.
_BUCKETS = (1, 4, 16, 64, 256, 1024)


class _Graph(NamedTuple):
    """A captured walk of a batch of one size, with the context that its addresses and shapes belong to."""

    context: Any
    launchable: Any


def profile_for(max_batch: int) -> Profile:
    """Kernels are chosen for the largest batch: that is where time is short."""
    return Profile(1, max_batch, max_batch)


def facts_for(bundle: Bundle, flavour: Flavour, place: tuple[str, str, str], precision: str, profile: Profile) -> Facts:
    """place: of `Flavour.place`."""
    gpu, capability, driver = place
    return Facts(bundle.sha256, flavour.name, flavour.version, gpu, capability, driver, precision, profile)


class TensorRtEngine:
    """A serialized engine in its context. name: the flavour's."""

    def __init__(
        self,
        bundle: Bundle,
        flavour: Flavour,
        *,
        cache: Path,
        say: Say,
        precision: str = "float32",
        max_batch: int = 32,
        build: str = "on_miss",
        cuda: Cuda | None = None,
    ) -> None:
        """Raises EngineError, or FatalCudaError where the GPU is lost."""
        self.name = flavour.name
        self.version = flavour.version
        self.precision = precision
        self.max_batch = max_batch
        self._window, self._inputs = bundle.manifest.window, bundle.manifest.network.c_in
        self._classes = len(bundle.manifest.classes)
        self._flavour = flavour
        self._say = say
        self._directory = cache
        self._closed = False
        self._held = contextlib.ExitStack()
        self._cuda = cuda or Cuda()
        with self._losses_counted():
            device = self._cuda.device()
            profile = profile_for(max_batch)
            facts = facts_for(bundle, flavour, flavour.place(device, None), precision, profile)
            kept = EngineCache(cache, say)
            self._entry = kept.entry(facts)
            self._engine = kept.open(
                facts,
                self._deserialize,
                None if build == "never" else lambda: self._build(bundle, profile),
                command=command(bundle, facts, cache, flavour),
            )
            # Compiled kernels belong to this GPU and driver, also where the engine itself does not.
            digest = hashlib.sha256("\0".join(device).encode()).hexdigest()[:12]
            self._kernels_file = cache / f"{facts.name}-{digest}.kernels"
            try:
                self._allocate()
            except BaseException:
                self.close()
                raise

    @property
    def captured(self) -> tuple[int, ...]:
        """The batch sizes that have a graph."""
        return tuple(self._graphs)

    def gpu_memory(self) -> tuple[int, int]:
        """Bytes of the GPU's memory in use, by anybody, and in all. Any thread may ask. Raises as `Cuda` does."""
        return self._cuda.memory()

    def note_parity(self, parity: dict[str, float]) -> None:
        """Keep beside the engine how far it was off, where it is kept."""
        with contextlib.suppress(OSError, ValueError):  # what keeps it from being written was told before
            note_parity(self._entry, parity)

    @contextlib.contextmanager
    def _losses_counted(self) -> Iterator[None]:
        """The process ends after a fatal error, at its start as later; the next start finds it counted."""
        try:
            yield
        except FatalCudaError:
            record_failure(self._directory, self._say)
            raise

    def _build(self, bundle: Bundle, profile: Profile) -> bytes:
        from edge_rul.engines.compile import build_engine  # noqa: PLC0415

        try:
            return build_engine(bundle, self._flavour, self.precision, profile, None, self._directory, say=self._say)
        except EngineError:
            self._cuda.check()  # kernels are tried on the GPU while an engine is built
            raise

    def _deserialize(self, blob: bytes) -> Any:
        """Raises Unusable."""
        self._runtime = self._flavour.trt.Runtime(self._flavour.logger)
        engine = self._runtime.deserialize_cuda_engine(blob)
        if engine is None:
            self._cuda.check()  # a GPU that is full or lost says nothing against the engine
            raise Unusable(self._flavour.said())
        found = {
            (name := engine.get_tensor_name(i)): tuple(engine.get_tensor_shape(name))
            for i in range(engine.num_io_tensors)
        }
        expected = {"x": (-1, self._window, self._inputs), "rul": (-1,), "logits": (-1, self._classes)}
        if found != expected:
            raise Unusable(f"its inputs and outputs are {found}, expected {expected}")
        return engine

    def _allocate(self) -> None:
        cuda, B = self._cuda, self.max_batch
        self._stream = cuda.stream()
        self._held.callback(cuda.destroy_stream, self._stream)
        shapes = {"x": (B, self._window, self._inputs), "rul": (B,), "logits": (B, self._classes)}
        self._host: dict[str, Array] = {}
        self._device: dict[str, int] = {}
        for name, shape in shapes.items():
            self._host[name] = cuda.pinned(shape)
            self._held.callback(cuda.unpin, self._host[name])
            self._device[name] = cuda.allocate(self._host[name].nbytes)
            self._held.callback(cuda.free, self._device[name])
        kept = self._kernels_file.read_bytes() if self._kernels_file.exists() else b""
        self._context, self._kernels = self._new_context(kept)
        self._kept = kept
        self._graphs: dict[int, _Graph] = {}
        if self._flavour.may_capture(self._context, self._stream):
            for size in sorted({min(size, B) for size in _BUCKETS} | {B}):
                self._capture(size)

    def _new_context(self, kernels: bytes = b"") -> tuple[Any, Any]:
        context, cache = self._flavour.context(self._engine, kernels, self._say)
        if context is None:
            self._cuda.check()
            raise EngineError("open", self.name, f"no execution context: {self._flavour.said()}")
        for name, address in self._device.items():
            context.set_tensor_address(name, address)
        return context, cache

    def _capture(self, size: int) -> None:
        """Keep the walk of a batch of `size` as one graph. One context a graph: a graph fixes its shapes."""
        context, _ = self._new_context()
        self._walk(context, size)  # allocates what the first run allocates; not allowed while capturing
        self._cuda.wait(self._stream)
        self._cuda.begin_capture(self._stream)
        try:
            self._walk(context, size)
        except BaseException:
            self._cuda.abandon_capture(self._stream)
            raise
        graph = self._cuda.end_capture(self._stream)
        self._held.callback(self._cuda.destroy_graph, graph)
        launchable = self._cuda.instantiate(graph)
        self._held.callback(self._cuda.destroy_launchable, launchable)
        self._graphs[size] = _Graph(context, launchable)

    def _walk(self, context: Any, n: int) -> None:
        """Give the first n windows of the pinned input to the stream, up to the pinned outputs."""
        cuda, stream = self._cuda, self._stream
        cuda.to_device(self._device["x"], self._host["x"][:n], stream)
        if not context.set_input_shape("x", (n, self._window, self._inputs)) or not context.execute_async_v3(stream):
            cuda.check()
            raise EngineError("infer", self.name, f"TensorRT did not run a batch of {n}: {self._flavour.said()}")
        for name in ("rul", "logits"):
            cuda.to_host(self._host[name][:n], self._device[name], stream)

    def infer(self, x: Array) -> tuple[Array, Array]:
        if self._closed:
            raise EngineError("infer", self.name, "the engine is closed")
        check_input(self.name, x, self._window, self._inputs, self.max_batch)
        n = len(x)
        if n == 0:
            return np.empty(0, np.float32), np.empty((0, self._classes), np.float32)
        pinned = self._host["x"]
        pinned[:n] = x
        with self._losses_counted():
            size = next((size for size in self._graphs if size >= n), 0)
            if size:
                pinned[n:size] = 0
                self._cuda.launch(self._graphs[size].launchable, self._stream)
            else:
                self._walk(self._context, n)
            self._cuda.wait(self._stream)
        return self._host["rul"][:n].copy(), self._host["logits"][:n].copy()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._keep_kernels()
        # Contexts before the memory that they point into.
        self._graphs, self._context, self._kernels = {}, None, None
        self._engine = self._runtime = None
        try:
            self._held.close()
        except (EngineError, FatalCudaError) as e:
            self._say(f"{self.name} closed with an error, which costs nothing but memory of this process: {e}")

    def _keep_kernels(self) -> None:
        cache = getattr(self, "_kernels", None)
        if cache is None:
            return
        try:
            if (kernels := bytes(memoryview(cache.serialize()))) != self._kept:
                keep(self._kernels_file, kernels)
        except OSError as e:
            self._say(f"{self._kernels_file.parent} cannot keep the compiled kernels: {e.strerror}")
        except Exception as e:  # TensorRT's, as after a loss of the GPU: that is the error which counts
            self._say(f"{self.name} does not hand out its compiled kernels: {e}")

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def command(bundle: Bundle, facts: Facts, cache: Path, flavour: Flavour) -> str:
    """Where this engine can be built, and what a person types there."""
    words = ["edge-rul", "compile", str(bundle.path), "--engine", facts.flavour, "--precision", facts.precision]
    words += ["--max-batch", str(facts.profile.max)]
    if flavour.builds_ahead:
        words += ["--target", Target(facts.compute_capability.replace(".", "")).compute_capability]
    where = "on any machine, and copy it into the cache" if flavour.builds_ahead else "on this machine"
    return f"{where}: {shlex.join([*words, '--cache', str(cache)])}"
