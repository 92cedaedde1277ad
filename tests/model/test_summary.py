"""The table of `edge-rul model summary`."""

from __future__ import annotations

import pytest
import torch

from edge_rul.model.dual_task_model import DualTaskModel, parameters
from edge_rul.model.summary import stages, summary


def test_stages_carry_the_shapes_and_counts_of_the_published_model():
    rows = stages(DualTaskModel(), 30)
    assert [(r.block, r.shape, r.parameters) for r in rows] == [
        ("input", (30, 14), 0),
        ("cnn", (30, 64), 52_608),
        ("lstm", (30, 512), 2_236_416),
        ("attn", (30, 512), 1_051_648),
        ("funnel", (32,), 149_856),
        ("rul_head", (), 4_737),
        ("health_head", (3,), 1_635),
    ]
    assert sum(r.share for r in rows) == pytest.approx(1.0)
    assert rows[2].share == pytest.approx(0.6395, abs=5e-5)


def test_stages_follow_the_modules_and_leave_the_model_as_it_was():
    model = DualTaskModel(c_in=4, lstm_hidden=8, num_heads=2, shared_dim=6, num_classes=5).train()
    statistics = model.cnn.bn1.running_mean.clone()
    rows = {r.block: r for r in stages(model, 9)}
    assert rows["attn"].shape == (9, 16)
    assert rows["funnel"].shape == (6,)
    assert rows["health_head"].shape == (5,)
    assert sum(r.parameters for r in rows.values()) == parameters(model)
    assert "2 heads of 8" in rows["attn"].operation
    assert "Linear 16 -> 256 -> 64 -> 6" in rows["funnel"].operation
    assert model.training and all(block.training for block in model.children())
    assert torch.equal(model.cnn.bn1.running_mean, statistics)


@pytest.mark.parametrize(("c_in", "window", "classes"), [(14, 30, 3), (100, 1_000, 12)])
def test_table_fits_a_terminal_of_100_columns(c_in, window, classes):
    lines = summary(c_in, window, classes).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() and line.isascii() for line in lines)


def test_table_names_every_block_once_and_adds_up():
    text = summary(c_in=14, window=30, num_classes=3)
    rows = {line.split()[0]: line for line in text.splitlines() if line and line[0].isalpha()}
    assert list(rows) == ["block", "input", "cnn", "lstm", "attn", "funnel", "rul_head", "health_head", "total"]
    assert "(B, 30, 512)" in rows["lstm"] and "2,236,416" in rows["lstm"] and "63.95%" in rows["lstm"]
    assert "(B,)" in rows["rul_head"] and "(B, 3)" in rows["health_head"]
    assert rows["total"].split() == ["total", "3,496,900", "100.00%"]


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="window is 0"):
        summary(14, 0, 3)
    with pytest.raises(ValueError, match="c_in is 0"):
        summary(0, 30, 3)
