"""The inference graph: a DualTaskModel as ONNX, written node by node.

Owns the ONNX form of each block, with what does not change after training folded away: BatchNorm into the
convolutions, the attention's scale into its query, the value bias into the output projection; attention is that of
the last cycle alone (`AttentionBlock.last_cycle`), and dropout is gone. Must not know bundles, engines or training.

Written by hand and not traced: 50 nodes, where torch's exporters give about 106 with the initial states and views
of the weights computed at run time; the exporter that knows the LSTM operator is deprecated besides. No node depends
on the batch size, and the same weights give the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edge_rul.model.attention_block import AttentionBlock
from edge_rul.model.bilstm_encoder import BiLSTMEncoder
from edge_rul.model.cnn_frontend import CNNFrontend
from edge_rul.model.dual_task_model import DualTaskModel

OPSET = 17  # the first with LayerNormalization; read by TensorRT 8.6 and later
IR_VERSION = 8  # the one of opset 17's release


def export_onnx(model: DualTaskModel, window: int) -> bytes:
    """The inference graph of `model`: `x` (B, window, C_in) float32 -> `rul` (B,) and `logits` (B, C), B free.

    The model is read and not changed, whatever its mode; the graph answers as in eval mode, to float32 rounding.
    ValueError for a window below 1 or weights that are not finite float32.
    """
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    graph = _Graph()
    h = _cnn(graph, model.cnn, "x")  # (T, B, 64)
    h = _lstm(graph, model.lstm, h)  # (B, T, 512)
    last = _attention(graph, model.attn, h, window)  # (B, 512)
    z = _dense(graph, "funnel", model.funnel.layers, last)  # (B, 32)
    rul = _dense(graph, "rul_head", model.rul_head.layers, z)  # (B, 1)
    axes = graph.constant("rul_head.axes", np.array([1], np.int64))
    graph.node("Squeeze", [rul, axes], "rul")  # (B,)
    logits = _dense(graph, "health_head", model.health_head.layers, z, "logits")  # (B, C)

    num_classes = int(_array(list(model.health_head.layers.parameters())[-1]).size)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "DualTaskModel",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", window, model.c_in])],
            [
                helper.make_tensor_value_info("rul", TensorProto.FLOAT, ["B"]),
                helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["B", num_classes]),
            ],
            initializer=graph.constants,
        ),
        producer_name="edge_rul",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


class _Graph:
    """Nodes and constants in order. A node's output carries its name, so that an engine's log can be read."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if value.dtype != np.int64:
            value = value.astype(np.float32)
            if not np.isfinite(value).all():
                raise ValueError(f"{name} holds values that are not finite")
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def _array(t: Tensor) -> npt.NDArray[np.float64]:
    # float64, so that folding rounds once, at the end.
    return t.detach().cpu().double().numpy()


def _cnn(graph: _Graph, cnn: CNNFrontend, x: str) -> str:
    """(B, T, c_in) -> (T, B, 64), as the ONNX LSTM wants it."""
    h = graph.node("Transpose", [x], "cnn.transpose", perm=[0, 2, 1])  # (B, c_in, T)
    for i, (conv, bn) in enumerate(((cnn.conv1, cnn.bn1), (cnn.conv2, cnn.bn2), (cnn.conv3, cnn.bn3)), start=1):
        assert bn.running_mean is not None and bn.running_var is not None and conv.bias is not None
        gain = _array(bn.weight) / np.sqrt(_array(bn.running_var) + bn.eps)  # (channels,)
        kernel = _array(conv.weight) * gain[:, None, None]  # (channels, in, 3)
        bias = (_array(conv.bias) - _array(bn.running_mean)) * gain + _array(bn.bias)  # (channels,)
        name = f"cnn.conv{i}"
        inputs = [h, graph.constant(f"{name}.kernel", kernel), graph.constant(f"{name}.bias", bias)]
        h = graph.node("Conv", inputs, name, kernel_shape=[kernel.shape[2]], pads=[1, 1])  # (B, channels, T)
        h = graph.node("Relu", [h], f"cnn.relu{i}")  # (B, channels, T)
    return graph.node("Transpose", [h], "cnn.sequence", perm=[2, 0, 1])  # (T, B, 64)


def _lstm(graph: _Graph, encoder: BiLSTMEncoder, h: str) -> str:
    """(T, B, 64) -> (B, T, 512). Initial states are left out, which means 0."""
    lstm = encoder.lstm
    H = lstm.hidden_size
    join = graph.constant("lstm.join", np.array([0, 0, 2 * H], np.int64))  # 0 keeps an axis

    def directions(kind: str, layer: int) -> npt.NDArray[np.float64]:
        """Forward and backward weights, stacked; torch's gates are i, f, g, o and ONNX's i, o, f, g."""
        both = [_array(getattr(lstm, f"{kind}_l{layer}{suffix}")) for suffix in ("", "_reverse")]
        i, f, g, o = np.split(np.stack(both), 4, axis=1)  # each (2, H, ...)
        return np.concatenate([i, o, f, g], axis=1)  # (2, 4H, ...)

    for layer in range(lstm.num_layers):
        name = f"lstm.layer{layer}"
        bias = np.concatenate([directions("bias_ih", layer), directions("bias_hh", layer)], axis=1)  # (2, 8H)
        inputs = [
            h,
            graph.constant(f"{name}.W", directions("weight_ih", layer)),
            graph.constant(f"{name}.R", directions("weight_hh", layer)),
            graph.constant(f"{name}.B", bias),
        ]
        y = graph.node("LSTM", inputs, name, hidden_size=H, direction="bidirectional")  # (T, 2, B, H)
        final = layer == lstm.num_layers - 1
        y = graph.node("Transpose", [y], f"{name}.transpose", perm=[2, 0, 1, 3] if final else [0, 2, 1, 3])
        h = graph.node("Reshape", [y, join], f"{name}.join")  # (B, T, 2H) at the end, (T, B, 2H) between layers
    return h


def _attention(graph: _Graph, attn: AttentionBlock, h: str, window: int) -> str:
    """(B, T, 512) -> (B, 512): `AttentionBlock.last_cycle`, step by step as there."""
    H, E, D = attn.num_heads, attn.head_dim, attn.d_model
    w_q, w_k, w_v = _array(attn.mha.in_proj_weight).reshape(3, D, D)
    b_q, _, b_v = _array(attn.mha.in_proj_bias).reshape(3, D)
    w_o, b_o = _array(attn.mha.out_proj.weight), _array(attn.mha.out_proj.bias)
    scale = E**-0.5

    index = graph.constant("attn.last_index", np.array(window - 1, np.int64))
    last = graph.node("Gather", [h, index], "attn.last", axis=1)  # (B, 512)

    q = _gemm(graph, "attn.query", last, w_q * scale, b_q * scale)  # (B, 512)
    split = graph.constant("attn.split", np.array([-1, H, E], np.int64))
    q = graph.node("Reshape", [q, split], "attn.query.split")  # (B, H, 64)
    q = graph.node("Transpose", [q], "attn.query.heads", perm=[1, 0, 2])  # (H, B, 64)
    key = graph.constant("attn.key.weight", w_k.reshape(H, E, D))
    probe = graph.node("MatMul", [q, key], "attn.probe")  # (H, B, 512)
    probe = graph.node("Transpose", [probe], "attn.probe.batch", perm=[1, 0, 2])  # (B, H, 512)

    columns = graph.node("Transpose", [h], "attn.columns", perm=[0, 2, 1])  # (B, 512, T)
    scores = graph.node("MatMul", [probe, columns], "attn.scores")  # (B, H, T)
    weights = graph.node("Softmax", [scores], "attn.weights", axis=-1)  # (B, H, T)
    pooled = graph.node("MatMul", [weights, h], "attn.pooled")  # (B, H, 512)

    pooled = graph.node("Transpose", [pooled], "attn.pooled.heads", perm=[1, 0, 2])  # (H, B, 512)
    value = graph.constant("attn.value.weight", w_v.reshape(H, E, D).transpose(0, 2, 1))
    context = graph.node("MatMul", [pooled, value], "attn.context")  # (H, B, 64)
    context = graph.node("Transpose", [context], "attn.context.batch", perm=[1, 0, 2])  # (B, H, 64)
    merge = graph.constant("attn.merge", np.array([-1, D], np.int64))
    context = graph.node("Reshape", [context, merge], "attn.context.merge")  # (B, 512)

    # The attention weights sum to 1, so the value bias arrives whole at the output projection.
    out = _gemm(graph, "attn.output", context, w_o, w_o @ b_v + b_o)  # (B, 512)
    out = graph.node("Add", [last, out], "attn.residual")  # (B, 512)
    gamma = graph.constant("attn.norm.gamma", _array(attn.norm.weight))
    beta = graph.constant("attn.norm.beta", _array(attn.norm.bias))
    return graph.node("LayerNormalization", [out, gamma, beta], "attn.norm", axis=-1, epsilon=attn.norm.eps)


def _gemm(graph: _Graph, name: str, x: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> str:
    """(B, in) -> (B, out), with torch's weight (out, in)."""
    inputs = [x, graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)]
    return graph.node("Gemm", inputs, name, transB=1)


def _dense(graph: _Graph, name: str, layers: nn.Sequential, h: str, output: str = "") -> str:
    """The Linear and ReLU layers of a Sequential; `output` renames the last one."""
    kept = [layer for layer in layers if not isinstance(layer, nn.Dropout)]
    for i, layer in enumerate(kept):
        label = output if output and i == len(kept) - 1 else f"{name}.{i}"
        if isinstance(layer, nn.Linear):
            h = _gemm(graph, label, h, _array(layer.weight), _array(layer.bias))
        else:
            h = graph.node("Relu", [h], label)
    return h
