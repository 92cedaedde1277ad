"""What the network is made of: each block's operation, output shape, parameters and share, as a table.

Owns the walk through the blocks and the table's text. The numbers are read off real modules, so that they cannot
differ from what runs. Knows no command line.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge_rul.model.dual_task_model import DualTaskModel, parameters

OPERATION_WIDTH = 50  # leaves the whole table within 100 columns


class Stage(NamedTuple):
    """One block. shape: of its output, without the batch axis. share: of all parameters, 0 to 1."""

    block: str
    operation: str
    shape: tuple[int, ...]
    parameters: int
    share: float


def stages(model: DualTaskModel, window: int) -> list[Stage]:
    """The input and the six blocks in the order of the data, by sending one window of zeros through `model`.

    The model comes back in the mode that it was in. ValueError for a window below 1.
    """
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    total = parameters(model)
    rows: list[Stage] = []

    def row(block: str, operation: str, output: Tensor) -> Tensor:
        own = parameters(getattr(model, block)) if block != "input" else 0
        rows.append(Stage(block, operation, tuple(output.shape[1:]), own, own / total))
        return output

    training = model.training
    model.eval()
    with torch.no_grad():
        h = row("input", "normalised sensors, oldest cycle first", torch.zeros(1, window, model.c_in))
        h = row("cnn", _cnn_text(model), model.cnn(h))
        h = row("lstm", _lstm_text(model), model.lstm(h))
        h = row("attn", _attention_text(model), model.attn(h))
        funnel = f"last cycle; {_dense_text(model.funnel.layers)}, ReLU and Dropout({_dropout(model.funnel)}) between"
        z = row("funnel", funnel, model.funnel(h))
        row("rul_head", f"{_dense_text(model.rul_head.layers)}, ReLU after each", model.rul_head(z))
        row("health_head", f"{_dense_text(model.health_head.layers)}, ReLU between", model.health_head(z))
    model.train(training)
    return rows


def summary(c_in: int = 14, window: int = 30, num_classes: int = 3) -> str:
    """The table of a DualTaskModel for these sizes, without a final newline. ValueError for a size below 1."""
    rows = stages(DualTaskModel(c_in=c_in, num_classes=num_classes), window)
    total = sum(row.parameters for row in rows)
    head = _line("block", "operation", "output shape", "parameters", "share")
    lines = [head, "-" * len(head)]
    for row in rows:
        operation = textwrap.wrap(row.operation, OPERATION_WIDTH)
        shape = "(" + ", ".join(["B", *map(str, row.shape)]) + ("," if not row.shape else "") + ")"
        count = f"{row.parameters:,}" if row.parameters else ""
        share = f"{row.share:.2%}" if row.parameters else ""
        lines.append(_line(row.block, operation[0], shape, count, share))
        lines += [_line("", more, "", "", "") for more in operation[1:]]
    lines += ["-" * len(head), _line("total", "", "", f"{total:,}", "100.00%")]
    return "\n".join(line.rstrip() for line in lines)


def _line(block: str, operation: str, shape: str, count: str, share: str) -> str:
    return f"{block:<11}  {operation:<{OPERATION_WIDTH}}  {shape:<13}  {count:>10}  {share:>7}"


def _dropout(module: nn.Module) -> float:
    return next(m.p for m in module.modules() if isinstance(m, nn.Dropout))


def _cnn_text(model: DualTaskModel) -> str:
    convs = [m for m in model.cnn.modules() if isinstance(m, nn.Conv1d)]
    widths = " -> ".join(map(str, [convs[0].in_channels, *(c.out_channels for c in convs)]))
    return f"{len(convs)} x (Conv1d(kernel 3), BatchNorm1d, ReLU, Dropout({_dropout(model.cnn)})), {widths}"


def _lstm_text(model: DualTaskModel) -> str:
    lstm = model.lstm.lstm
    return (
        f"{lstm.num_layers} x bidirectional LSTM, {lstm.input_size} -> 2 x {lstm.hidden_size}, "
        f"Dropout({lstm.dropout}) between"
    )


def _attention_text(model: DualTaskModel) -> str:
    attn = model.attn
    return (
        f"self-attention, {attn.num_heads} heads of {attn.head_dim}, Dropout({attn.mha.dropout}) on the weights; "
        "residual; LayerNorm"
    )


def _dense_text(layers: nn.Sequential) -> str:
    linear = [m for m in layers if isinstance(m, nn.Linear)]
    return "Linear " + " -> ".join(map(str, [linear[0].in_features, *(m.out_features for m in linear)]))
