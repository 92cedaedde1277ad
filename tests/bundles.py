"""Small bundles of their own kind for tests: random weights whose answers move with the window, in half a second.

    make_bundle(path)                           a bundle of 3 inputs, a window of 5, 3 classes
    make_bundle(path, window=30, inputs=(...))  of other sizes
    bundle_parts(...)                           the arguments of `edge_rul.bundle.write`, for a test that alters one

The golden outputs come from the NumPy reference, so that an engine is held against something that it is not made of.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle, Golden, HealthClass, Input, Network, Rul, Tolerance
from edge_rul.core.interval import IntervalTable
from edge_rul.core.normalise import Array, ZScore

MAX_RUL = 125.0
GOLDEN_WINDOWS = 6


def bundle_parts(
    *,
    window: int = 5,
    inputs: Sequence[str] = ("a", "b", "c"),
    classes: Sequence[str] = ("healthy", "degrading", "critical"),
    lstm_hidden: int = 8,
    num_heads: int = 2,
    seed: int = 0,
    name: str = "tiny",
) -> dict[str, Any]:
    """What `edge_rul.bundle.write` takes. The parts are shared: replace an array, do not write into it."""
    parts = _parts(window, tuple(inputs), tuple(classes), lstm_hidden, num_heads, seed, name)
    return {**parts, "fields": dict(parts["fields"])}


@functools.cache
def _parts(
    window: int,
    inputs: tuple[str, ...],
    classes: tuple[str, ...],
    lstm_hidden: int,
    num_heads: int,
    seed: int,
    name: str,
) -> dict[str, Any]:
    import torch

    from edge_rul.model.dual_task_model import DualTaskModel, parameters, weights_of
    from edge_rul.model.export import export_onnx
    from edge_rul.model.numpy_reference import dual_task_model, params_from_weights

    network = (len(inputs), lstm_hidden, num_heads, 32, len(classes))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = DualTaskModel(*network).eval()
        _enliven(model, torch.randn(256, window, len(inputs)))
        weights = weights_of(model)
    normaliser = ZScore(
        mean=[10.0 * (i + 1) for i in range(len(inputs))], std=[float(i + 1) for i in range(len(inputs))]
    )
    windows = raw_windows(normaliser, GOLDEN_WINDOWS, window, seed)
    rul, logits = dual_task_model(normaliser.apply(windows), params_from_weights(weights, num_heads))
    return {
        "fields": {
            "name": name,
            "description": "random weights, for tests",
            "inputs": [
                Input(text, "-", "", mean - 4 * std, mean + 4 * std)
                for text, mean, std in zip(inputs, normaliser.mean, normaliser.std, strict=True)
            ],
            "window": window,
            "normaliser": normaliser,
            "rul": Rul("cycles", MAX_RUL),
            "classes": [
                HealthClass(text, 80.0 - 25 * i if i < len(classes) - 1 else None) for i, text in enumerate(classes)
            ],
            "network": Network(*network, parameters(model)),
            "tolerance": {"float32": Tolerance(rul=1e-3, logits=1e-3)},
            "training": {"dataset": {"format": "none", "subset": "none"}},
            "validation": {},
            "interval": IntervalTable(0.9, at=[45.0, 60.0, 75.0], below=[10.0, 20.0, 18.0], above=[8.0, 20.0, 60.0]),
        },
        "graph": export_onnx(model, window),
        "weights": weights,
        "golden": Golden(windows, rul, logits),
    }


def make_bundle(path: Path, *, replace: bool = False, **sizes: Any) -> Bundle:
    """Write a bundle at `path`. sizes: as of `bundle_parts`."""
    return bundles.write(path, **bundle_parts(**sizes), replace=replace)


def raw_windows(normaliser: ZScore, n: int, window: int, seed: int = 0) -> Array:
    """(n, window, F) float32 readings around the normaliser's mean."""
    noise = np.random.default_rng(seed).standard_normal((n, window, len(normaliser.mean)))
    raw: Array = (np.array(normaliser.mean) + np.array(normaliser.std) * noise).astype(np.float32)
    return raw


def _enliven(model: Any, x: Any) -> None:
    """Give every dense layer an output of mean 0 and deviation 1 over the windows `x`, and RUL one of 10 around 60.

    At the default initialisation all windows get nearly the same answer, in which a mistake would not show.
    """
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.LSTM):
            for weight in module.parameters():
                weight.mul_(2)

    def spread(layers: Any, h: Any, deviation: float = 1.0, level: float = 0.0) -> Any:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                last = layer is linear[-1]
                # One factor for the whole layer: one for each unit would blow up the rounding of the nearly dead ones.
                layer.weight.mul_((deviation if last else 1.0) / layer(h).std(dim=0).norm() * len(layer.bias) ** 0.5)
                layer.bias.add_((level if last else 0.0) - layer(h).mean(dim=0))
            h = layer(h)
        return h

    z = spread(model.funnel.layers, model.attn.last_cycle(model.lstm(model.cnn(x))))  # (n, 32)
    spread(model.rul_head.layers, z, 10.0, 60.0)
    spread(model.health_head.layers, z, 2.0)
