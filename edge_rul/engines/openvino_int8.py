"""The bundle's graph with its LSTM in int8, static: every scale is fixed when the engine opens, none by the batch.

Owns where the graph is quantised and by which ranges. Must not know sessions or settings.

The two bidirectional LSTM layers hold over nine tenths of the arithmetic, so they alone are quantised; convolutions,
attention and the dense layers stay in float32. Weights are symmetric, a scale for each row. What a layer is fed lies in
a fixed range: a hidden state is within (-1, 1) by its formula, and the first layer's input is within 0 and the largest
value that the golden windows produce, widened by a quarter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset8

from edge_rul.core.normalise import Array

_MARGIN = 1.25
_X, _HIDDEN, _W, _R = 0, 1, 4, 5  # LSTMSequence's inputs: the sequence, the initial hidden state, the two weights


def quantise(core: Any, model: Any, x: Array) -> None:
    """Put the LSTM layers of `model` into int8, in place. x: (N, T, F) normalised windows to take ranges from."""
    layers = [node for node in model.get_ordered_ops() if node.get_type_name() == "LSTMSequence"]
    weights = [(layer, port) for layer in layers for port in (_W, _R)]
    feed = layers[0].input(_X).get_source_output()
    values = _values(core, model, [feed, *(layer.input(port).get_source_output() for layer, port in weights)], x)
    largest = max(float(values[0].max()), 1e-6) * _MARGIN
    for layer in layers:
        low, high = (0.0, largest) if layer is layers[0] else (-1.0, 1.0)
        for port, (least, most) in ((_X, (low, high)), (_HIDDEN, (-1.0, 1.0))):
            source = layer.input(port).get_source_output()
            layer.input(port).replace_source_output(_fake(source, _scalar(least), _scalar(most), 256))
    for (layer, port), weight in zip(weights, values[1:], strict=True):  # (2, 4H, in)
        reach = np.maximum(np.abs(weight).max(axis=2, keepdims=True), np.float32(1e-12))  # (2, 4H, 1)
        layer.input(port).replace_source_output(_fake(opset8.constant(weight), -reach, reach, 255))


def _fake(source: Any, low: Array, high: Array, levels: int) -> Any:
    limits = opset8.constant(low), opset8.constant(high)
    return opset8.fake_quantize(source, *limits, *limits, levels).output(0)


def _scalar(value: float) -> Array:
    return np.full((1, 1, 1), value, np.float32)


def _values(core: Any, model: Any, outputs: list[Any], x: Array) -> list[Array]:
    """The values at `outputs` for the windows x. Weights are among them: the reader of ONNX leaves their gates to be
    reordered when the model is compiled."""
    part = core.compile_model(ov.Model(outputs, model.get_parameters(), "part"), "CPU")
    request = part.create_infer_request()
    request.set_input_tensor(ov.Tensor(x.copy(), shared_memory=True))
    request.infer()
    return [np.array(request.get_output_tensor(i).data, np.float32) for i in range(len(outputs))]
