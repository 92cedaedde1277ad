"""The inference graph: equal to the full network for every batch, lean, deterministic, and taken from any mode."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edge_rul.model import numpy_reference as ref
from edge_rul.model.dual_task_model import DualTaskModel, weights_of
from edge_rul.model.export import export_onnx


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("sizes", "window"),
    [
        ({}, 30),
        ({"lstm_hidden": 64, "num_heads": 4, "c_in": 2, "num_classes": 5}, 60),
        ({"lstm_hidden": 32, "num_heads": 16, "shared_dim": 7, "num_classes": 2}, 30),
        ({"lstm_hidden": 12, "num_heads": 1, "c_in": 1}, 1),
    ],
)
def test_graph_answers_as_the_full_network_and_as_numpy(lively, windows, sizes, window):
    model = lively(**sizes)
    session = _session(export_onnx(model, window))
    params = ref.params_from_weights(weights_of(model), model.attn.num_heads)
    for batch in (1, 2, 33):
        x = windows(batch, batch, window, model.c_in)
        rul, logits = session.run(["rul", "logits"], {"x": x.numpy()})
        with torch.no_grad():
            full = [t.numpy() for t in model(x)]
        others = [full] if batch > 2 else [full, ref.dual_task_model(x.numpy(), params)]
        for other_rul, other_logits in others:
            np.testing.assert_allclose(rul, other_rul, rtol=0, atol=1e-4)
            np.testing.assert_allclose(logits, other_logits, rtol=0, atol=1e-5)


def test_graph_cuts_rul_at_zero(lively, windows):
    model = lively(lstm_hidden=16)
    model.rul_head.set_final_bias(0.0)
    rul, _ = _session(export_onnx(model, 30)).run(None, {"x": windows(0, 100).numpy()})
    assert (rul == 0).any() and (rul > 0).any() and (rul >= 0).all()


def test_graph_passes_the_checker_and_declares_its_interface():
    graph = onnx.load_from_string(export_onnx(DualTaskModel(c_in=5, lstm_hidden=16, num_classes=4), 20))
    onnx.checker.check_model(graph, full_check=True)

    def interface(values):
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in values
        ]

    assert interface(graph.graph.input) == [("x", onnx.TensorProto.FLOAT, ["B", 20, 5])]
    assert interface(graph.graph.output) == [
        ("rul", onnx.TensorProto.FLOAT, ["B"]),
        ("logits", onnx.TensorProto.FLOAT, ["B", 4]),
    ]
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.doc_string == "" and not graph.metadata_props


def test_graph_carries_nothing_that_belongs_to_training_or_to_one_batch_size():
    graph = onnx.load_from_string(export_onnx(DualTaskModel(lstm_hidden=32), 30))
    ops = [n.op_type for n in graph.graph.node]
    assert ops.count("LSTM") == 2
    assert not {"BatchNormalization", "Dropout", "Shape", "Expand", "ConstantOfShape", "Identity"} & set(ops)
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph.value_info
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}
    expected = {
        "cnn.relu3": [64, 30],
        "attn.weights": [8, 30],  # the last query's row and not 30 x 30 of them
        "attn.pooled": [8, 64],  # keys and values of every cycle are never made
        "funnel.4": [32],
    }
    for name, rest in expected.items():
        assert isinstance(shapes[name][0], str), f"{name} has fixed the batch at {shapes[name][0]}"
        assert shapes[name][1:] == rest


def test_export_reads_the_model_in_any_mode_and_leaves_it_alone(lively):
    model = lively(lstm_hidden=8)
    graph = export_onnx(model, 10)
    before = weights_of(model)
    model.train()
    assert export_onnx(model, 10) == graph
    assert model.training
    after = weights_of(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_other_weights_give_another_graph(lively):
    model = lively(lstm_hidden=8)
    graph = export_onnx(model, 10)
    model.rul_head.set_final_bias(1.0)
    assert export_onnx(model, 10) != graph
    assert export_onnx(model, 11) != export_onnx(model, 10)


def test_the_same_weights_give_the_same_bytes_in_another_process():
    code = (
        "import hashlib, torch\n"
        "from edge_rul.model.dual_task_model import DualTaskModel\n"
        "from edge_rul.model.export import export_onnx\n"
        "torch.manual_seed(0)\n"
        "print(hashlib.sha256(export_onnx(DualTaskModel(lstm_hidden=16), 30)).hexdigest())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    torch.manual_seed(0)
    DualTaskModel(c_in=3)  # a model made before must leave no trace in the names
    torch.manual_seed(0)
    here = hashlib.sha256(export_onnx(DualTaskModel(lstm_hidden=16), 30)).hexdigest()
    assert other.stdout.strip() == here


def test_what_makes_no_graph_is_refused():
    model = DualTaskModel(lstm_hidden=8)
    with pytest.raises(ValueError, match="window is 0"):
        export_onnx(model, 0)
    with torch.no_grad():
        model.funnel.layers[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"funnel\.0\.weight holds values that are not finite"):
        export_onnx(model, 30)
