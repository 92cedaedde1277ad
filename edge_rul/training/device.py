"""Where the network is trained: the CPU, or a CUDA GPU.

Owns the choice of the device, and mixed precision on it. Must not know data or the network.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Literal

import torch

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


@functools.cache
def bfloat16_slowdown() -> float:
    """How many times longer than in float32 a matrix product takes in bfloat16 on this processor.

    Above 1 the processor lacks bfloat16 instructions. Measured once, by the shortest of many runs:
    beside other work on the same cores a single one tells nothing.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, dtype=dtype)
        taken = []
        for _ in range(20):
            begun = time.perf_counter()
            a @ a
            taken.append(time.perf_counter() - begun)
        return min(taken)

    return seconds(torch.bfloat16) / seconds(torch.float32)


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 takes tens of times as long there, so that it is to be kept out of every step. A fact of the
    processor, and no measurement: a run's bits depend on it."""
    if device.type != "cpu":
        return False
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not (there and torch.ops.mkldnn._is_mkldnn_bf16_supported())
