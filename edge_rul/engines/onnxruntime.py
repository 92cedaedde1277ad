"""ONNX Runtime on the CPU: always there, float32, the reference of speed.

Owns one session and its options. Must not know what a window means.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import check_input
from edge_rul.errors import EngineError


class OnnxRuntimeEngine:
    """The bundle's graph in an ONNX Runtime session."""

    name = "onnxruntime"
    version: str = ort.__version__
    precision = "float32"

    def __init__(self, bundle: Bundle, *, max_batch: int = 32, threads: int = 0) -> None:
        """threads: of one call; 0 takes as many as this process may use. Raises EngineError."""
        self.max_batch = max_batch
        self._window = bundle.manifest.window
        self._inputs = len(bundle.manifest.inputs)
        self._classes = len(bundle.manifest.classes)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        # The arena keeps the largest batch's memory for ever (299 MB at 256); spinning threads cost 26 ms of CPU for a
        # lone window in place of 5.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(bundle.graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # onnxruntime raises classes of its own C++ module
            raise EngineError("open", str(bundle.graph), f"ONNX Runtime {self.version} refuses the graph: {e}") from e
        found = {i.name: i.type for i in (*self._session.get_inputs(), *self._session.get_outputs())}
        expected = dict.fromkeys(("x", "rul", "logits"), "tensor(float)")
        if found != expected:
            raise EngineError("open", str(bundle.graph), f"has inputs and outputs {found}, expected {expected}")
        shape = self._session.get_inputs()[0].shape[1:]
        if shape != [self._window, self._inputs]:
            raise EngineError("open", str(bundle.graph), f"takes windows {shape}, the manifest says otherwise")

    def infer(self, x: Array) -> tuple[Array, Array]:
        if self._session is None:
            raise EngineError("infer", self.name, "the engine is closed")
        check_input(self.name, x, self._window, self._inputs, self.max_batch)
        if len(x) == 0:
            return np.empty(0, np.float32), np.empty((0, self._classes), np.float32)
        rul, logits = self._session.run(["rul", "logits"], {"x": x})
        if rul.shape != (len(x),) or logits.shape != (len(x), self._classes):
            raise EngineError("infer", self.name, f"answered {rul.shape} and {logits.shape} to {x.shape}")
        return rul, logits

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
