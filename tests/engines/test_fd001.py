"""The trained bundle on real windows: its graph is the training graph, in every exact engine, for every batch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import infer_all, open_engine
from edge_rul.training.evaluate import load_table
from edge_rul.training.windows import full_windows

EVERY = 5  # of the 10,196 full windows; docs/engines.md has the figures of all


@pytest.fixture(scope="module")
def fd001(shipped_bundle: Path) -> Bundle:
    return bundles.load(shipped_bundle)


@pytest.fixture(scope="module")
def x(fd001: Bundle, data_dir: Path) -> Array:
    """(n, T, F) normalised windows of all test engines."""
    windows = full_windows(load_table(fd001, data_dir / "cmapss", "test"), fd001.manifest.window)
    assert len(windows) == 10_196
    return fd001.manifest.transform.apply(windows.readings(np.arange(0, len(windows), EVERY), before=False)).x


@pytest.fixture(scope="module")
def training_graph(fd001: Bundle, x: Array) -> tuple[Array, Array]:
    """The torch model as it was trained: every cycle attends, nothing is folded."""
    with open_engine("torch", fd001, max_batch=64) as engine:
        return infer_all(engine, x)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_inference_graph_is_the_training_graph(
    name: str, fd001: Bundle, x: Array, training_graph: tuple[Array, Array]
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed; tests/engines/test_conformance.py requires it in CI")
    with open_engine(name, fd001, max_batch=64) as engine:
        rul, logits = infer_all(engine, x)
    assert rul.std() > 10, "windows of all ages"
    np.testing.assert_allclose(rul, training_graph[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, training_graph[1], rtol=0, atol=1e-4)
