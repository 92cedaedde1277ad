"""Which installed float32 engine is the fastest here, measured once and kept.

Owns the measurement and what makes a kept one valid. Must not know how an engine is opened, nor what runs on a GPU
beyond its name.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import Engine
from edge_rul.engines.cache import default_directory, write_json
from edge_rul.engines.choose import NAME_A_GPU_ENGINE, ON_GPU, Options, installed, open_verified
from edge_rul.engines.cuda import GpuTaken
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EngineError
from edge_rul.kept import load

# Another engine than ONNX Runtime costs its library and memory, so it has to be worth that.
_WORTH = 1.1
_ROUNDS = 7
_JETSON = ("/dev/nvhost-gpu", "/dev/nvgpu", "/dev/nvmap")


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kept measurement. rates: windows/s by engine."""

    facts: dict[str, str]
    engine: str
    rates: dict[str, float]


def fastest(names: Iterable[str], bundle: Bundle, options: Options) -> Engine:
    """The engine of the kept measurement of the installed ones among `names`, or of a new one."""
    cache = options.cache or default_directory()
    here = installed()
    gpu = nvidia_driver()
    # Their libraries cost 0.2 s and 120 MB, for nothing where there is no driver.
    candidates = [n for n in names if n in here and (gpu or options.require_gpu or n not in ON_GPU)]
    facts = {
        "bundle": bundle.sha256,
        "cpu": _cpu(),
        "gpu": gpu,
        "threads": str(options.threads or usable_threads()),
        "max_batch": str(options.max_batch),
        **{name: here[name] for name in candidates},
    }
    digest = hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()
    path = cache / f"auto-{digest[:20]}.json"
    kept = load(path, Choice)
    if kept is not None and kept.facts == facts and kept.engine in candidates:
        try:
            return open_verified(kept.engine, bundle, options)
        except EngineError as e:
            options.say(f"{kept.engine}, the fastest engine so far, does not open any more: {e}")
    engine, rates, refused = _measure(candidates, bundle, options)
    # What refused may be mended with none of the facts changed: a right to open the GPU, a package beside.
    if not refused:
        write_json(path, Choice(facts, engine.name, rates), options.say)
    return engine


def _measure(
    candidates: list[str], bundle: Bundle, options: Options
) -> tuple[Engine, dict[str, float], dict[str, EngineError]]:
    """Open and time each; the winner, all others closed, with windows/s and the errors of those that refuse."""
    golden = bundle.golden_inputs  # (N, T, F)
    x = np.resize(golden, (options.max_batch, *golden.shape[1:]))  # (max_batch, T, F)
    engines: dict[str, Engine] = {}
    refused: dict[str, EngineError] = {}
    try:
        for name in candidates:
            try:
                engines[name] = open_verified(name, bundle, options)
            except EngineError as e:
                refused[name] = e
                options.say(f"auto: {name} does not serve here: {e.problem}")
        if not engines:
            raise _none_serves(refused, options)
        rates = {name: len(x) / seconds for name, seconds in _times(engines, x).items()}
        best = max(engines, key=lambda name: rates[name])
        if rates[best] < _WORTH * rates.get("onnxruntime", 0.0):
            best = "onnxruntime"
        figures = ", ".join(f"{name} {rate:.0f} windows/s" for name, rate in rates.items())
        options.say(f"auto: {best} serves; measured at a batch of {len(x)}: {figures}")
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    for name, engine in engines.items():
        if name != best:
            engine.close()
    return engines[best], rates, refused


def _none_serves(refused: dict[str, EngineError], options: Options) -> EngineError:
    """What the start ends with: where others hold the GPU, that, since a later start may find it free."""
    errors = list(refused.values())
    if taken := [e for e in errors if isinstance(e, GpuTaken)]:
        return taken[-1]
    reasons = "; ".join(f"{name}: {e.problem}" for name, e in refused.items()) or "none is installed"
    hint = NAME_A_GPU_ENGINE if options.require_gpu else errors[-1].hint if errors else ""
    return EngineError("open", "auto", f"no engine serves this bundle: {reasons}", hint=hint)


def _times(engines: dict[str, Engine], x: Array) -> dict[str, float]:
    """Median seconds of a call. In turn, so that what else the machine does falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.infer(x)
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}  # the first call allocates


def nvidia_driver() -> str:
    """What tells one NVIDIA driver from another without loading a library; empty where there is none."""
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return next((name for name in _JETSON if Path(name).exists()), "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return f"{platform.machine()} {names[0] if names else platform.processor()}".strip()
