"""Which engine serves: the one that is named, or the fastest exact one that is installed.

Owns the names, what each needs and how it is opened, and when the GPU is passed over. Which is fastest is measured in
`auto`. Loads the libraries of the engines in question and no others. Knows no arithmetic.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from edge_rul.bundle import Bundle
from edge_rul.config import EngineSettings
from edge_rul.engines import Engine, Say, tolerance_of, verify
from edge_rul.engines.cache import default_directory
from edge_rul.engines.failures import gpu_given_up, losses
from edge_rul.engines.flavour import FOR_A_GPU
from edge_rul.errors import EngineError

# Name: the module that it needs, the distributions that may bring it, and the extra that installs one.
_NEEDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "onnxruntime": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), ""),
    "openvino": ("openvino", ("openvino",), "openvino"),
    "tensorrt": ("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt"),
    "tensorrt_rtx": ("tensorrt_rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "tensorrt-rtx"),
    "torch": ("torch", ("torch",), "train"),
}
ON_GPU = ("tensorrt", "tensorrt_rtx")
ON_CPU = ("onnxruntime", "openvino")
NAME_A_GPU_ENGINE = "name tensorrt or tensorrt_rtx, or set provider: cuda"


class Options(NamedTuple):
    """As of `open_engine`."""

    max_batch: int
    threads: int
    precision: str
    provider: str
    build: str
    require_gpu: bool
    cache: Path | None
    say: Say


def installed() -> dict[str, str]:
    """Name -> version of the engines whose libraries are installed. Imports none of them."""
    found = {}
    for name, (module, distributions, _) in _NEEDS.items():
        if find_spec(module) is None:
            continue
        found[name] = "unknown"
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def choose(name: str, bundle: Bundle, options: Options) -> Engine:
    """As of `open_engine`, which documents it."""
    on_gpu = _on_gpu(name, options.provider)
    if options.require_gpu and not on_gpu and name != "auto":
        raise EngineError("open", name, "require_gpu is set, and this engine runs on the CPU", hint=NAME_A_GPU_ENGINE)
    given_up = gpu_given_up(options.cache or default_directory()) if on_gpu or name == "auto" else None
    if given_up and options.require_gpu:
        raise EngineError("open", name, f"{given_up}; require_gpu refuses the CPU")
    if given_up and on_gpu:
        options.say(f"{name} is not used, ONNX Runtime on the CPU serves: {given_up}")
        return open_verified("onnxruntime", bundle, options._replace(precision="float32", provider="cpu"))
    if name != "auto":
        return open_verified(name, bundle, options)
    if options.precision != "float32" or options.provider != "cpu":
        raise EngineError(
            "open",
            "auto",
            f"`auto` compares float32 engines; precision {options.precision} and provider {options.provider} "
            "are not its to take",
            hint="name the engine: reduced precision and another provider are the operator's choice",
        )
    if options.cache is None and not options.require_gpu:
        return open_verified("onnxruntime", bundle, options)
    if given_up:
        options.say(f"auto passes the GPU over: {given_up}")
    from edge_rul.engines.auto import fastest

    names = ON_GPU if options.require_gpu else ON_CPU if given_up else (*ON_CPU, *ON_GPU)
    return fastest(names, bundle, options)


class Opened(NamedTuple):
    """lost: how many times the GPU was, where the settings would use it and the CPU serves for that; else 0."""

    engine: Engine
    lost: int


def open_configured(settings: EngineSettings, bundle: Bundle, base: Path, say: Say) -> Opened:
    """The engine that the daemon's settings ask for, with its cache. base: where a relative `cache` starts."""
    cache = cache_directory(settings, base)
    wanted = settings.name == "auto" or _on_gpu(settings.name, settings.provider)
    lost = losses(cache) if wanted else 0
    options = Options(
        settings.max_batch,
        settings.threads,
        settings.precision,
        settings.provider,
        settings.build,
        settings.require_gpu,
        cache,
        say,
    )
    engine = choose(settings.name, bundle, options)
    return Opened(engine, lost if device_of(engine) == "CPU" else 0)


def device_of(engine: Engine) -> Literal["CPU", "GPU"]:
    """Where it computes."""
    return "GPU" if engine.name in ON_GPU or engine.name.startswith("onnxruntime-") else "CPU"


def _on_gpu(name: str, provider: str) -> bool:
    return name in ON_GPU or provider != "cpu"


def cache_directory(settings: EngineSettings, base: Path) -> Path:
    return base / settings.cache if settings.cache is not None else default_directory()


def open_verified(name: str, bundle: Bundle, options: Options) -> Engine:
    """Raises EngineError where the engine is not installed, does not open, or does not answer as the bundle says."""
    if name not in _NEEDS:
        raise EngineError("open", name, f"there is no such engine; there are {', '.join(_NEEDS)}")
    if name not in installed():
        module, _, extra = _NEEDS[name]
        hint = f"python -m pip install 'edge-rul[{extra}]'" if extra else "install the package again"
        hint += f"; {FOR_A_GPU}" if name in ON_GPU else ""
        raise EngineError("open", name, f"needs the Python package {module}, which is not installed", hint=hint)
    try:
        engine = _open(name, bundle, options)
    except ImportError as e:  # of a package that is there and does not load
        problem = f"the Python package {_NEEDS[name][0]} is installed, but: {e}"
        raise EngineError("open", name, problem, hint="install it and what it needs again") from e
    try:
        rul, logits = verify(engine, bundle)
        if (note := getattr(engine, "note_parity", None)) is not None:  # one that is kept in a cache
            note({"rul": rul, "logits": logits})
    except BaseException:
        engine.close()
        raise
    return engine


def _open(name: str, bundle: Bundle, options: Options) -> Engine:
    # Engines bring large libraries; only those in question are loaded.
    if name == "openvino":
        from edge_rul.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(bundle, max_batch=options.max_batch, threads=options.threads, precision=options.precision)
    if name in ("tensorrt", "tensorrt_rtx"):
        from edge_rul.engines.flavour import Flavour
        from edge_rul.engines.tensorrt import TensorRtEngine

        tolerance_of(bundle, name, options.precision)  # a build takes minutes
        return TensorRtEngine(
            bundle,
            Flavour(name),
            cache=options.cache or default_directory(),
            say=options.say,
            precision=options.precision,
            max_batch=options.max_batch,
            build=options.build,
        )
    if options.precision != "float32":
        raise EngineError("open", name, f"computes float32, not {options.precision}")
    if name == "torch":
        from edge_rul.engines.torch import TorchEngine

        return TorchEngine(bundle, max_batch=options.max_batch, threads=options.threads)
    from edge_rul.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        bundle,
        max_batch=options.max_batch,
        threads=options.threads,
        provider=options.provider,
        cache=options.cache or default_directory(),
        say=options.say,
    )
