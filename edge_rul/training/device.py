"""Where the network is trained: the CPU, or a CUDA GPU.

Owns the choice of the device, and mixed precision on it. Must not know data or the network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from edge_rul.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


def choose(device: Device) -> torch.device:
    """auto: a GPU where torch sees one. Raises ConfigError for `cuda` where it does not."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ConfigError("train", "recipe.device", "is cuda, and torch sees no GPU here", hint="use auto or cpu")
    if not there or device == "cpu":
        return torch.device("cpu")
    # Two runs give the same bits. Without it cuBLAS promises nothing, and torch 2.6 refuses; read at its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The network's forward pass in `precision`; weights, loss and evaluation stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def bfloat16_slowdown() -> float:
    """How many times longer than in float32 a matrix product takes in bfloat16 on this processor.

    Above 1 the processor lacks bfloat16 instructions and emulates them.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, dtype=dtype)
        run: Callable[[], Tensor] = lambda: a @ a  # noqa: E731
        run()
        begun = time.perf_counter()
        for _ in range(5):
            run()
        return time.perf_counter() - begun

    return seconds(torch.bfloat16) / seconds(torch.float32)
