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
from edge_rul.engines import Say, verify
from edge_rul.engines.cache import EngineCache, Profile, default_directory, store, write_whole
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
    notify: Notify = lambda *_: None,
    progress: Progress | None = None,
) -> bytes:
    """The serialized engine. The timing cache in `directory` is used and kept. Raises EngineError."""
    m = bundle.manifest
    timing_file = directory / f"{flavour.name}-{flavour.version}.timing"
    timing = timing_file.read_bytes() if timing_file.exists() else b""
    with extending(notify, "building the TensorRT engine"):
        data = in_precision(bundle.graph.read_bytes(), precision)
        graph = Graph(data, str(bundle.graph), m.window, m.network.c_in, len(m.classes))
        built = build_blob(graph, flavour, profile, target, timing=timing, progress=progress)
    if built.timing and built.timing != timing:
        try:
            write_whole(timing_file, built.timing)
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
    notify: Notify,
) -> int:
    """Build, keep, and where the GPU is here, verify. Returns an exit code; raises BundleError or EngineError."""
    bundle = bundles.load(path)
    flavour = Flavour(engine)
    directory = cache or default_directory()
    device = None
    if target is None:
        try:
            device = Cuda().device()
        except EngineError as e:
            hint = "name the GPU that it is for, such as --target sm89" if flavour.builds_ahead else e.hint
            problem = f"{flavour.name} {flavour.version} builds on the GPU that runs the engine, and there is none here"
            if flavour.builds_ahead:
                problem = f"no GPU here to build for: {e.problem}"
            raise EngineError("compile", engine, problem, hint=hint) from e
    elif not flavour.builds_ahead:
        problem = f"{flavour.name} {flavour.version} builds on the GPU that runs the engine only"
        raise EngineError("compile", engine, problem, hint="leave --target out there, or use --engine tensorrt_rtx")
    profile = profile_for(max_batch)
    facts = facts_for(bundle, flavour, flavour.place(device, target), precision, profile)
    entry = EngineCache(directory, _say).entry(facts)
    _say(f"{bundle.manifest.name} {bundle.sha256[:12]} for {engine} {flavour.version}, {precision}")
    _say(f"compute capability {facts.compute_capability}, batches of 1 to {max_batch}")
    began = time.monotonic()
    with _shown() as progress:
        blob = build_engine(
            bundle, flavour, precision, profile, target, directory, say=_say, notify=notify, progress=progress
        )
    seconds = time.monotonic() - began
    try:
        store(entry, facts, blob, seconds)
        parity = None
        if device is not None:
            with TensorRtEngine(
                bundle, flavour, cache=directory, say=_say, precision=precision, max_batch=max_batch, build="never"
            ) as made:
                rul, logits = verify(made, bundle)
            parity = {"rul": rul, "logits": logits}
            store(entry, facts, blob, seconds, parity)
    except OSError as e:
        raise EngineError("compile", str(directory), f"cannot be written: {e.strerror}", hint="--cache DIR") from e
    print(f"built {entry.engine} in {seconds:.1f} s: {len(blob) / 1e6:.1f} MB")
    if parity is None:
        print("  not verified: the GPU that it is for is not here; the daemon verifies it before it serves")
    else:
        print(
            f"  golden windows off by {parity['rul']:.2g} {bundle.manifest.rul.unit}, {parity['logits']:.2g} in logits"
        )
    print(f"  its facts are in {entry.sidecar.name}")
    return EXIT_OK


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
        print(f"\r\x1b[2K  {phase} {step}/{steps}", end="", file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
