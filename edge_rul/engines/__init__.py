"""Engines: one file each, one narrow protocol.

Owns the protocol, the check of what goes in, the choice of an engine by name, and the golden check that every engine
has to pass before it serves. Knows no asset and no MQTT.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.errors import EngineError


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


def check_input(engine: str, x: Array, window: int, inputs: int, max_batch: int) -> None:
    """Raises EngineError unless x is (B <= max_batch, window, inputs) float32 and C-contiguous."""
    found = f"{x.dtype} {x.shape}{'' if x.flags.c_contiguous else ', not C-contiguous'}"
    if x.dtype != np.float32 or x.ndim != 3 or x.shape[1:] != (window, inputs) or not x.flags.c_contiguous:
        raise EngineError("infer", engine, f"found {found}, expected float32 (B, {window}, {inputs}), C-contiguous")
    if len(x) > max_batch:
        raise EngineError("infer", engine, f"a batch of {len(x)}, at most {max_batch}", hint="split it")


def open_engine(name: str, bundle: Bundle, *, max_batch: int = 32, threads: int = 0) -> Engine:
    """The engine `name` ("auto" takes the best that is installed) for the bundle, verified on its golden windows.

    Raises EngineError where it cannot be opened or does not answer as the bundle says.
    """
    # Engines bring large libraries; only the one in use is loaded.
    from edge_rul.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415

    engine = OnnxRuntimeEngine(bundle, max_batch=max_batch, threads=threads)
    try:
        verify(engine, bundle)
    except BaseException:
        engine.close()
        raise
    return engine


def infer_all(engine: Engine, x: Array) -> tuple[Array, Array]:
    """`infer` for any number of windows, split by the engine's max_batch."""
    pieces = [engine.infer(x[i : i + engine.max_batch]) for i in range(0, max(len(x), 1), engine.max_batch)]
    return np.concatenate([rul for rul, _ in pieces]), np.concatenate([logits for _, logits in pieces])


def verify(engine: Engine, bundle: Bundle) -> tuple[float, float]:
    """Run the bundle's golden windows. Returns the largest differences (rul, logits); raises EngineError beyond the
    manifest's tolerance for the engine's precision, or where an answer is not finite."""
    manifest, golden = bundle.manifest, bundle.golden
    if (tolerance := manifest.tolerance.get(engine.precision)) is None:
        raise EngineError("verify", engine.name, f"the bundle has no tolerance for precision {engine.precision}")
    rul, logits = infer_all(engine, manifest.normaliser.apply(golden.windows))
    # Written so that NaN fails.
    differences = float(np.abs(rul - golden.rul).max()), float(np.abs(logits - golden.logits).max())
    if not (differences[0] <= tolerance.rul and differences[1] <= tolerance.logits):
        raise EngineError(
            "verify golden windows",
            f"{bundle.path} on {engine.name} {engine.version}, {engine.precision}",
            f"differs by up to {differences[0]:.3g} {manifest.rul.unit} and {differences[1]:.3g} in logits, "
            f"at most {tolerance.rul:g} and {tolerance.logits:g} are allowed",
            hint="this engine does not compute the trained model; take another one, or export the bundle again",
        )
    return differences
