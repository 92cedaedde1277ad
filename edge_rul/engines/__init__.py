"""Engines: one file each, one narrow protocol.

Owns the protocol, the check of what goes in, and the golden check that every engine has to pass before it serves. The
choice among them stands in `choose`. Knows no asset and no MQTT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from edge_rul.bundle import Bundle, Tolerance
from edge_rul.core.normalise import Array
from edge_rul.core.prediction import BundleId, EngineId, Model
from edge_rul.errors import EngineError

Say = Callable[[str], None]


class Engine(Protocol):
    """A compiled DualTaskModel. Use it as a context manager; what `infer` returns stays the caller's.

    name: of the runtime, with version `version`. precision: of its arithmetic, a key of the manifest's tolerances.
    """

    name: str
    version: str
    precision: str
    max_batch: int

    def infer(self, x: Array) -> tuple[Array, Array]:
        """(B, T, C_in) normalised float32, C-contiguous, 0 <= B <= max_batch -> rul (B,), logits (B, C).

        rul is in the bundle's unit. Raises EngineError on anything else.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


def model_of(bundle: Bundle, engine: Engine, journal: str) -> Model:
    """What the core has to know of both to name an answer. journal: the id of the one whose entries are answered."""
    manifest = bundle.manifest
    return Model(
        bundle=BundleId(manifest.name, bundle.sha256),
        engine=EngineId(engine.name, engine.precision),
        journal=journal,
        rul_unit=manifest.rul.unit,
        classes=tuple(c.name for c in manifest.classes),
        max_rul=manifest.rul.max,
        interval=manifest.interval,
    )


def check_input(engine: str, x: Array, window: int, inputs: int, max_batch: int) -> None:
    """Raises EngineError unless x is (B <= max_batch, window, inputs) float32 and C-contiguous."""
    found = f"{x.dtype} {x.shape}{'' if x.flags.c_contiguous else ', not C-contiguous'}"
    if x.dtype != np.float32 or x.ndim != 3 or x.shape[1:] != (window, inputs) or not x.flags.c_contiguous:
        raise EngineError("infer", engine, f"found {found}, expected float32 (B, {window}, {inputs}), C-contiguous")
    if len(x) > max_batch:
        raise EngineError("infer", engine, f"a batch of {len(x)}, at most {max_batch}", hint="split it")


def open_engine(
    name: str,
    bundle: Bundle,
    *,
    max_batch: int = 32,
    threads: int = 0,
    precision: str = "float32",
    provider: str = "cpu",
    build: str = "on_miss",
    require_gpu: bool = False,
    cache: Path | None = None,
    say: Say | None = None,
) -> Engine:
    """The engine `name` for the bundle, verified on its golden windows.

    name:     of an engine, or "auto": the fastest installed float32 engine, as measured on this machine. The figures
              are kept in `cache`; without a cache nothing is measured, and "auto" is ONNX Runtime.
    threads:  of one call; 0 takes as many as this process may use.
    provider: ONNX Runtime's: "cpu", "cuda" or "tensorrt".
    build:    of the TensorRT engines: "on_miss" builds what the cache does not hold, "never" refuses.
    require_gpu: refuse the CPU, also as what "auto" finds or after repeated failures of the GPU.
    cache:    directory of built engines and measurements.
    say:      is told what takes long, what was chosen, and what was set aside and why.

    Raises EngineError where it cannot be opened or does not answer as the bundle says.
    """
    # The choice knows every engine, and each engine knows this module.
    from edge_rul.engines.choose import Options, choose  # noqa: PLC0415

    options = Options(max_batch, threads, precision, provider, build, require_gpu, cache, say or (lambda _: None))
    return choose(name, bundle, options)


def infer_all(engine: Engine, x: Array, size: int = 0) -> tuple[Array, Array]:
    """`infer` for any number of windows, in batches of `size`; 0 is the engine's max_batch."""
    size = size or engine.max_batch
    pieces = [engine.infer(x[i : i + size]) for i in range(0, max(len(x), 1), size)]
    return np.concatenate([rul for rul, _ in pieces]), np.concatenate([logits for _, logits in pieces])


def tolerance_of(bundle: Bundle, engine: str, precision: str) -> Tolerance:
    """How far an engine of this precision may be from the golden answers. Raises EngineError where none is known."""
    if (tolerance := bundle.manifest.tolerance.get(precision)) is None:
        raise EngineError(
            "verify",
            engine,
            f"the bundle has no tolerance for precision {precision}",
            hint="tools/reduced_precision.py measures what a precision costs, and writes its tolerance",
        )
    return tolerance


def verify(engine: Engine, bundle: Bundle) -> tuple[float, float]:
    """Run the bundle's golden windows: together, alone, among other windows, and in a batch of `max_batch`.

    Returns the largest differences (rul, logits) from the golden answers. Raises EngineError where they pass the
    manifest's tolerance for the engine's precision, where an answer is not finite, or where a window's answer depends
    on the batch that it travels in by more than a tenth of the tolerance (float32) or all of it (other precisions).
    """
    manifest, golden = bundle.manifest, bundle.golden
    what = f"{bundle.path} on {engine.name} {engine.version}, {engine.precision}"
    tolerance = tolerance_of(bundle, engine.name, engine.precision)
    x = bundle.golden_inputs  # (N, T, F)
    together = infer_all(engine, x)
    differences = _differences(together, (golden.rul, golden.logits))
    # Written so that NaN fails.
    if not (differences[0] <= tolerance.rul and differences[1] <= tolerance.logits):
        raise EngineError(
            "verify golden windows",
            what,
            f"differs by up to {differences[0]:.3g} {manifest.rul.unit} and {differences[1]:.3g} in logits, "
            f"at most {tolerance.rul:g} and {tolerance.logits:g} are allowed",
            hint="this engine does not compute the trained model; take another one, or export the bundle again",
        )
    share = 0.1 if engine.precision == "float32" else 1.0
    companies = [("alone", _in_batches(engine, x, 1)), ("with other windows", _among_others(engine, x))]
    # The largest batch, where the ones so far have not filled it; and each graph that is captured is another program.
    sizes = {*getattr(engine, "captured", ()), *([engine.max_batch] if engine.max_batch > 2 * len(x) else [])}
    companies += [(f"in a batch of {size}", _in_batches(engine, x, size)) for size in sorted(sizes)]
    for company, answers in companies:
        moved = _differences(answers, together)
        if not (moved[0] <= share * tolerance.rul and moved[1] <= share * tolerance.logits):
            raise EngineError(
                "verify golden windows",
                what,
                f"a window {company} moves by up to {moved[0]:.3g} {manifest.rul.unit} and {moved[1]:.3g} in logits, "
                f"at most {share * tolerance.rul:g} and {share * tolerance.logits:g} are allowed",
                hint="this engine's answer depends on the batch, as with dynamic quantisation; take another one",
            )
    return differences


def _differences(found: tuple[Array, Array], expected: tuple[Array, Array]) -> tuple[float, float]:
    rul, logits = (float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    return rul, logits


def _in_batches(engine: Engine, x: Array, size: int) -> tuple[Array, Array]:
    """The answers to x in whole batches of `size`, which x's first windows fill up."""
    count = -(-len(x) // size) * size
    rows = np.resize(x, (count, *x.shape[1:]))  # (count, T, F)
    rul, logits = infer_all(engine, rows, size)
    return rul[: len(x)], logits[: len(x)]


def _among_others(engine: Engine, x: Array) -> tuple[Array, Array]:
    """Each window of x beside one of three times its size, in the opposite order; the answers of x's own, in order.

    A mate that stretches the batch's range is what moves an engine that scales its numbers by it.
    """
    mixed = np.empty((2 * len(x), *x.shape[1:]), np.float32)  # (2N, T, F)
    mixed[0::2] = x[::-1]
    mixed[1::2] = 3 * x
    rul, logits = infer_all(engine, mixed)
    return rul[0::2][::-1], logits[0::2][::-1]
