"""Which of OpenVINO's reduced precisions this machine's CPU computes: a matter of the machine, in CI too."""

from __future__ import annotations

import pytest
from conftest import absent

from edge_rul.bundle import Bundle
from edge_rul.engines.choose import installed
from edge_rul.errors import EngineError


def reduced_or_skip(bundle: Bundle, precision: str) -> None:
    if "openvino" not in installed():
        absent("the package openvino")
    from edge_rul.engines.openvino import OpenVinoEngine

    try:
        OpenVinoEngine(bundle, precision=precision).close()
    except EngineError as e:
        if "this CPU" not in e.problem:
            raise
        pytest.skip(e.problem)
