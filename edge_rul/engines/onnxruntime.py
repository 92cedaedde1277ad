"""ONNX Runtime: always there, float32, the reference of speed. On the CPU, or on a GPU through its own providers.

Owns one session and its options. Must not know what a window means.

A provider other than the CPU is what the operator asked for, so it is that or nothing: ONNX Runtime by itself would
go on on the CPU, and say so in a log only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import Say, check_input
from edge_rul.engines.cuda import FatalCudaError, cuda_error
from edge_rul.engines.failures import record_failure
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EdgeRulError, EngineError

# Provider: ONNX Runtime's name of it, and its options. TF32 has 10 bits of mantissa, so it is no float32.
_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "tensorrt": ("TensorrtExecutionProvider", {}),
}
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+)")  # as ONNX Runtime words what a CUDA call answered


class OnnxRuntimeEngine:
    """The bundle's graph in an ONNX Runtime session. `name` tells the provider where that is not the CPU."""

    version: str = ort.__version__
    precision = "float32"

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_batch: int = 32,
        threads: int = 0,
        provider: str = "cpu",
        cache: Path | None = None,
        say: Say = lambda _: None,
    ) -> None:
        """threads: of one call; 0 takes as many as this process may use. cache: where the loss of a GPU is counted.

        Raises EngineError, or FatalCudaError where a provider's GPU is lost.
        """
        self.name = "onnxruntime" if provider == "cpu" else f"onnxruntime-{provider}"
        self.max_batch = max_batch
        self._cache, self._say = cache, say
        self._window = bundle.manifest.window
        self._inputs = bundle.manifest.network.c_in
        self._classes = len(bundle.manifest.classes)
        session = self._open(bundle, threads, provider)
        self._session: ort.InferenceSession | None = session
        found = {i.name: i.type for i in (*session.get_inputs(), *session.get_outputs())}
        expected = dict.fromkeys(("x", "rul", "logits"), "tensor(float)")
        if found != expected:
            raise EngineError("open", str(bundle.graph), f"has inputs and outputs {found}, expected {expected}")
        shape = session.get_inputs()[0].shape[1:]
        if shape != [self._window, self._inputs]:
            expected_shape = [self._window, self._inputs]
            raise EngineError("open", str(bundle.graph), f"takes windows {shape}, the manifest says {expected_shape}")

    def _open(self, bundle: Bundle, threads: int, provider: str) -> Any:
        if provider not in _PROVIDERS:
            raise EngineError("open", self.name, f"has no provider {provider}; it has {', '.join(_PROVIDERS)}")
        wanted, settings = _PROVIDERS[provider]
        offered = ort.get_available_providers()
        if wanted not in offered:
            raise EngineError(
                "open",
                self.name,
                f"this ONNX Runtime {self.version} has no {wanted}; it has {', '.join(offered)}",
                hint="install the package onnxruntime-gpu in place of onnxruntime, or take provider: cpu",
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.inter_op_num_threads = 1
        # The arena keeps the largest batch's memory for ever (299 MB at 256); spinning threads cost 26 ms of CPU for a
        # lone window in place of 5.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "cpu":
            # Not one node may be left to the CPU; the CUDA provider may take what TensorRT does not.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.log_severity_level = 3
        providers: list[Any] = [(wanted, settings)]
        if provider == "tensorrt":
            providers.append(_PROVIDERS["cuda"])
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # the provider has no option for it; read by NVIDIA's libraries
        try:
            session = ort.InferenceSession(str(bundle.graph), options, providers=providers)
        except Exception as e:  # onnxruntime raises classes of its own C++ module
            raise self._failed("open", str(bundle.graph), f"ONNX Runtime {self.version} refuses the graph: {e}") from e
        if not (used := session.get_providers()) or used[0] != wanted:
            raise EngineError(
                "open",
                self.name,
                f"asked for {wanted}, ONNX Runtime took {', '.join(used) or 'none'}",
                hint="the GPU's driver or its CUDA libraries do not load; `nvidia-smi` and ONNX Runtime's log say why",
            )
        return session

    def _failed(self, operation: str, object: str, problem: str) -> EdgeRulError:
        """What the failure is for the daemon; one that ends the process is counted."""
        told = _CUDA_FAILURE.search(problem)
        found = cuda_error(operation, object, int(told[1]), problem) if told else None
        if isinstance(found, FatalCudaError) and self._cache is not None:
            record_failure(self._cache, self._say)
        return found or EngineError(operation, object, problem)

    def infer(self, x: Array) -> tuple[Array, Array]:
        if self._session is None:
            raise EngineError("infer", self.name, "the engine is closed")
        check_input(self.name, x, self._window, self._inputs, self.max_batch)
        if len(x) == 0:
            return np.empty(0, np.float32), np.empty((0, self._classes), np.float32)
        try:
            rul, logits = self._session.run(["rul", "logits"], {"x": x})
        except Exception as e:  # onnxruntime raises classes of its own C++ module
            raise self._failed("infer", self.name, f"ONNX Runtime failed: {e}") from e
        if rul.shape != (len(x),) or logits.shape != (len(x), self._classes):
            raise EngineError("infer", self.name, f"answered {rul.shape} and {logits.shape} to {x.shape}")
        return rul, logits

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
