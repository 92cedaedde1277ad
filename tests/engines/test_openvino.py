"""What only OpenVINO's engine does: a batch divided among threads, and an int8 that is one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from conftest import absent
from engines.precisions import reduced_or_skip

from bundles import raw_windows
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.errors import EngineError

if find_spec("openvino") is None:
    absent("the package openvino")

from edge_rul.engines import openvino
from edge_rul.engines.openvino import OpenVinoEngine


def windows(bundle: Bundle, count: int) -> Array:
    m = bundle.manifest
    return m.normaliser.apply(raw_windows(m.normaliser, count, m.window, 1))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_threads_share_a_batch_and_the_answers_keep_their_order(tiny_bundle: Bundle, threads: int, count: int) -> None:
    x = windows(tiny_bundle, count)
    with OpenVinoEngine(tiny_bundle, threads=1) as one, OpenVinoEngine(tiny_bundle, threads=threads) as many:
        for a, b in zip(one.infer(x), many.infer(x), strict=True):
            np.testing.assert_allclose(b, a, atol=1e-4)


def test_a_part_that_fails_is_told_when_no_thread_reads_the_batch_any_more(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    working: set[int] = set()

    class Request:
        def __init__(self, number: int) -> None:
            self.number = number

        def set_tensor(self, name: str, tensor: Any) -> None:
            pass

        def start_async(self) -> None:
            if self.number == 2:
                raise RuntimeError("out of memory")
            working.add(self.number)

        def wait(self) -> None:
            working.discard(self.number)

    with OpenVinoEngine(tiny_bundle, threads=3) as engine:
        monkeypatch.setattr(engine, "_requests", [Request(i) for i in range(3)])
        with pytest.raises(EngineError, match="OpenVINO failed: out of memory"):
            engine.infer(windows(tiny_bundle, 6))
    assert not working


def test_int8_that_would_be_float32_on_rounded_numbers_is_refused(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced_or_skip(tiny_bundle, "int8")
    monkeypatch.setattr(openvino, "quantise", lambda core, model: None)
    with pytest.raises(EngineError, match="does not compute this graph's LSTM in int8 on this CPU"):
        OpenVinoEngine(tiny_bundle, precision="int8")


def test_int8_is_the_same_each_time_it_is_opened(tiny_bundle: Bundle) -> None:
    reduced_or_skip(tiny_bundle, "int8")
    x = windows(tiny_bundle, 8)
    with OpenVinoEngine(tiny_bundle, precision="int8") as a, OpenVinoEngine(tiny_bundle, precision="int8") as b:
        np.testing.assert_array_equal(a.infer(x)[0], b.infer(x)[0])


def test_a_cpu_whose_kernels_have_no_int8_lstm_is_told_as_that(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(core: Any, model: Any) -> None:  # what OpenVINO says on a CPU without AVX-512
        raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")

    monkeypatch.setattr(openvino, "quantise", refuse)
    with pytest.raises(EngineError, match="LSTM in int8 on this CPU") as caught:
        OpenVinoEngine(tiny_bundle, precision="int8")
    assert "float32" in caught.value.hint
