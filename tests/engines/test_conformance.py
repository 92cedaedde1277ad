"""What every engine must do. The oracle is the NumPy reference, computed from the bundle's weights in float64."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from conftest import absent
from engines.fake_gpu import FakeCuda, fake_tensorrt
from engines.precisions import reduced_or_skip

from bundles import MAX_RUL, bundle_parts, make_bundle, raw_windows
from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle, Golden, Tolerance
from edge_rul.core.normalise import Array
from edge_rul.engines import Engine, infer_all, open_engine, verify
from edge_rul.engines.auto import nvidia_driver
from edge_rul.errors import EXIT_CONFIG, EngineError
from edge_rul.model.numpy_reference import dual_task_model, load_params

MAX_BATCH = 8
# Absolute. float32 engines against the exact value, and one engine against itself in another batch.
FLOAT32 = {"rul": 1e-3, "logits": 1e-3}
ITSELF = {"rul": 1e-4, "logits": 1e-4}
# Of these random networks, whose answers spread by 10 and 2; what a reduced precision costs a trained one is measured
# by tools/reduced_precision.py.
REDUCED = {"rul": 4.0, "logits": 1.5}

Open = Callable[[Bundle], Engine]


class Case(NamedTuple):
    """An engine under test. package: that it needs. of_graph: it reads the bundle's graph, and not its weights."""

    name: str
    package: str
    precision: str = "float32"
    of_graph: bool = True
    gpu: str = ""  # "", a fake one: "plain" or "capturable", or the one that is "here"

    @property
    def across(self) -> dict[str, float]:
        return FLOAT32 if self.precision == "float32" else REDUCED

    def open(self, bundle: Bundle) -> Engine:
        if self.gpu == "here":
            from edge_rul.engines.flavour import Flavour
            from edge_rul.engines.tensorrt import TensorRtEngine

            cache = bundle.path.parent / f"cache-of-{self.name}"
            return TensorRtEngine(bundle, Flavour(self.name), cache=cache, say=print, max_batch=MAX_BATCH)
        if self.gpu:
            return open_on_fake_gpu(self.name, bundle, capturable=self.gpu == "capturable")
        if self.name == "openvino":
            from edge_rul.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(bundle, max_batch=MAX_BATCH, precision=self.precision)
        if self.name == "torch":
            from edge_rul.engines.torch import TorchEngine

            return TorchEngine(bundle, max_batch=MAX_BATCH)
        from edge_rul.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(bundle, max_batch=MAX_BATCH)


def open_on_fake_gpu(name: str, bundle: Bundle, *, capturable: bool = False) -> Engine:
    from edge_rul.engines.cuda import Cuda
    from edge_rul.engines.flavour import Flavour
    from edge_rul.engines.tensorrt import TensorRtEngine

    cuda = FakeCuda()
    module = fake_tensorrt(cuda, rtx=name == "tensorrt_rtx", capturable=capturable)
    cache = bundle.path.parent / f"cache-{name}"
    return TensorRtEngine(
        bundle, Flavour(name, module), cache=cache, say=lambda _: None, max_batch=MAX_BATCH, cuda=Cuda(cuda)
    )


CASES = {
    "onnxruntime": Case("onnxruntime", "onnxruntime"),
    "openvino": Case("openvino", "openvino"),
    "openvino-bfloat16": Case("openvino", "openvino", "bfloat16"),
    "openvino-int8": Case("openvino", "openvino", "int8"),
    "torch": Case("torch", "torch", of_graph=False),
    # What these show is our side of the GPU: buffers, copies, captures. The kernels are ONNX Runtime's.
    "tensorrt on a fake GPU": Case("tensorrt", "onnx", gpu="plain"),
    "tensorrt on a fake GPU, captured": Case("tensorrt", "onnx", gpu="capturable"),
    "tensorrt_rtx on a fake GPU": Case("tensorrt_rtx", "onnx", gpu="plain"),
    "tensorrt": Case("tensorrt", "tensorrt", gpu="here"),
    "tensorrt_rtx": Case("tensorrt_rtx", "tensorrt_rtx", gpu="here"),
}


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of tests/conftest.py with a tolerance for each precision."""
    return tolerant(tmp_path_factory.mktemp("bundles") / "tiny", **bundle_parts())


def tolerant(path: Path, **parts: Any) -> Bundle:
    """Written at `path`, with a tolerance for each precision."""
    wide = dict.fromkeys(("bfloat16", "int8"), Tolerance(**REDUCED))
    return bundles.write(
        path, **{**parts, "fields": {**parts["fields"], "tolerance": {**parts["fields"]["tolerance"], **wide}}}
    )


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    chosen = CASES[request.param]
    if chosen.gpu == "here" and not nvidia_driver():
        pytest.skip("no NVIDIA driver here")
    if find_spec(chosen.package) is None:
        absent(f"the package {chosen.package}")
    if chosen.precision != "float32":
        reduced_or_skip(make_bundle(tmp_path_factory.mktemp("reduced") / "tiny"), chosen.precision)
    return chosen


@pytest.fixture(scope="module")
def across(case: Case) -> dict[str, float]:
    return case.across


@pytest.fixture(scope="module")
def open_it(case: Case) -> Open:
    return case.open


@pytest.fixture(scope="module")
def open_graph(case: Case) -> Open:
    if not case.of_graph:
        pytest.skip(f"{case.name} does not read the graph")
    return case.open


@pytest.fixture
def engine(open_it: Open, tiny_bundle: Bundle) -> Iterator[Engine]:
    with open_it(tiny_bundle) as engine:
        yield engine


def windows(bundle: Bundle, n: int, seed: int = 1) -> Array:
    """(n, T, F) normalised."""
    m = bundle.manifest
    return m.normaliser.apply(raw_windows(m.normaliser, n, m.window, seed))


def oracle(bundle: Bundle, x: Array) -> tuple[Array, Array]:
    return dual_task_model(x, load_params(bundle.weights, bundle.manifest.network.num_heads))


def assert_close(found: tuple[Array, Array], expected: tuple[Array, Array], limits: dict[str, float]) -> None:
    for name, a, b in zip(("rul", "logits"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=limits[name], err_msg=name)


def test_the_windows_of_these_tests_have_different_answers(tiny_bundle: Bundle) -> None:
    rul, logits = oracle(tiny_bundle, windows(tiny_bundle, 200))
    assert rul.std() > 1000 * FLOAT32["rul"]
    assert (logits.std(axis=0) > 100 * FLOAT32["logits"]).all()


def test_it_names_itself_and_a_precision_that_the_bundle_knows(engine: Engine, tiny_bundle: Bundle, case: Case) -> None:
    assert engine.name == case.name
    assert engine.precision == case.precision
    assert engine.version
    assert engine.precision in tiny_bundle.manifest.tolerance
    assert engine.max_batch == MAX_BATCH


@pytest.mark.parametrize("n", [1, 2, MAX_BATCH - 1, MAX_BATCH])
def test_every_batch_size_answers_as_the_reference(
    engine: Engine, tiny_bundle: Bundle, n: int, across: dict[str, float]
) -> None:
    x = windows(tiny_bundle, n)
    rul, logits = engine.infer(x)
    assert (rul.dtype, rul.shape, logits.dtype, logits.shape) == (np.float32, (n,), np.float32, (n, 3))
    assert_close((rul, logits), oracle(tiny_bundle, x), across)


@pytest.mark.parametrize(
    "sizes",
    [
        {"window": 1},
        {"window": 30, "inputs": tuple("abcdefghijklmn")},
        {"inputs": ("a",), "classes": ("good", "bad")},
        {"classes": tuple("abcdef"), "lstm_hidden": 12, "num_heads": 8},
    ],
    ids=str,
)
def test_other_networks(open_it: Open, tmp_path: Path, sizes: dict[str, object], across: dict[str, float]) -> None:
    bundle = tolerant(tmp_path / "b", **bundle_parts(seed=3, **sizes))
    x = windows(bundle, MAX_BATCH)
    with open_it(bundle) as engine:
        rul, logits = engine.infer(x)
    assert (rul.shape, logits.shape) == ((MAX_BATCH,), (MAX_BATCH, len(bundle.manifest.classes)))
    if across == FLOAT32:  # a rounding of weights makes another network of a random one
        assert_close((rul, logits), oracle(bundle, x), across)


def test_a_batch_of_none_has_no_answers_but_their_shape(engine: Engine, tiny_bundle: Bundle) -> None:
    rul, logits = engine.infer(windows(tiny_bundle, 0))
    assert (rul.shape, logits.shape, rul.dtype, logits.dtype) == ((0,), (0, 3), np.float32, np.float32)


def test_a_batch_above_the_largest_is_refused(engine: Engine, tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=f"a batch of {MAX_BATCH + 1}, at most {MAX_BATCH}"):
        engine.infer(windows(tiny_bundle, MAX_BATCH + 1))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda x: x.astype(np.float64), r"found float64 \(4, 5, 3\)"),
        (lambda x: x.astype(np.float16), r"found float16 \(4, 5, 3\)"),
        (lambda x: x[0], r"found float32 \(5, 3\)"),
        (lambda x: x[:, :4].copy(), r"found float32 \(4, 4, 3\)"),
        (lambda x: x[:, :, :2].copy(), r"found float32 \(4, 5, 2\)"),
        (lambda x: np.ascontiguousarray(x.transpose(0, 2, 1)), r"found float32 \(4, 3, 5\)"),
        (np.asfortranarray, r"found float32 \(4, 5, 3\), not C-contiguous"),
        (lambda x: np.repeat(x, 2, axis=0)[::2], r"found float32 \(4, 5, 3\), not C-contiguous"),
    ],
)
def test_another_type_shape_or_layout_is_refused(
    engine: Engine, tiny_bundle: Bundle, spoil: Callable[[Array], Array], found: str
) -> None:
    with pytest.raises(EngineError, match=found) as caught:
        engine.infer(spoil(windows(tiny_bundle, 4)))
    assert "expected float32 (B, 5, 3), C-contiguous" in str(caught.value)


def test_answers_are_the_callers_to_keep(engine: Engine, tiny_bundle: Bundle, across: dict[str, float]) -> None:
    first = engine.infer(windows(tiny_bundle, MAX_BATCH, seed=1))
    kept = [a.copy() for a in first]
    second = engine.infer(windows(tiny_bundle, MAX_BATCH, seed=2))
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    assert not any(np.shares_memory(a, b) for a, b in zip(first, second, strict=True))
    first[0][:] = -1
    first[1][:] = -1
    assert_close(second, oracle(tiny_bundle, windows(tiny_bundle, MAX_BATCH, seed=2)), across)


def test_the_input_is_only_read(engine: Engine, tiny_bundle: Bundle) -> None:
    x = windows(tiny_bundle, 4)
    before = x.copy()
    x.flags.writeable = False
    engine.infer(x)
    assert np.array_equal(x, before)


def test_a_windows_answer_hardly_depends_on_its_company(engine: Engine, tiny_bundle: Bundle) -> None:
    x = windows(tiny_bundle, MAX_BATCH)
    whole = engine.infer(x)
    alone = [engine.infer(x[i : i + 1]) for i in range(MAX_BATCH)]
    assert_close((np.concatenate([r for r, _ in alone]), np.concatenate([c for _, c in alone])), whole, ITSELF)
    turned = engine.infer(np.ascontiguousarray(x[::-1]))
    assert_close((turned[0][::-1], turned[1][::-1]), whole, ITSELF)


def test_rul_is_never_negative(engine: Engine, tiny_bundle: Bundle, case: Case) -> None:
    m = tiny_bundle.manifest
    x = m.normaliser.apply(raw_windows(m.normaliser, 400, m.window, 5)) * np.float32(4)
    rul, _ = infer_all(engine, x)
    assert rul.min() >= 0
    # int8 saturates such windows before they get there.
    assert case.precision == "int8" or rul.min() == 0, "none of these windows shows what happens below 0"


def test_more_windows_than_a_batch_holds(engine: Engine, tiny_bundle: Bundle, across: dict[str, float]) -> None:
    x = windows(tiny_bundle, 3 * MAX_BATCH + 1)
    assert_close(infer_all(engine, x), oracle(tiny_bundle, x), across)
    assert infer_all(engine, x[:0])[1].shape == (0, 3)


def test_two_engines_in_one_process(
    open_it: Open, tiny_bundle: Bundle, tmp_path: Path, across: dict[str, float]
) -> None:
    other = tolerant(tmp_path / "other", **bundle_parts(seed=7, window=6, inputs=("a", "b")))
    x, y = windows(tiny_bundle, 4), windows(other, 4)
    with open_it(tiny_bundle) as first:
        with open_it(other) as second:
            assert_close(first.infer(x), oracle(tiny_bundle, x), across)
            assert_close(second.infer(y), oracle(other, y), across)
        assert_close(first.infer(x), oracle(tiny_bundle, x), across)


def test_after_close_it_refuses_and_may_be_closed_again(open_it: Open, tiny_bundle: Bundle) -> None:
    engine = open_it(tiny_bundle)
    engine.close()
    engine.close()
    for n in (0, 1):
        with pytest.raises(EngineError, match="closed"):
            engine.infer(windows(tiny_bundle, n))


def test_golden_windows_agree(engine: Engine, tiny_bundle: Bundle, across: dict[str, float]) -> None:
    rul, logits = verify(engine, tiny_bundle)
    assert 0 <= rul <= across["rul"]
    assert 0 <= logits <= across["logits"]


@pytest.mark.parametrize(("which", "shift"), [("rul", 5), ("rul", -5), ("logits", 5)])
def test_wrong_golden_answers_are_refused(
    case: Case, open_it: Open, tmp_path: Path, which: str, shift: float, across: dict[str, float]
) -> None:
    parts = bundle_parts()
    golden = {"windows": parts["golden"].windows, "rul": parts["golden"].rul, "logits": parts["golden"].logits}
    golden[which] = golden[which].copy()
    golden[which].flat[-1] += shift * across[which]  # a single number of the last window
    bundle = tolerant(tmp_path / "b", **{**parts, "golden": Golden(**golden)})
    with open_it(bundle) as engine, pytest.raises(EngineError, match="verify golden windows") as caught:
        verify(engine, bundle)
    assert caught.value.exit_code == EXIT_CONFIG
    assert engine.name in str(caught.value)
    if not case.gpu:
        with pytest.raises(EngineError, match="verify golden windows"):
            open_engine(engine.name, bundle, precision=engine.precision)


def test_a_nan_among_the_answers_does_not_pass_as_golden(tiny_bundle: Bundle) -> None:
    class Broken:
        name, version, precision, max_batch = "broken", "0", "float32", MAX_BATCH

        def infer(self, x: Array) -> tuple[Array, Array]:
            rul, logits = oracle(tiny_bundle, x)
            return rul + np.float32(np.nan), logits

        def close(self) -> None: ...
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *exc: object) -> None: ...

    with pytest.raises(EngineError, match="nan"):
        verify(Broken(), tiny_bundle)


def test_a_bundle_without_a_tolerance_for_the_precision_is_refused(tiny_bundle: Bundle) -> None:
    class Half:
        name, version, precision, max_batch = "half", "0", "float16", MAX_BATCH

        def infer(self, x: Array) -> tuple[Array, Array]:
            raise AssertionError("must not be asked")

        def close(self) -> None: ...
        def __enter__(self) -> Half:
            return self

        def __exit__(self, *exc: object) -> None: ...

    with pytest.raises(EngineError, match="no tolerance for precision float16"):
        verify(Half(), tiny_bundle)


@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\x08\x08" + b"\x00" * 100], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_graph_is_refused(open_graph: Open, tmp_path: Path, graph: bytes) -> None:
    bundle = bundles.write(tmp_path / "b", **{**bundle_parts(), "graph": graph})
    with pytest.raises(EngineError, match=r"model\.onnx") as caught:
        open_graph(bundle)
    assert caught.value.exit_code == EXIT_CONFIG


def test_a_cut_graph_is_refused(open_graph: Open, tmp_path: Path) -> None:
    parts = bundle_parts()
    bundle = bundles.write(tmp_path / "b", **{**parts, "graph": parts["graph"][: len(parts["graph"]) // 2]})
    with pytest.raises(EngineError, match=r"model\.onnx"):
        open_graph(bundle)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"window": 6}, r"6, 3\]"), ({"inputs": ("a", "b")}, r"5, 2\]"), ({"classes": ("a", "b")}, r"(6|-1), 2[\])]")],
)
def test_a_graph_of_another_shape_than_the_manifests_is_refused(
    open_graph: Open, tmp_path: Path, sizes: dict[str, object], says: str
) -> None:
    bundle = tolerant(tmp_path / "b", **{**bundle_parts(), "graph": bundle_parts(**sizes)["graph"]})
    with pytest.raises(EngineError, match=says), open_graph(bundle) as engine:
        verify(engine, bundle)  # an engine may learn the number of classes from its first answer


def test_a_graph_with_other_names_is_refused(open_graph: Open, tmp_path: Path) -> None:
    parts = bundle_parts()
    proto = onnx.load_from_string(parts["graph"])
    for node in proto.graph.node:
        node.output[:] = ["remaining" if name == "rul" else name for name in node.output]
    proto.graph.output[0].name = "remaining"
    bundle = bundles.write(tmp_path / "b", **{**parts, "graph": proto.SerializeToString()})
    with pytest.raises(EngineError, match="remaining"):
        open_graph(bundle)


def test_a_graph_with_the_weights_of_another_training_is_refused(open_graph: Open, tmp_path: Path) -> None:
    bundle = tolerant(tmp_path / "b", **{**bundle_parts(), "graph": bundle_parts(seed=9)["graph"]})
    with open_graph(bundle) as engine, pytest.raises(EngineError, match="does not compute the trained model"):
        verify(engine, bundle)


def test_the_tolerance_that_counts_is_the_manifests(case: Case, tmp_path: Path) -> None:
    parts = bundle_parts()
    golden: Golden = parts["golden"]
    shift = 20 * case.across["rul"]
    shifted = Golden(golden.windows, golden.rul + np.float32(shift), golden.logits)
    wide = {**parts["fields"]["tolerance"], case.precision: Tolerance(rul=2 * shift, logits=REDUCED["logits"])}
    fields = {**parts["fields"], "tolerance": wide}
    bundle = bundles.write(tmp_path / "b", **{**parts, "fields": fields, "golden": shifted})
    with case.open(bundle) as engine:
        assert verify(engine, bundle)[0] == pytest.approx(shift, abs=case.across["rul"])


def test_auto_opens_an_engine_of_this_list_verified(tiny_bundle: Bundle) -> None:
    with open_engine("auto", tiny_bundle, max_batch=3, threads=1) as engine:
        assert engine.name == "onnxruntime"
        assert engine.max_batch == 3
        assert infer_all(engine, windows(tiny_bundle, 10))[0].max() < 2 * MAX_RUL


def test_a_hundred_times_open_and_close_hold_no_memory(case: Case, tiny_bundle: Bundle) -> None:
    if case.gpu in ("plain", "capturable"):
        pytest.skip("a fake GPU's memory is not an engine's; tests/engines/test_tensorrt.py counts what it still holds")
    x = windows(tiny_bundle, MAX_BATCH)

    def cycle(times: int) -> int:
        for _ in range(times):
            with case.open(tiny_bundle) as engine:
                engine.infer(x)
        gc.collect()
        return resident()

    before = cycle(10)  # the first ones fill caches that a library keeps for the process
    grown = (cycle(100) - before) / 100
    assert grown < 64 * 1024, f"{grown / 1024:.0f} KiB for each engine"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Moody:
    """Answers as the reference, moved by `mood` of the batch."""

    name, version, precision, max_batch = "moody", "0", "float32", MAX_BATCH

    def __init__(self, bundle: Bundle, mood: Callable[[Array], float]) -> None:
        self.bundle, self.mood = bundle, mood

    def infer(self, x: Array) -> tuple[Array, Array]:
        rul, logits = oracle(self.bundle, x)
        return (rul + self.mood(x)).astype(np.float32), logits.astype(np.float32)

    def close(self) -> None: ...
    def __enter__(self) -> Moody:
        return self

    def __exit__(self, *exc: object) -> None: ...


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        # Each within the tolerance of the golden answers themselves, and three times what a batch may do.
        (lambda x: 3e-4 * (len(x) == 1), "a window alone moves"),
        (lambda x: 3e-4 * (np.abs(x).max() > 5), "a window with other windows moves"),
    ],
    ids=["size", "mates"],
)
def test_an_engine_whose_answer_depends_on_the_batch_is_refused(
    tiny_bundle: Bundle, mood: Callable[[Array], float], says: str
) -> None:
    verify(Moody(tiny_bundle, lambda _: 3e-4), tiny_bundle)
    with pytest.raises(EngineError, match=says):
        verify(Moody(tiny_bundle, mood), tiny_bundle)


def test_an_engine_that_only_fails_in_a_full_batch_is_refused(tiny_bundle: Bundle) -> None:
    """Larger than all that the golden windows fill by themselves."""
    moody = Moody(tiny_bundle, lambda x: 3e-4 * (len(x) == 64))
    verify(moody, tiny_bundle)
    moody.max_batch = 64
    with pytest.raises(EngineError, match="a window in a batch of 64 moves"):
        verify(moody, tiny_bundle)


def test_dynamic_quantisation_is_refused(tmp_path: Path) -> None:
    """The case that the rule is made for: ONNX Runtime scales a dynamic int8 layer's input over the whole batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    parts = bundle_parts(lstm_hidden=32)
    plain, dynamic = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    plain.write_bytes(parts["graph"])
    quantize_dynamic(plain, dynamic, weight_type=QuantType.QInt8)
    fields = {**parts["fields"], "tolerance": {"float32": Tolerance(rul=20.0, logits=5.0)}}
    bundle = bundles.write(tmp_path / "b", **{**parts, "fields": fields, "graph": dynamic.read_bytes()})
    with CASES["onnxruntime"].open(bundle) as engine, pytest.raises(EngineError, match="depends on the batch"):
        verify(engine, bundle)
