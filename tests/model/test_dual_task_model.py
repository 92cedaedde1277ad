"""The assembled network: its contract, both tasks' way into the backbone, the cheap form, weights from a file."""

from __future__ import annotations

import msgspec
import pytest
import torch
from safetensors.numpy import save
from torch.nn import functional as F

from edge_rul.bundle import Network
from edge_rul.errors import BundleError
from edge_rul.model.dual_task_model import DualTaskModel, load_model, parameters, weights_of

COUNTS = {
    "cnn": 52_608,
    "lstm": 2_236_416,
    "attn": 1_051_648,
    "funnel": 149_856,
    "rul_head": 4_737,
    "health_head": 1_635,
}
DOMAINS = [  # c_in, window, classes
    (14, 30, 3),
    (20, 30, 3),
    (2, 60, 3),
    (12, 144, 3),
    (5, 100, 3),
    (16, 30, 3),
    (1, 1, 2),
]


def test_the_defaults_are_the_published_model():
    model = DualTaskModel()
    assert {name: parameters(block) for name, block in model.named_children()} == COUNTS
    assert parameters(model) == sum(COUNTS.values()) == 3_496_900
    assert parameters(DualTaskModel(c_in=17).cnn) == 53_184
    assert [m.p for m in model.cnn.modules() if isinstance(m, torch.nn.Dropout)] == [0.15]
    assert (model.lstm.lstm.dropout, model.attn.mha.dropout, model.attn.num_heads) == (0.3, 0.1, 8)
    assert {m.p for m in model.funnel.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


def test_smoke_test_of_the_reference():
    torch.manual_seed(0)
    model = DualTaskModel()
    x = torch.randn(4, 30, 14, requires_grad=True)
    y_rul = torch.randint(0, 126, (4,)).float()
    y_hs = torch.tensor([0, 1, 2, 1])
    answer = model(x)
    assert isinstance(answer, tuple) and len(answer) == 2  # not a dict
    rul, logits = answer
    assert (rul.shape, logits.shape) == ((4,), (4, 3))
    assert (rul.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert (rul >= 0).all()
    loss_rul, loss_hs = F.mse_loss(rul, y_rul), F.cross_entropy(logits, y_hs)
    (loss_rul + 0.1 * loss_hs).backward()
    assert x.grad.shape == x.shape
    # At this seed the final ReLU is dead, so these are the labels' mean square and about ln 3.
    assert (rul == 0).all()
    assert loss_rul.item() == pytest.approx(6417.25, rel=1e-6)
    assert loss_hs.item() == pytest.approx(1.08, abs=0.01)


@pytest.mark.parametrize(("c_in", "T", "classes"), DOMAINS)
def test_one_backbone_for_other_sensors(c_in, T, classes):
    model = DualTaskModel(c_in=c_in, lstm_hidden=16, num_classes=classes).eval()
    x = torch.randn(2, T, c_in)
    for rul, logits in (model(x), model.forward_last(x)):
        assert (rul.shape, logits.shape) == ((2,), (2, classes))


@pytest.mark.parametrize(("hidden", "heads", "shared"), [(256, 4, 32), (128, 16, 32), (64, 8, 16), (20, 4, 5)])
def test_widths_and_heads(lively, windows, hidden, heads, shared):
    model = lively(lstm_hidden=hidden, num_heads=heads, shared_dim=shared)
    x = windows(1, 3)
    assert model.attn.d_model == 2 * hidden
    assert model.lstm(model.cnn(x)).shape == (3, 30, 2 * hidden)
    assert model.shared(x).shape == (3, shared)
    assert model(x)[1].shape == (3, 3)


def test_stage_shapes():
    model, h = DualTaskModel().eval(), torch.randn(2, 30, 14)
    shapes = []
    for block in (model.cnn, model.lstm, model.attn, model.funnel):
        h = block(h)
        shapes.append(tuple(h.shape))
    assert shapes == [(2, 30, 64), (2, 30, 512), (2, 30, 512), (2, 32)]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("form", ["forward", "forward_last"])
def test_each_task_alone_trains_the_whole_backbone_through_the_same_z(form, task):
    torch.manual_seed(0)
    model = DualTaskModel(lstm_hidden=32)
    y_rul, y_hs = torch.tensor([20.0, 125.0, 60.0, 90.0]), torch.tensor([2, 0, 1, 0])
    model.rul_head.set_final_bias(y_rul.mean().item())
    zs = []
    for head in (model.rul_head, model.health_head):
        head.register_forward_pre_hook(lambda _, args: zs.append(args[0]))
    rul, logits = getattr(model, form)(torch.randn(4, 30, 14))
    loss = (F.mse_loss(rul, y_rul), F.cross_entropy(logits, y_hs))[task]
    assert zs[0] is zs[1]
    zs[0].retain_grad()
    loss.backward()
    assert zs[0].grad.abs().sum() > 0
    for block in (model.cnn, model.lstm, model.attn, model.funnel):
        for name, p in block.named_parameters():
            assert p.grad is not None, name
            # A convolution's bias is taken out again by BatchNorm's batch mean, so its gradient is 0.
            if not name.startswith("conv") or name.endswith("weight"):
                assert p.grad.abs().sum() > 0, name
    other = (model.health_head, model.rul_head)[task]
    assert all(p.grad is None for p in other.parameters())


def test_rul_is_cut_at_zero_and_logits_are_raw(lively, windows):
    model = lively(lstm_hidden=16)
    model.rul_head.set_final_bias(0.0)
    rul, logits = model(windows(2, 200))
    assert (rul == 0).any() and (rul > 0).any() and (rul >= 0).all()
    assert (logits < 0).any()


def test_last_cycle_form_is_exact_in_eval(lively, windows):
    for sizes in ({}, {"lstm_hidden": 32, "num_heads": 16}, {"lstm_hidden": 64, "num_heads": 4, "num_classes": 5}):
        model = lively(**sizes)
        with torch.no_grad():
            (rul, logits), (rul_last, logits_last) = model(windows(3, 24)), model.forward_last(windows(3, 24))
        assert rul.std() > 1 and logits.std() > 0.1
        torch.testing.assert_close(rul_last, rul, rtol=0, atol=1e-4)
        torch.testing.assert_close(logits_last, logits, rtol=0, atol=1e-5)
    double = lively(lstm_hidden=64).double()
    x = windows(3, 8).double()
    with torch.no_grad():
        for full, last in zip(double(x), double.forward_last(x), strict=True):
            torch.testing.assert_close(last, full, rtol=0, atol=1e-10)


def test_gradients_of_the_last_cycle_form_are_those_of_the_full_form(lively, windows):
    """In training mode, other dropouts and batch statistics included, with attention's own dropout off."""
    model = lively(lstm_hidden=32).double().train()
    model.attn.mha.dropout = 0.0
    y_rul, y_hs = torch.linspace(0, 125, 6, dtype=torch.float64), torch.tensor([2, 2, 1, 1, 0, 0])
    gradients = []
    for form in (model.forward, model.forward_last):
        model.zero_grad()
        x = windows(4, 6).double().requires_grad_()
        torch.manual_seed(5)
        rul, logits = form(x)
        (F.mse_loss(rul, y_rul) + F.cross_entropy(logits, y_hs)).backward()
        gradients.append({"x": x.grad} | {name: p.grad.clone() for name, p in model.named_parameters()})
    full, last = gradients
    assert full["x"].abs().sum() > 0
    assert set(full) == set(last)
    for name, gradient in full.items():
        torch.testing.assert_close(last[name], gradient, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_a_window_is_answered_alike_in_any_batch(lively, windows):
    model, x = lively(lstm_hidden=32), windows(6, 17)
    with torch.no_grad():
        together, alone = model.forward_last(x), model.forward_last(x[9:10])
    torch.testing.assert_close(alone[0], together[0][9:10], rtol=0, atol=1e-4)
    torch.testing.assert_close(alone[1], together[1][9:10], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 14), (2, 14, 30), (2, 30, 13), (2, 3, 30, 14), (2, 0, 14)])
def test_an_input_of_another_shape_is_refused(shape):
    model = DualTaskModel(lstm_hidden=8)
    for form in (model, model.forward_last, model.shared):
        with pytest.raises(ValueError, match=r"expected \(B, T, 14\)") as e:
            form(torch.zeros(shape))
        assert str(shape) in str(e.value)


@pytest.mark.parametrize(
    "sizes",
    [
        {"c_in": 0},
        {"lstm_hidden": 0},
        {"lstm_hidden": -4},
        {"num_heads": 0},
        {"num_heads": 6},
        {"shared_dim": 0},
        {"num_classes": 0},
    ],
)
def test_sizes_that_make_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match=str(next(iter(sizes.values())))):
        DualTaskModel(**sizes)


SMALL = {"c_in": 3, "lstm_hidden": 8, "num_heads": 4, "shared_dim": 6, "num_classes": 4}


@pytest.fixture
def saved(lively, tmp_path):
    model = lively(**SMALL)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(weights_of(model)))
    return model, path, Network(**SMALL, parameters=parameters(model))


def test_weights_go_to_a_file_and_come_back(saved, windows):
    model, path, network = saved
    assert {name.split(".")[0] for name in model.state_dict()} == set(COUNTS)
    loaded = load_model(path, network)
    assert not loaded.training
    x = windows(7, 4, c_in=3)
    with torch.no_grad():
        for ours, theirs in zip(model(x), loaded(x), strict=True):
            assert torch.equal(ours, theirs)


def test_arrays_of_the_weights_do_not_follow_the_model(saved):
    model = saved[0]
    before = weights_of(model)
    model.rul_head.set_final_bias(-1.0)
    assert before["rul_head.layers.6.bias"] != weights_of(model)["rul_head.layers.6.bias"]


def _without(weights):
    del weights["attn.norm.bias"]


def _with_more(weights):
    weights["attn.norm.extra"] = weights["attn.norm.bias"]


def _misshapen(weights):
    weights["attn.norm.bias"] = weights["attn.norm.bias"][:-1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [(_without, "attn.norm.bias"), (_with_more, "attn.norm.extra"), (_misshapen, "attn.norm.bias")],
)
def test_weights_of_another_network_are_refused(saved, change, problem):
    model, path, network = saved
    weights = weights_of(model)
    change(weights)
    path.write_bytes(save(weights))
    with pytest.raises(BundleError, match=problem):
        load_model(path, network)


def test_a_manifest_that_does_not_describe_the_weights_is_refused(saved):
    _, path, network = saved
    with pytest.raises(BundleError, match=f"counts {network.parameters + 1} parameters"):
        load_model(path, msgspec.structs.replace(network, parameters=network.parameters + 1))
    with pytest.raises(BundleError, match="num_heads is 3"):
        load_model(path, msgspec.structs.replace(network, num_heads=3))


def test_a_file_that_cannot_be_read_is_refused(saved, tmp_path):
    _, path, network = saved
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        load_model(tmp_path / "absent.safetensors", network)
    path.write_bytes(b"not a tensor in sight")
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_model(path, network)


def test_weights_drawn_by_he_tell_windows_apart_before_the_first_step():
    """As torch draws them, the RUL of all windows is nearly the same, and a run's first steps only change that."""
    x = torch.randn(64, 30, 14)

    def spread(model: DualTaskModel) -> tuple[float, float]:
        with torch.no_grad():
            rul, logits = model.eval()(x)
        return rul.std().item(), logits.std(dim=0).mean().item()

    torch.manual_seed(0)
    model = DualTaskModel()
    model.rul_head.set_final_bias(80.0)
    before = spread(model)
    encoder = {name: t.clone() for name, t in model.lstm.state_dict().items()}
    model.draw_he()
    model.rul_head.set_final_bias(80.0)
    after = spread(model)
    assert after[0] > 100 * before[0]
    assert after[1] > 10 * before[1]
    assert all(torch.equal(encoder[name], t) for name, t in model.lstm.state_dict().items())
