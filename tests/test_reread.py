"""What a configuration that is read again may change, and in which words it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from edge_rul.bundle import Bundle
from edge_rul.config import load_settings
from edge_rul.errors import ConfigError
from edge_rul.reread import Serving, read

CONFIG = """
bundle: {bundle}
topics:
  readings: ["{readings}"]
  prediction: "out/{{site}}/{{line}}/{{asset}}/prediction"
  alarm: "out/{{site}}/{{line}}/{{asset}}/alarm/{{alarm}}"
  alarm_event: "out/{{site}}/{{line}}/{{asset}}/event"
"""


def reread(directory: Path, bundle: Bundle, before: str, now: str) -> Serving:
    path = directory / "edge-rul.yaml"
    engine: Any = None  # what serves is not asked
    path.write_text(CONFIG.format(bundle=bundle.path, readings=before))
    serving = Serving(*load_settings(path), bundle, engine)
    path.write_text(CONFIG.format(bundle=bundle.path, readings=now))
    return read(serving, structlog.get_logger())


def test_levels_in_another_order_are_refused_as_they_would_make_every_asset_another_one(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    problem = "topics.readings: the levels are {line}, {site}, expected {site}, {line} as before: every asset would be"
    with pytest.raises(ConfigError, match=re.escape(problem)):
        reread(tmp_path, tiny_bundle, "plant/{site}/{line}/{asset}", "{line}/x/{site}/{asset}")


def test_the_same_levels_on_another_topic_are_taken(tiny_bundle: Bundle, tmp_path: Path) -> None:
    now = reread(tmp_path, tiny_bundle, "plant/{site}/{line}/{asset}", "{site}/{asset}/of/{line}")
    assert now.settings.topics.readings == ["{site}/{asset}/of/{line}"]
