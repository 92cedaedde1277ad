"""What the engines call is in NVIDIA's own bindings, and takes our arguments.

Of the classic flavour these are stubs that tools/binding_stubs.py made: its libraries are not on the package index.
That the calls also do what we think takes a GPU.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from binding_stubs import CALLS, RTX_CALLS, stubs
from conftest import absent
from engines import fake_gpu

from edge_rul.engines.flavour import Flavour

DATA = Path(__file__).parents[1] / "data"


def classes(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(text, found)
    return found


def check(found: dict[str, Any], calls: dict[str, dict[str, int | None]]) -> None:
    for name, members in calls.items():
        for member, arguments in members.items():
            assert hasattr(found[name], member), f"{name}.{member}"
            value = getattr(found[name], member)
            assert callable(value) == (arguments is not None), f"{name}.{member}"
            if arguments is not None:
                inspect.signature(value).bind(None, *range(arguments))


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_the_classic_binding_takes_our_calls(version: str) -> None:
    check(classes((DATA / f"tensorrt-{version}.pyi").read_text()), CALLS)


def test_the_rtx_binding_takes_our_calls() -> None:
    if find_spec("tensorrt_rtx") is None:
        absent("the package tensorrt-rtx-cu13")
    rtx = Flavour("tensorrt_rtx")
    check(classes(stubs(rtx.trt, RTX_CALLS)), RTX_CALLS)
    assert rtx.trt.Runtime(rtx.logger).deserialize_cuda_engine(b"no engine") is None
    assert rtx.said() != "it gave no reason"


def test_the_fake_one_has_no_call_that_is_not_in_this_list() -> None:
    """Else a test on a fake GPU would accept what a real one does not have."""
    fakes = {
        "IExecutionContext": fake_gpu.Context,
        "ICudaEngine": fake_gpu.Engine,
        "IBuilderConfig": fake_gpu.BuilderConfig,
        "INetworkDefinition": fake_gpu.Network,
        "IRuntimeCache": fake_gpu.RuntimeCache,
        "IRuntimeConfig": fake_gpu.RuntimeConfig,
    }
    for name, fake in fakes.items():
        methods = {m for m, value in vars(fake).items() if callable(value) and not m.startswith("_")}
        assert methods <= set(RTX_CALLS[name]), name
