"""The inference graph in another arithmetic: float16 or bfloat16, as a strongly typed engine takes it.

Owns what is converted and what stays. Must not know TensorRT or bundles; needs onnx, and onnxconverter-common. Input
and outputs stay float32, so that every engine is fed and read alike.

Softmax and LayerNormalization stay float32: each sums over a row, where few bits add up. bfloat16 is float16's graph
with its types swapped and its weights rounded once, from float32.
"""

# ruff: noqa: PLC0415 - float32 is the graph as it is, and needs neither package

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np

from edge_rul.errors import EngineError

PRECISIONS = ("float32", "float16", "bfloat16")
_REDUCTIONS = ["Softmax", "LayerNormalization"]


def in_precision(graph: bytes, precision: str) -> bytes:
    """The serialized graph with its arithmetic in `precision`. Raises EngineError for a precision that is not one."""
    if precision not in PRECISIONS:
        raise EngineError("convert", precision, f"there is no such precision; there are {', '.join(PRECISIONS)}")
    if precision == "float32":
        return graph
    try:
        import onnx
        from onnxconverter_common import float16
    except ModuleNotFoundError as e:
        raise EngineError(
            "convert",
            precision,
            f"needs the Python package {e.name}, which is not installed",
            hint="python -m pip install 'edge-rul[compile]'",
        ) from None
    source = onnx.load_from_string(graph)
    converted = _float16(float16, source)
    if precision == "bfloat16":
        _swap(converted, {tensor.name: tensor for tensor in source.graph.initializer})
    data: bytes = converted.SerializeToString(deterministic=True)
    return data


def _float16(converter: Any, source: Any) -> Any:
    with warnings.catch_warnings():
        # One for each weight below float16's least, which becomes that: harmless, and there are always some.
        warnings.simplefilter("ignore", UserWarning)
        return converter.convert_float_to_float16(
            copy.deepcopy(source),  # it changes the graph that it is given
            keep_io_types=True,
            # Without the shapes it knows no tensor's type, and joins float16 to a float32 reduction without a cast.
            disable_shape_infer=False,
            op_block_list=[*converter.DEFAULT_OP_BLOCK_LIST, *_REDUCTIONS],
        )


def _swap(model: Any, exact: dict[str, Any]) -> None:
    """Make every float16 of `model` a bfloat16, in place. exact: the float32 tensors that its constants come from."""
    from onnx import TensorProto, helper, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            origin = exact.get(tensor.name, tensor)
            values = numpy_helper.to_array(origin).astype(np.float32)
            tensor.CopyFrom(
                helper.make_tensor(
                    tensor.name, TensorProto.BFLOAT16, values.shape, _bfloat16(values).tobytes(), raw=True
                )
            )
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    for info in model.graph.value_info:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16:
            info.type.tensor_type.elem_type = TensorProto.BFLOAT16


def _bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The upper half of each float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
