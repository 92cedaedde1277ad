"""Stubs of TensorRT's Python binding, for tests on machines that cannot load it.

    pip download --no-deps --dest DIR tensorrt-cu13-bindings==11.4.0.106 && unzip DIR/*.whl -d DIR
    python tools/binding_stubs.py DIR/tensorrt_bindings/tensorrt.so > tests/data/tensorrt-11.4.pyi

The binding is on the package index, NVIDIA's libraries are not, and it carries no stubs. It loads with libraries in
their place whose functions, under the same names, do nothing (this needs `cc` and `nm`); the signatures stand in its
docstrings. Printed are those that edge_rul calls, the first where a method has several, without types.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# What the engines call, with how many arguments; None: read, or set.
CALLS: dict[str, dict[str, int | None]] = {
    "Builder": {
        "__init__": 1,
        "build_serialized_network": 2,
        "create_builder_config": 0,
        "create_network": 1,
        "create_optimization_profile": 0,
    },
    "BuilderFlag": {"TF32": None},
    "DataType": {"FLOAT": None},
    "IBuilderConfig": {
        "add_optimization_profile": 1,
        "clear_flag": 1,
        "create_timing_cache": 1,
        "get_timing_cache": 0,
        "progress_monitor": None,
        "set_memory_pool_limit": 2,
        "set_timing_cache": 2,
    },
    "ICudaEngine": {
        "create_execution_context": 0,
        "get_tensor_name": 1,
        "get_tensor_shape": 1,
        "num_io_tensors": None,
    },
    "IExecutionContext": {"execute_async_v3": 1, "set_input_shape": 2, "set_tensor_address": 2},
    "ILogger": {"Severity": None, "__init__": 0, "log": 2},
    "INetworkDefinition": {"get_input": 1, "get_output": 1, "num_inputs": None, "num_outputs": None},
    "IOptimizationProfile": {"set_shape": 4},
    "IProgressMonitor": {"__init__": 0, "phase_finish": 1, "phase_start": 3, "step_complete": 2},
    "ITensor": {"dtype": None, "name": None, "shape": None},
    "ITimingCache": {"serialize": 0},
    "MemoryPoolType": {"WORKSPACE": None},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED": None},
    "OnnxParser": {"__init__": 2, "get_error": 1, "num_errors": None, "parse": 1},
    "ParserError": {"desc": 0},
    "Runtime": {"__init__": 1, "deserialize_cuda_engine": 1},
}
RTX_CALLS: dict[str, dict[str, int | None]] = {
    **CALLS,
    "CudaGraphStrategy": {"WHOLE_GRAPH_CAPTURE": None},
    "ComputeCapability": {"CURRENT": None, "SM89": None},
    "IBuilderConfig": {**CALLS["IBuilderConfig"], "num_compute_capabilities": None, "set_compute_capability": 2},
    "ICudaEngine": {**CALLS["ICudaEngine"], "create_execution_context": 1, "create_runtime_config": 0},
    "IRuntimeCache": {"deserialize": 1, "reset": 0, "serialize": 0},
    "IRuntimeConfig": {"create_runtime_cache": 0, "cuda_graph_strategy": None, "set_runtime_cache": 1},
}


def stubs(module: Any, calls: dict[str, dict[str, int | None]]) -> str:
    """The module's part that is called, as Python."""
    lines: list[str] = []
    for name, members in calls.items():
        lines += ["", "", f"class {name}:"] if lines else [f"class {name}:"]
        for member in members:
            if not hasattr(getattr(module, name, None), member):
                continue
            said = getattr(getattr(module, name), member).__doc__ or ""
            if (found := re.search(rf"^\s*(?:1\. )?{member}\((self[^*\n]*)\)(?: ->|$)", said, re.M)) is None:
                lines.append(f"    {member} = ...")
                continue
            parts = re.split(r", (?=\w+:)", found[1])
            arguments = ", ".join(p.split(":")[0] + ("=..." if " = " in p else "") for p in parts)
            lines.append(f"    def {member}({arguments}): ...")
    return "\n".join(lines)


def load(path: Path) -> Any:
    """The binding, without NVIDIA's libraries. To be called in a process that was started with them in its path."""
    loader = importlib.machinery.ExtensionFileLoader("tensorrt", str(path))
    spec = importlib.util.spec_from_file_location("tensorrt", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def stand_ins(path: Path, directory: Path) -> None:
    """A library in `directory` for each of NVIDIA's that the binding asks for, with all functions that it lacks."""
    lacks = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    names = [n for line in lacks.splitlines() if re.fullmatch(r"(create|get[A-Z]|init)\w+", n := line.split()[-1])]
    source = directory / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
    for library in set(re.findall(rb"lib(?:nv|tensorrt)\w+\.so\.\d+", path.read_bytes())):
        target = directory / library.decode()
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, source], check=True)


def main(path: Path) -> int:
    if os.environ.get("BINDING_STAND_INS"):
        print(f'"""TensorRT\'s binding, by tools/binding_stubs.py from {path.name}."""\n\n\n{stubs(load(path), CALLS)}')
        return 0
    with tempfile.TemporaryDirectory() as directory:
        stand_ins(path, Path(directory))
        environment = {**os.environ, "LD_LIBRARY_PATH": directory, "BINDING_STAND_INS": "1"}
        return subprocess.run([sys.executable, __file__, path], env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} tensorrt.so")
    sys.exit(main(Path(sys.argv[1])))
