"""`edge-rul compile`: a bundle to a TensorRT engine in the cache, here or for another GPU.

Owns the order of the steps, what is printed, and that a service manager is told to wait meanwhile. Must not know what
differs between the flavours, nor how a service manager is reached: that is a function that is passed in.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.engines import Say, tolerance_of, verify
from edge_rul.engines.cache import (
    EngineCache,
    Entry,
    Facts,
    Profile,
    Unusable,
    check,
    default_directory,
    keep,
    store,
)
from edge_rul.engines.cuda import Cuda
from edge_rul.engines.flavour import Flavour, Target
from edge_rul.engines.onnx_precision import in_precision
from edge_rul.engines.tensorrt import TensorRtEngine, facts_for, profile_for
from edge_rul.engines.trt_build import Graph, Progress
from edge_rul.engines.trt_build import build as build_blob
from edge_rul.engines.waiting import Notify, extending
from edge_rul.errors import EXIT_OK, EngineError


def build_engine(
    bundle: Bundle,
    flavour: Flavour,
    precision: str,
    profile: Profile,
    target: Target | None,
    directory: Path,
    *,
    say: Say,
    progress: Progress | None = None,
) -> bytes:
    """The serialized engine. The timing cache in `directory` is used and kept. Raises EngineError."""
    m = bundle.manifest
    timing_file = directory / f"{flavour.name}-{flavour.version}.timing"
    timing = timing_file.read_bytes() if timing_file.exists() else b""
    data = in_precision(bundle.graph.read_bytes(), precision)
    graph = Graph(data, str(bundle.graph), m.window, m.network.c_in, len(m.classes))
    built = build_blob(graph, flavour, profile, target, timing=timing, progress=progress)
    if built.timing and built.timing != timing:
        try:
            keep(timing_file, built.timing)
        except OSError as e:
            say(f"{directory} cannot keep the timing cache: {e.strerror}")
    return built.engine


def compile_command(
    path: Path,
    *,
    engine: str,
    precision: str,
    target: Target | None,
    max_batch: int,
    cache: Path | None,
    again: bool,
    notify: Notify,
) -> int:
    """Build and keep what is not kept yet, and where the GPU is here, verify it.

    again: build what is kept too. Returns an exit code; raises BundleError or EngineError.
    """
    bundle = bundles.load(path)
    tolerance_of(bundle, engine, precision)
    flavour = Flavour(engine)
    directory = cache or default_directory()
    device = None
    if target is None:
        try:
            device = Cuda().device()
        except EngineError as e:
            problem, hint = f"no GPU here to build for: {e.problem}", e.hint
            if flavour.builds_ahead:
                hint = f"name the GPU that it is for, such as --target sm89; or: {e.hint}"
            raise EngineError("compile", engine, problem, hint=hint) from e
    elif not flavour.builds_ahead:
        problem = f"{flavour.name} {flavour.version} builds on the GPU that runs the engine only"
        raise EngineError("compile", engine, problem, hint="leave --target out there, or use --engine tensorrt_rtx")
    profile = profile_for(max_batch)
    facts = facts_for(bundle, flavour, flavour.place(device, target), precision, profile)
    kept = EngineCache(directory, _say)
    entry = kept.entry(facts)
    _say(f"{bundle.manifest.name} {bundle.sha256[:12]} for {engine} {flavour.version}, {precision}")
    _say(f"compute capability {facts.compute_capability}, batches of 1 to {max_batch}")
    try:
        with extending(notify, "building the TensorRT engine"), kept.alone(entry) as refusal:
            if not again and _whole(entry, facts):
                print(f"{entry.engine} is there already; --again builds it anew")
            elif refusal is not None:
                raise refusal  # before the minutes that a build takes
            else:
                began = time.monotonic()
                with _shown() as progress:
                    blob = build_engine(
                        bundle, flavour, precision, profile, target, directory, say=_say, progress=progress
                    )
                seconds = time.monotonic() - began
                store(entry, facts, blob, seconds)
                print(f"built {entry.engine} in {seconds:.1f} s: {len(blob) / 1e6:.1f} MB")
        if device is None:
            print("  not verified: the GPU that it is for is not here; the daemon verifies it before it serves")
        else:
            with TensorRtEngine(
                bundle, flavour, cache=directory, say=_say, precision=precision, max_batch=max_batch, build="never"
            ) as made:
                rul, logits = verify(made, bundle)
                made.note_parity({"rul": rul, "logits": logits})
            print(f"  golden windows off by {rul:.2g} {bundle.manifest.rul.unit}, {logits:.2g} in logits")
    except OSError as e:
        raise EngineError("compile", str(directory), f"cannot be used: {e.strerror}", hint="--cache DIR") from e
    print(f"  its facts are in {entry.sidecar.name}")
    return EXIT_OK


def _whole(entry: Entry, facts: Facts) -> bool:
    try:
        return check(entry, facts) is not None
    except Unusable as e:
        _say(f"{entry.engine.name} is built again: {e}")
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextlib.contextmanager
def _shown() -> Iterator[Progress | None]:
    """A line on the terminal that is written over; nothing where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    last = 0.0

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 0.1:
            return
        last = now
        with contextlib.suppress(OSError):  # a terminal that is gone; an error in here would end the build
            print(f"\r\x1b[2K  {phase} {step}/{steps}", end="", file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        with contextlib.suppress(OSError):
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
