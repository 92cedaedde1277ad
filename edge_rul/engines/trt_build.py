"""From the inference graph to a serialized TensorRT engine.

Owns parsing, the check of what was parsed, the one optimisation profile, and the settings of the build: strongly
typed, so that the precision is the graph's; TF32 off, whose 10 bits of mantissa are no float32. Runs without a GPU
where the flavour builds ahead of time. Must not know caches, bundles' directories or the engine's run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edge_rul.engines.cache import Profile
from edge_rul.engines.flavour import Flavour, Target
from edge_rul.errors import EngineError

_WORKSPACE = 1 << 30  # bytes that a kernel may use while it is tried

Progress = Callable[[str, int, int], None]  # phase, step, steps


class Built(NamedTuple):
    """timing: of the kernels that were tried, for the next build; empty where the flavour keeps none."""

    engine: bytes
    timing: bytes


class Graph(NamedTuple):
    """What is built. data: ONNX, in its own precision. source: its file, for messages. window, inputs, classes: of the
    manifest, which the graph has to agree with."""

    data: bytes
    source: str
    window: int
    inputs: int
    classes: int


class Plan(NamedTuple):
    """A build that is ready to run, to be looked at before: an engine tells nothing where there is no GPU.

    timed: whether the build has a timing cache.
    """

    builder: Any
    network: Any
    config: Any
    shapes: Any
    timed: bool


def build(
    graph: Graph,
    flavour: Flavour,
    profile: Profile,
    target: Target | None,
    *,
    timing: bytes = b"",
    progress: Progress | None = None,
) -> Built:
    """The engine of `graph` for `target`, or the GPU at hand. Raises EngineError."""
    plan = prepare(graph, flavour, profile, target, timing)
    if progress is not None:
        plan.config.progress_monitor = _monitor(flavour, progress)
    blob = plan.builder.build_serialized_network(plan.network, plan.config)
    if blob is None:
        where = f"for sm{target.sm}" if target else "for this GPU"
        raise EngineError("compile", flavour.name, f"{flavour.version} builds no engine {where}: {flavour.said()}")
    return Built(bytes(memoryview(blob)), flavour.timing(plan.config) if plan.timed else b"")


def prepare(graph: Graph, flavour: Flavour, profile: Profile, target: Target | None, timing: bytes = b"") -> Plan:
    """Parse and check the graph, and set up its build. Raises EngineError."""
    trt = flavour.trt
    flavour.heard.clear()
    builder = trt.Builder(flavour.logger)
    network = _parse(graph, flavour, builder)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    shapes = builder.create_optimization_profile()
    shapes.set_shape("x", *((size, graph.window, graph.inputs) for size in (profile.min, profile.opt, profile.max)))
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError("compile", flavour.name, f"refuses the batch sizes {profile}: {flavour.said()}")
    flavour.aim(config, target)
    return Plan(builder, network, config, shapes, flavour.use_timing(config, timing))


def _parse(graph: Graph, flavour: Flavour, builder: Any) -> Any:
    """The graph as a strongly typed network: inputs and outputs float32 of the manifest's shapes, the batch free."""
    trt = flavour.trt
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, flavour.logger)
    if not parser.parse(graph.data):
        reasons = "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))
        problem = f"{flavour.name} {flavour.version} does not parse the graph: {reasons}"
        raise EngineError("compile", graph.source, problem)
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = {t.name: (t.dtype, list(t.shape)) for t in tensors}
    float32 = trt.DataType.FLOAT
    expected = {
        "x": (float32, [-1, graph.window, graph.inputs]),
        "rul": (float32, [-1]),
        "logits": (float32, [-1, graph.classes]),
    }
    if found != expected:
        raise EngineError("compile", graph.source, f"has inputs and outputs {found}, expected {expected}")
    return network


def _monitor(flavour: Flavour, progress: Progress) -> Any:
    base: Any = flavour.trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            progress(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            progress(name, step + 1, self._steps.get(name, step + 1))
            return True  # go on

        def phase_finish(self, name: str) -> None:
            steps = self._steps.pop(name, 1)
            progress(name, steps, steps)

    return Monitor()
