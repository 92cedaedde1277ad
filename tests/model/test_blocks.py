"""Each block of the network alone: shapes, sizes, what training and evaluation change, wrong arguments."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from edge_rul.model.attention_block import AttentionBlock
from edge_rul.model.bilstm_encoder import BiLSTMEncoder
from edge_rul.model.cnn_frontend import CNNFrontend
from edge_rul.model.fc_funnel import FCFunnel
from edge_rul.model.health_head import HealthHead
from edge_rul.model.rul_head import RULHead


@pytest.mark.parametrize(("c_in", "T"), [(14, 30), (2, 60), (1, 1)])
def test_cnn_keeps_the_window_and_answers_64_channels(c_in, T):
    cnn = CNNFrontend(c_in, dropout_p=0.15)
    assert cnn(torch.randn(3, T, c_in)).shape == (3, T, 64)
    assert CNNFrontend.out_dim == 64


def test_cnn_sees_three_cycles_to_either_side_and_no_more():
    cnn = CNNFrontend(2).eval()
    x = torch.randn(1, 15, 2)
    y = x.clone()
    y[0, 7] += 1.0
    with torch.no_grad():
        moved = (cnn(x) != cnn(y)).any(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(4, 11))


def test_cnn_is_conv_batchnorm_relu_in_this_order():
    cnn = CNNFrontend(2).eval()
    with torch.no_grad():
        cnn.bn3.running_mean.fill_(1e6)  # before the ReLU, so everything is cut off
        assert (cnn(torch.randn(2, 5, 2)) == 0).all()
        cnn.bn3.bias.fill_(2e6)
        assert (cnn(torch.randn(2, 5, 2)) > 0).all()


@pytest.mark.parametrize(("hidden", "layers"), [(256, 2), (8, 1), (8, 3)])
def test_lstm_width_is_twice_the_hidden_size(hidden, layers):
    encoder = BiLSTMEncoder(input_size=64, hidden_size=hidden, num_layers=layers, dropout_p=0.3)
    assert encoder.out_dim == 2 * hidden
    assert encoder(torch.randn(2, 7, 64)).shape == (2, 7, 2 * hidden)


@pytest.mark.filterwarnings("error")
def test_lstm_of_one_layer_ignores_its_dropout():
    encoder = BiLSTMEncoder(input_size=4, hidden_size=8, num_layers=1, dropout_p=0.9).train()
    h = torch.randn(2, 5, 4)
    assert torch.equal(encoder(h), encoder(h))


def test_lstm_of_two_layers_drops_between_them_in_training_only():
    encoder = BiLSTMEncoder(input_size=4, hidden_size=8, num_layers=2, dropout_p=0.5)
    h = torch.randn(2, 5, 4)
    assert not torch.equal(encoder(h), encoder(h))
    encoder.eval()
    assert torch.equal(encoder(h), encoder(h))


def test_lstm_reads_from_both_ends():
    encoder = BiLSTMEncoder(input_size=4, hidden_size=8, num_layers=1).eval()
    h = torch.randn(1, 6, 4)
    g = h.clone()
    g[0, 3] += 1.0
    with torch.no_grad():
        moved = (encoder(h) - encoder(g)).abs() > 0
    assert moved[0, :, :8].any(dim=-1).tolist() == [False] * 3 + [True] * 3  # forward half
    assert moved[0, :, 8:].any(dim=-1).tolist() == [True] * 4 + [False] * 2  # backward half


@pytest.mark.parametrize("heads", [1, 4, 8, 16])
def test_attention_answers_every_cycle_and_the_last_alone(heads):
    attn = AttentionBlock(d_model=64, num_heads=heads, dropout_p=0.1).eval()
    with torch.no_grad():
        attn.mha.in_proj_bias.normal_()  # torch starts them at 0, which would hide a lost bias
        attn.mha.out_proj.bias.normal_()
        h = torch.randn(5, 9, 64)
        every, last = attn(h), attn.last_cycle(h)
    assert every.shape == (5, 9, 64)
    assert last.shape == (5, 64)
    torch.testing.assert_close(last, every[:, -1], rtol=0, atol=5e-6)


def test_attention_is_a_residual_under_a_layernorm():
    attn = AttentionBlock(d_model=16, num_heads=4).eval()
    h = torch.randn(2, 5, 16)
    with torch.no_grad():
        attn.mha.out_proj.weight.zero_()
        attn.mha.out_proj.bias.zero_()
        out = attn(h)
    torch.testing.assert_close(out, F.layer_norm(h, (16,)))


def test_last_cycle_drops_attention_weights_as_the_full_form_does_to_its_last_row():
    attn = AttentionBlock(d_model=16, num_heads=4, dropout_p=0.4).double().train()
    h = torch.randn(3, 7, 16, dtype=torch.float64)
    with torch.no_grad():
        attn.mha.in_proj_bias.normal_()
        q, k, v = (
            t.view(3, 7, 4, 4).transpose(1, 2)
            for t in F.linear(h, attn.mha.in_proj_weight, attn.mha.in_proj_bias).chunk(3, dim=-1)
        )  # (B, H, T, 4)
        row = (q[:, :, -1:] @ k.transpose(2, 3) / 2).softmax(dim=-1)[:, :, 0]  # (B, H, T)
        torch.manual_seed(3)
        kept = F.dropout(row, 0.4)
        context = torch.einsum("bht,bhte->bhe", kept, v).flatten(1)
        expected = attn.norm(h[:, -1] + attn.mha.out_proj(context))
        torch.manual_seed(3)
        found = attn.last_cycle(h)
    assert (kept == 0).any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("hidden", [(256, 64), (256,), (256, 64, 32), ()])
def test_funnel_takes_any_tuple_and_reads_only_the_last_cycle(hidden):
    funnel = FCFunnel(d_model=512, hidden=hidden, out_dim=32, dropout_p=0.3).eval()
    h = torch.randn(4, 30, 512)
    z = funnel(h)
    assert z.shape == (4, 32)
    assert torch.equal(z, funnel.compress(h[:, -1]))
    h[:, :-1] = 0.0
    assert torch.equal(z, funnel(h))
    widths = (512, *hidden, 32)
    assert sum(p.numel() for p in funnel.parameters()) == sum(a * b + b for a, b in pairwise(widths))


def test_funnel_ends_without_an_activation():
    z = FCFunnel(d_model=16).eval()(torch.randn(64, 3, 16))
    assert (z < 0).any() and (z > 0).any()


def test_rul_head_is_one_number_a_window_and_never_negative():
    head = RULHead(in_dim=32)
    for bias in (0.3, -0.3):
        head.set_final_bias(bias)
        rul = head(torch.randn(500, 32) * 10)
        assert rul.shape == (500,)
        assert (rul >= 0).all()
    assert head(torch.randn(1, 32)).shape == (1,)  # a batch of one keeps its axis


def test_set_final_bias_starts_a_dead_head_at_that_level():
    torch.manual_seed(0)
    head = RULHead(in_dim=32)
    z = torch.randn(64, 32)
    with torch.no_grad():
        head.layers[-2].bias.fill_(-10.0)
    assert (head(z) == 0).all()
    head.set_final_bias(75.0)
    assert head(z).mean().item() == pytest.approx(75.0, abs=1.0)
    head(z).sum().backward()
    assert head.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_health_head_answers_raw_logits(classes):
    logits = HealthHead(in_dim=32, num_classes=classes)(torch.randn(50, 32) * 10)
    assert logits.shape == (50, classes)
    assert (logits < 0).any()
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(50))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNNFrontend(0), "c_in is 0"),
        (lambda: BiLSTMEncoder(64, 0), "hidden_size is 0"),
        (lambda: BiLSTMEncoder(0, 8), "input_size is 0"),
        (lambda: BiLSTMEncoder(64, 8, num_layers=0), "num_layers is 0"),
        (lambda: AttentionBlock(64, 0), "num_heads 0"),
        (lambda: AttentionBlock(64, 6), "num_heads is 6, which does not divide d_model 64"),
        (lambda: FCFunnel(64, hidden=(8, 0)), r"\(64, 8, 0, 32\)"),
        (lambda: FCFunnel(64, out_dim=-1), "-1"),
        (lambda: RULHead(0), "in_dim is 0"),
        (lambda: HealthHead(32, 0), "num_classes 0"),
        (lambda: CNNFrontend(3, dropout_p=1.5), "1.5"),
    ],
)
def test_sizes_that_make_no_block_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
