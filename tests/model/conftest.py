"""A network whose answers move, and windows that move them: what the forms of the network are compared on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edge_rul.model.dual_task_model import DualTaskModel


def make_windows(seed: int, n: int, window: int = 30, c_in: int = 14) -> Tensor:
    """(n, window, c_in) float32: noise on a level and a trend of each window's own, about what a z-score leaves."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(n, 1, c_in, generator=generator)  # (n, 1, c_in)
    trend = torch.randn(n, 1, c_in, generator=generator) * torch.linspace(-1, 1, window)[:, None]  # (n, T, c_in)
    return level + trend + 0.5 * torch.randn(n, window, c_in, generator=generator)


@torch.no_grad()
def make_lively(seed: int = 0, **sizes: int) -> DualTaskModel:
    """A model in eval mode with nothing left at a value that would hide a mistake.

    At the default initialisation all windows get nearly the same answer, attention's biases are 0 and BatchNorm's
    statistics 0 and 1. Here RUL is about 125 with a deviation of 4 over windows and logits have one of 0.3, both more
    than 10,000 times the differences that the tests allow. Every layer's signal is kept near 1: large factors on a
    small one would show float32 rounding instead of mistakes.
    """
    torch.manual_seed(seed)
    model = DualTaskModel(**sizes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            module.bias.normal_(0, 0.3)
            module.weight.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.LSTM):
            for weight in module.parameters():
                weight.mul_(2)
        elif isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
        elif isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_bias is not None
            module.in_proj_weight.mul_(2)
            module.in_proj_bias.normal_(0, 0.1)
            module.out_proj.bias.normal_(0, 0.1)
    h = model.attn.last_cycle(model.lstm(model.cnn(make_windows(seed + 1000, 128, c_in=model.c_in))))
    z = _spread(model.funnel.layers, h)
    for layers, spread, level in ((model.health_head.layers, 0.3, 0.0), (model.rul_head.layers, 4.0, 125.0)):
        _spread(layers, z)
        final = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
        final.weight.mul_(spread)
        final.bias.mul_(spread).add_(level)
    return model


def _spread(layers: nn.Sequential, h: Tensor) -> Tensor:
    """Scale each Linear to an output of mean 0 and deviation 1 over windows, on the way of `h` through them."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            out = layer(h)  # (n, width)
            layer.weight.div_(out.std())
            layer.bias.copy_((layer.bias - out.mean(dim=0)) / out.std() + 0.2 * torch.randn(out.shape[1]))
        h = layer(h)
    return h


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """An LSTM synchronises its threads at every cycle, which is very slow while another process has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def lively() -> Callable[..., DualTaskModel]:
    return make_lively


@pytest.fixture(scope="session")
def windows() -> Callable[..., Tensor]:
    return make_windows
