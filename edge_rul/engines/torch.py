"""PyTorch, as the reference that other engines are timed and checked against. Never on the box.

Owns the trained weights in the full training graph, eager or compiled by torch itself. Must not be imported where
torch is not: `edge-rul run` does not offer it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import check_input
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EngineError
from edge_rul.model.dual_task_model import load_model


class TorchEngine:
    """The DualTaskModel itself: every cycle attends, nothing is folded."""

    name = "torch"
    version: str = str(torch.__version__)
    precision = "float32"

    def __init__(self, bundle: Bundle, *, max_batch: int = 32, threads: int = 0, compiled: bool = False) -> None:
        """threads: torch's, of the whole process. compiled: by torch.compile at the first call. Raises BundleError
        where the weights are not the manifest's network's."""
        self.max_batch = max_batch
        manifest = bundle.manifest
        self._window, self._inputs, self._classes = manifest.window, manifest.network.c_in, len(manifest.classes)
        torch.set_num_threads(threads or usable_threads())
        model = load_model(bundle.weights, manifest.network).eval().requires_grad_(False)
        self._model: Any = torch.compile(model, dynamic=True) if compiled else model

    def infer(self, x: Array) -> tuple[Array, Array]:
        if self._model is None:
            raise EngineError("infer", self.name, "the engine is closed")
        check_input(self.name, x, self._window, self._inputs, self.max_batch)
        if len(x) == 0:
            return np.empty(0, np.float32), np.empty((0, self._classes), np.float32)
        with torch.inference_mode():
            rul, logits = self._model(torch.from_numpy(x if x.flags.writeable else x.copy()))
        return rul.numpy(), logits.numpy()

    def close(self) -> None:
        self._model = None

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
