"""TensorRT and TensorRT for RTX: one API, and what differs between them. The only place that knows which one it is.

Owns the module, its logger, and every call that one flavour has and the other has not:

                              tensorrt 10.x, 11.x           tensorrt_rtx
    where an engine is built  on the GPU that runs it       anywhere, for a target; on the GPU, for it
    an engine depends on      GPU, driver, version          compute capability, version
    kept beside the engine    timing cache, for building    compiled kernels, for the next start (runtime cache)
    CUDA graphs               none that it offers           its own, whole graph

Strong typing is asked for in both: 10.x needs the flag, 11.x ignores it. Must not know bundles, caches or CUDA memory.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any, NamedTuple

from edge_rul.engines import Say
from edge_rul.engines.cuda import Device
from edge_rul.errors import EngineError

ANY = "any"
FOR_A_GPU = "docs/engines.md, On a GPU, says what suits an older driver, and a Jetson"


class Target(NamedTuple):
    """A GPU that an engine is built for ahead of time. sm: as "89"."""

    sm: str

    @property
    def compute_capability(self) -> str:
        return f"{self.sm[:-1]}.{self.sm[-1]}"


def parse_target(text: str) -> Target:
    """ "sm89" or "8.9". Raises ValueError."""
    if match := re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.lower()):
        return Target(match[1] + match[2])
    raise ValueError(f"expected a compute capability such as sm89 or 8.9, found {text!r}")


_loggers: dict[int, tuple[Any, Any]] = {}  # id of a module -> the module, so that the id stays its own, and the logger


class Flavour:
    """One of the two modules. Raises EngineError where it is not installed or does not load."""

    def __init__(self, name: str, module: Any = None) -> None:
        self.name = name
        if module is None:
            try:
                module = importlib.import_module(name)
            except (ImportError, OSError) as e:  # OSError: its libraries are absent
                extra = name.replace("_", "-")
                hint = f"python -m pip install 'edge-rul[{extra}]'; {FOR_A_GPU}"
                raise EngineError("open", name, f"the Python package {name} does not load: {e}", hint=hint) from None
        self.trt: Any = module
        self.version: str = module.__version__
        # TensorRT uses the first logger of a process and ignores a second.
        self.logger: Any = _loggers.setdefault(id(module), (module, _logger(module)))[1]

    @property
    def heard(self) -> list[str]:
        """The errors that TensorRT logged of late, each in one line."""
        heard: list[str] = self.logger.heard
        return heard

    @property
    def builds_ahead(self) -> bool:
        """Whether it can build for a GPU that is not here."""
        return hasattr(self.trt, "ComputeCapability")

    def place(self, device: Device | None, target: Target | None) -> tuple[str, str, str]:
        """(GPU, compute capability, driver) that an engine depends on; "any" where it does not."""
        if self.builds_ahead:
            if target is None and device is None:
                raise ValueError("neither a GPU nor a target")
            return ANY, target.compute_capability if target else device.compute_capability, ANY  # type: ignore[union-attr]
        if device is None:
            raise ValueError("no GPU")
        return device.name, device.compute_capability, device.driver

    def targets(self) -> list[str]:
        """What it can build for ahead of time, as "89"; empty where it cannot."""
        if not self.builds_ahead:
            return []
        return sorted((n[2:] for n in dir(self.trt.ComputeCapability) if re.fullmatch(r"SM\d+", n)), key=int)

    def aim(self, config: Any, target: Target | None) -> None:
        """Set what `config` builds for. Raises EngineError where the flavour has no such target."""
        if target is None:
            if self.builds_ahead:
                config.num_compute_capabilities = 1
                config.set_compute_capability(self.trt.ComputeCapability.CURRENT, 0)
            return
        if target.sm not in (known := self.targets()):
            offer = f"it has sm{', sm'.join(known)}" if known else "it builds on the GPU that runs the engine only"
            raise EngineError("compile", self.name, f"{self.version} has no target sm{target.sm}; {offer}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(self.trt.ComputeCapability, f"SM{target.sm}"), 0)

    def use_timing(self, config: Any, stored: bytes) -> bool:
        """Give `config` the timing cache, empty where `stored` is another version's or GPU's. False where none is."""
        if self.builds_ahead:
            return False  # its methods exist, do nothing, and warn
        for content in (stored, b""):
            cache = config.create_timing_cache(content)  # None, as another version's
            if cache is not None and config.set_timing_cache(cache, False):  # False, as another GPU's
                return True
        return False

    def timing(self, config: Any) -> bytes:
        return bytes(memoryview(config.get_timing_cache().serialize()))

    def context(self, engine: Any, kernels: bytes, say: Say) -> tuple[Any, Any]:
        """An execution context, and the cache of compiled kernels where the flavour keeps one, filled with `kernels`.

        Where the flavour captures CUDA graphs by itself, it is told to.
        """
        strategy = getattr(self.trt, "CudaGraphStrategy", None)
        if strategy is None:
            return engine.create_execution_context(), None
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        if kernels and not cache.deserialize(kernels):
            say("the kept kernels are of another version or GPU: they are compiled again")
            cache.reset()
        config.set_runtime_cache(cache)
        return engine.create_execution_context(config), cache

    def may_capture(self, context: Any, stream: int) -> bool:
        """Whether a CUDA graph is worth capturing by hand: the flavour does not, and the context allows it."""
        if hasattr(self.trt, "CudaGraphStrategy"):
            return False
        asks = getattr(context, "is_stream_capturable", None)
        return asks is not None and bool(asks(stream))

    def said(self) -> str:
        """The last error that TensorRT logged, in one line; for a call that only answers None."""
        return self.heard[-1] if self.heard else "it gave no reason"


def _logger(module: Any) -> Any:
    """TensorRT's errors, kept for the message of what failed; the rest of its log is dropped."""

    class Logger(module.ILogger):  # type: ignore[misc]
        heard: list[str]

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.heard = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.heard.append(" ".join(message.split()))
                del self.heard[:-20]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Logger()
