"""OpenVINO on the CPU: float32, bfloat16 where the CPU computes it, or static int8.

Owns one compiled model and its properties. The int8 form of the graph stands in `openvino_int8`. Must not know what a
window means.

A batch is divided evenly among the threads, and each computes its part alone. Two threads that share each layer wait
for one another some hundred times a batch; where other work takes one of their CPUs that halves what both do.
"""

# ruff: noqa: E402

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

# `import openvino` reports itself to its makers' analytics over the network, unless this package is not there: then
# it takes a stub that sends nothing. A plant's box reports to nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import check_input
from edge_rul.engines.openvino_int8 import in_int8, quantise
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EngineError

PRECISIONS = ("float32", "bfloat16", "int8")


class OpenVinoEngine:
    """The bundle's graph, compiled by OpenVINO's CPU plugin."""

    name = "openvino"
    version: str = ov.get_version().split("-")[0]

    def __init__(self, bundle: Bundle, *, max_batch: int = 32, threads: int = 0, precision: str = "float32") -> None:
        """threads: that share a batch; 0 takes as many as this process may use. Raises EngineError."""
        self.precision = precision
        self.max_batch = max_batch
        self._window = bundle.manifest.window
        self._inputs = bundle.manifest.network.c_in
        self._classes = len(bundle.manifest.classes)
        streams = threads or usable_threads()
        core = ov.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _check_precision(able, precision)
        reduced = precision == "bfloat16" or (precision == "int8" and "BF16" in able)
        properties = {
            "INFERENCE_PRECISION_HINT": ov.Type.bf16 if reduced else ov.Type.f32,
            "INFERENCE_NUM_THREADS": streams,
            "NUM_STREAMS": streams,
            # Pinned threads would sit on CPUs that MQTT and the journal use too.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.read_model(str(bundle.graph))
            self._check(model, bundle)
            if precision == "int8":
                quantise(core, model)
            compiled = core.compile_model(model, "CPU", properties)
        except RuntimeError as e:  # the class of all of OpenVINO's own errors
            # Its message holds a line for each C++ frame; the last that says something is the cause.
            cause = [line.strip() for line in str(e).splitlines() if line.strip()]
            problem = f"OpenVINO {self.version} refuses the graph: {cause[-1] if cause else e!r}"
            if precision == "int8" and "LSTM" in problem:  # as it does on a CPU without AVX-512
                raise self._no_int8() from e
            raise EngineError("open", str(bundle.graph), problem) from e
        if precision == "int8" and not in_int8(compiled):
            raise self._no_int8()
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(streams)]

    def _no_int8(self) -> EngineError:
        problem = f"OpenVINO {self.version} does not compute this graph's LSTM in int8 on this CPU"
        return EngineError("open", self.name, problem, hint="take precision: float32")

    def _check(self, model: Any, bundle: Bundle) -> None:
        """The graph's inputs and outputs are the manifest's. Raises EngineError."""
        ports = [*model.inputs, *model.outputs]
        found = {name: port.get_element_type().get_type_name() for port in ports for name in port.get_names()}
        expected = dict.fromkeys(("x", "rul", "logits"), "f32")
        if found != expected:
            raise EngineError("open", str(bundle.graph), f"has inputs and outputs {found}, expected {expected}")
        shape = [d.get_length() if d.is_static else None for d in model.input("x").get_partial_shape()][1:]
        if shape != [self._window, self._inputs]:
            expected_shape = [self._window, self._inputs]
            raise EngineError("open", str(bundle.graph), f"takes windows {shape}, the manifest says {expected_shape}")

    def infer(self, x: Array) -> tuple[Array, Array]:
        if not self._requests:
            raise EngineError("infer", self.name, "the engine is closed")
        check_input(self.name, x, self._window, self._inputs, self.max_batch)
        if len(x) == 0:
            return np.empty(0, np.float32), np.empty((0, self._classes), np.float32)
        # OpenVINO reads the caller's memory; it may not be read-only, though nothing writes into it.
        data = x if x.flags.writeable else x.copy()
        parts = np.array_split(data, min(len(self._requests), len(data)))
        working = self._requests[: len(parts)]
        for request, part in zip(working, parts, strict=True):
            request.set_tensor("x", ov.Tensor(part, shared_memory=True))
        try:
            try:
                for request in working:
                    request.start_async()
            finally:  # none may go on reading the caller's memory
                for request in working:
                    request.wait()
        except RuntimeError as e:
            raise EngineError("infer", self.name, f"OpenVINO failed: {e}") from e
        # Joined into new arrays: the requests' outputs are reused by their next call.
        rul = np.concatenate([request.get_tensor("rul").data for request in working])
        logits = np.concatenate([request.get_tensor("logits").data for request in working])
        if rul.shape != (len(x),) or logits.shape != (len(x), self._classes):
            raise EngineError("infer", self.name, f"answered {rul.shape} and {logits.shape} to {x.shape}")
        return rul, logits

    def close(self) -> None:
        self._requests = []

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check_precision(able: Sequence[str], precision: str) -> None:
    if precision not in PRECISIONS:
        raise EngineError("open", "openvino", f"has no precision {precision}; it has {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and "BF16" not in able:
        # The plugin takes the hint all the same, and computes in float32, more slowly.
        raise EngineError(
            "open",
            "openvino",
            f"this CPU does not compute bfloat16; it has {', '.join(able)}",
            hint="take precision: float32",
        )
