"""The NumPy form against the torch form: block by block in float64, whole in float32, and with trained weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from edge_rul import bundle
from edge_rul.core.features import Readings
from edge_rul.model import numpy_reference as ref
from edge_rul.model.dual_task_model import load_model, weights_of

SHIPPED = Path(__file__).parents[2] / "bundles" / "cmapss_fd001"


def test_smoke_test_of_the_reference():
    np.random.seed(0)
    x = np.random.randn(2, 30, 14).astype(np.float32)
    assert x.shape == (2, 30, 14)
    rul, logits = ref.dual_task_model(x, ref.build_random_params())
    assert (rul.shape, logits.shape) == ((2,), (2, 3))
    assert (rul.dtype, logits.dtype) == (np.float32, np.float32)
    assert (rul > 0).all()
    assert set(logits.argmax(axis=-1)) <= {0, 1, 2}


def test_random_params_follow_the_seed_and_the_sizes():
    small = {"c_in": 2, "lstm_hidden": 8, "num_heads": 4, "shared_dim": 5, "num_classes": 4}
    x = np.random.default_rng(0).standard_normal((3, 12, 2)).astype(np.float32)
    one, again, other = (ref.dual_task_model(x, ref.build_random_params(seed, **small)) for seed in (1, 1, 2))
    assert np.array_equal(one[1], again[1]) and not np.array_equal(one[1], other[1])
    assert one[1].shape == (3, 4)
    assert list(ref.build_random_params(**small)) == ["cnn", "lstm", "attn", "funnel", "rul", "hs"]


def test_random_params_have_the_layout_of_loaded_ones(lively):
    def layout(params):
        return {block: {k: np.shape(v) for k, v in p.items()} for block, p in params.items()}

    sizes = {"c_in": 5, "lstm_hidden": 12, "num_heads": 4, "shared_dim": 7, "num_classes": 2}
    assert layout(ref.build_random_params(**sizes)) == layout(ref.params_from_weights(weights_of(lively(**sizes)), 4))


@pytest.mark.parametrize(("hidden", "heads"), [(32, 8), (24, 4), (32, 16)])
def test_each_block_is_that_of_torch(lively, windows, hidden, heads):
    model = lively(seed=2, lstm_hidden=hidden, num_heads=heads).double()
    params = ref.params_from_weights(weights_of(model), heads)
    h = windows(1, 5, 11).double()
    steps = [
        (ref.cnn_frontend, model.cnn, "cnn"),
        (ref.bilstm_encoder, model.lstm, "lstm"),
        (ref.attention_block, model.attn, "attn"),
        (ref.fc_funnel, model.funnel, "funnel"),
    ]
    with torch.no_grad():
        for function, block, key in steps:
            found = function(h.numpy(), **params[key])
            h = block(h)
            assert h.std() > 0.05
            np.testing.assert_allclose(found, h.numpy(), rtol=0, atol=1e-10, err_msg=key)
        for function, block, key in (
            (ref.rul_head, model.rul_head, "rul"),
            (ref.health_head, model.health_head, "hs"),
        ):
            np.testing.assert_allclose(
                function(h.numpy(), **params[key]), block(h).numpy(), rtol=0, atol=1e-9, err_msg=key
            )


@pytest.mark.parametrize(
    ("seed", "sizes"), [(0, {}), (1, {"c_in": 2, "lstm_hidden": 64, "num_heads": 4, "num_classes": 5})]
)
def test_whole_model_agrees_with_torch_at_high_rul(lively, windows, seed, sizes):
    model = lively(seed, **sizes)
    x = windows(seed, 16, c_in=model.c_in)
    rul, logits = ref.dual_task_model(x.numpy(), ref.params_from_weights(weights_of(model), model.attn.num_heads))
    with torch.no_grad():
        rul_torch, logits_torch = model(x)
    assert rul.max() > 120 and rul.std() > 1
    np.testing.assert_allclose(rul, rul_torch.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, logits_torch.numpy(), rtol=0, atol=1e-5)


def test_other_depths_are_read_from_the_weights():
    from edge_rul.model.bilstm_encoder import BiLSTMEncoder
    from edge_rul.model.fc_funnel import FCFunnel

    class Parts(torch.nn.Module):
        def __init__(self, model, layers, hidden):
            super().__init__()
            self.cnn, self.attn, self.rul_head, self.health_head = (
                getattr(model, name) for name in ("cnn", "attn", "rul_head", "health_head")
            )
            self.lstm = BiLSTMEncoder(64, 8, num_layers=layers)
            self.funnel = FCFunnel(16, hidden, 32)

    from edge_rul.model.dual_task_model import DualTaskModel

    for layers, hidden in ((1, (9,)), (3, (9, 8, 7))):
        parts = Parts(DualTaskModel(lstm_hidden=8), layers, hidden).double().eval()
        params = ref.params_from_weights(weights_of(parts), 8)
        h = torch.randn(2, 6, 64, dtype=torch.float64)
        with torch.no_grad():
            encoded = parts.lstm(h)
            np.testing.assert_allclose(ref.bilstm_encoder(h.numpy(), **params["lstm"]), encoded.numpy(), atol=1e-12)
            np.testing.assert_allclose(
                ref.fc_funnel(encoded.numpy(), **params["funnel"]), parts.funnel(encoded).numpy(), atol=1e-12
            )


def test_nothing_overflows():
    with np.errstate(all="raise", under="ignore"):
        assert ref.sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
        assert ref.softmax(np.array([[1e4, 1e4]])).tolist() == [[0.5, 0.5]]


def test_params_come_from_a_file(lively, windows, tmp_path):
    model = lively(lstm_hidden=8, num_heads=4)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(weights_of(model)))
    x = windows(0, 2).numpy()
    loaded = ref.dual_task_model(x, ref.load_params(path, 4))
    direct = ref.dual_task_model(x, ref.params_from_weights(weights_of(model), 4))
    assert all(np.array_equal(a, b) for a, b in zip(loaded, direct, strict=True))


def test_what_makes_no_network_is_refused(lively):
    weights = weights_of(lively(lstm_hidden=8, num_heads=4))
    with pytest.raises(ValueError, match="num_heads is 3"):
        ref.params_from_weights(weights, 3)
    del weights["attn.norm.bias"]
    with pytest.raises(ValueError, match=r"no weight 'attn\.norm\.bias'"):
        ref.params_from_weights(weights, 4)
    with pytest.raises(ValueError, match="at least 1"):
        ref.build_random_params(c_in=0)
    with pytest.raises(ValueError, match="num_heads is 6"):
        ref.build_random_params(num_heads=6)
    params = ref.build_random_params(lstm_hidden=8)
    for shape in ((30, 14), (2, 14, 30), (2, 0, 14)):
        with pytest.raises(ValueError, match=r"expected \(B, T, 14\)"):
            ref.dual_task_model(np.zeros(shape, np.float32), params)


def test_the_package_and_the_numpy_form_do_not_import_torch():
    code = (
        "import sys, edge_rul.model; assert 'numpy' not in sys.modules;"
        "import edge_rul.model.numpy_reference; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shipped bundle bundles/cmapss_fd001 is not there")
def test_trained_weights_answer_alike_in_numpy_torch_and_the_graph():
    import onnxruntime

    shipped = bundle.load(SHIPPED)
    network, golden = shipped.manifest.network, shipped.golden
    x = shipped.manifest.transform.apply(Readings(golden.windows)).x  # (N, T, C_in)
    model = load_model(shipped.weights, network)
    with torch.no_grad():
        full = [t.numpy() for t in model(torch.from_numpy(x))]
    session = onnxruntime.InferenceSession(str(shipped.graph), providers=["CPUExecutionProvider"])
    answers = {
        "torch": full,
        "graph": session.run(["rul", "logits"], {"x": x}),
        "golden": [golden.rul, golden.logits],
    }
    rul, logits = ref.dual_task_model(x, ref.load_params(shipped.weights, network.num_heads))
    scale = max(1.0, shipped.manifest.rul.max / 125)
    for name, (other_rul, other_logits) in answers.items():
        np.testing.assert_allclose(other_rul, rul, rtol=0, atol=1e-4 * scale, err_msg=name)
        np.testing.assert_allclose(other_logits, logits, rtol=0, atol=1e-5, err_msg=name)
