"""The bundle's graph with its LSTM in int8, static: every scale is fixed when the engine opens, none by the batch.

Owns where the graph is quantised and by which ranges. Must not know sessions or settings.

Quantised are the LSTM layers that are fed by another one's hidden states, which lie within (-1, 1) by their formula, so
that no data is needed to choose a range; they hold two thirds of the arithmetic. The first layer's input has no bound,
and a few large channels would cost the others their resolution: all of it in int8 was five times further from float32.

OpenVINO computes an LSTM in int8 only in this form: one direction a node, quantised constants as its weights, and one
scale for what it is fed and for its own state, one for each row of both of its weights. Anything else it computes in
float32 on rounded numbers, without a word; `edge-rul` looks at what was compiled (`in_int8`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset8

from edge_rul.core.normalise import Array

_X, _H, _C, _LENGTHS, _W, _R, _B = range(7)  # LSTMSequence's inputs
_TINY = np.float32(1e-12)  # keeps the scale of a row of zeros above 0


def quantise(core: Any, model: Any) -> None:
    """Put the LSTM layers of `model` but its first into int8, in place."""
    layers = [node for node in model.get_ordered_ops() if node.get_type_name() == "LSTMSequence"][1:]
    constants = [layer.input(port).get_source_output() for layer in layers for port in (_W, _R, _B)]
    values = iter(_values(core, constants))
    for layer in layers:
        w, r, b = next(values), next(values), next(values)  # (2, 4H, in), (2, 4H, H), (2, 4H)
        reach = np.maximum(np.abs(np.concatenate([w, r], axis=2)).max(axis=2, keepdims=True), _TINY)  # (2, 4H, 1)
        x = _state(layer.input(_X).get_source_output())
        lengths = layer.input(_LENGTHS).get_source_output()
        outputs = []
        for i, direction in enumerate(("forward", "reverse")):
            one = slice(i, i + 1)
            hidden, cell = (_pick(layer.input(port).get_source_output(), i) for port in (_H, _C))
            weights = [_fake(opset8.constant(v[one]), -reach[one], reach[one], 255) for v in (w, r)]
            bias = opset8.constant(b[one])
            lstm = opset8.lstm_sequence(x, _state(hidden), cell, lengths, *weights, bias, r.shape[2], direction)
            outputs.append(lstm.output(0))  # (B, 1, T, H)
        joined = opset8.concat(outputs, 1)  # (B, 2, T, H)
        for reader in layer.output(0).get_target_inputs():
            reader.replace_source_output(joined.output(0))


def in_int8(compiled: Any) -> bool:
    """Whether any LSTM of a compiled model really computes in int8."""
    nodes = (node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())
    return any(n["layerType"].astype(str) == "RNNSeq" and n["primitiveType"].astype(str).endswith("I8") for n in nodes)


def _state(source: Any) -> Any:
    return _fake(source, np.full((1, 1, 1), -1, np.float32), np.full((1, 1, 1), 1, np.float32), 256)


def _fake(source: Any, low: Array, high: Array, levels: int) -> Any:
    limits = opset8.constant(low), opset8.constant(high)
    return opset8.fake_quantize(source, *limits, *limits, levels).output(0)


def _pick(source: Any, direction: int) -> Any:
    """One direction's part, (B, 1, H), of both directions' initial states, (B, 2, H)."""
    return opset8.gather(source, opset8.constant(np.array([direction])), opset8.constant(1)).output(0)


def _values(core: Any, constants: list[Any]) -> list[Array]:
    """The values of weights, which the reader of ONNX leaves as constants whose gates are yet to be reordered."""
    part = core.compile_model(ov.Model(constants, [], "weights"), "CPU")
    request = part.create_infer_request()
    request.infer()
    return [np.array(request.get_output_tensor(i).data, np.float32) for i in range(len(constants))]
