"""What a bundle declares of its inputs reaches the corridor: ranges, holding, features, smoothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul.bundle import Golden
from edge_rul.config import InputSettings, Settings, Topics, WindowSettings
from edge_rul.core.features import Feature, Readings
from edge_rul.core.pipeline import Pipeline
from edge_rul.core.smooth import Line
from edge_rul.core.tail import Numbered, Tail
from edge_rul.core.transform import Transform
from edge_rul.engines import open_engine
from edge_rul.errors import BundleError, Reason
from edge_rul.model.numpy_reference import dual_task_model, params_from_weights
from edge_rul.wiring import Subscriptions, build_outgoing, build_pipeline

FEATURES = [Feature("a", "a"), Feature("rise", "b", minus="a"), Feature("rate", "c", change="cycle")]


def parts() -> dict[str, Any]:
    """A bundle that holds a within its range, and sees a difference and a change, smoothed."""
    made = bundle_parts()
    fields = made["fields"]
    a, *others = fields["inputs"]
    fields["inputs"] = [msgspec.structs.replace(a, valid=(0.0, 99.0), missing="hold", max_hold=2), *others]
    fields |= {"features": FEATURES, "smooth": Line()}
    raw = made["golden"].windows  # (N, T, F)
    before = np.concatenate([raw[:, :1], raw[:, :-1]], axis=1)
    elapsed = np.ones((*raw.shape[:2], 2), np.int64)
    transform = Transform(
        ["a", "b", "c"],
        low=[0] * 3,
        high=[99] * 3,
        features=FEATURES,
        normaliser=fields["normaliser"],
        smoothing=Line(),
        window=fields["window"],
    )
    x = transform.apply(Readings(raw, before, elapsed)).x
    rul, logits = dual_task_model(x, params_from_weights(made["weights"], fields["network"].num_heads))
    made["golden"] = Golden(raw, rul, logits, before, elapsed)
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> bundles.Bundle:
    return bundles.write(tmp_path / "b", **parts())


def corridor(bundle: bundles.Bundle, windows: WindowSettings | None = None, **inputs: InputSettings) -> Pipeline:
    settings = Settings(
        bundle="b", topics=Topics(readings=["in/{asset}"]), inputs=inputs, windows=windows or WindowSettings()
    )
    with open_engine("onnxruntime", bundle) as engine:  # which computes the golden windows
        return build_pipeline(settings, bundle, engine, build_outgoing(settings), "j")


def send(pipeline: Pipeline, values: list[float | None]) -> None:
    """a of successive cycles, to the end; then all are applied."""
    tail = Tail(100)
    for cycle, a in enumerate(values):
        payload = json.dumps({"cycle": cycle, "values": {"a": a, "b": 20.0, "c": 30.0 + cycle}}).encode()
        for entry in pipeline.decode("in/x", payload, 0).entries:
            tail.append([Numbered(tail.last + 1, entry)])
    while pipeline.fill(tail, tail.last) is not None:
        pass


def test_the_bundle_says_what_becomes_of_missing_and_impossible_values(bundle: bundles.Bundle) -> None:
    pipeline = corridor(bundle)
    send(pipeline, [10.0, None, 500.0, 11.0, 12.0, None, None, None])
    assert not pipeline.dropped
    assert pipeline.counts["readings"] == 8
    assert (pipeline.counts["invalid_values"], pipeline.counts["held_too_long"]) == (1, 1)


@pytest.mark.parametrize("found", [b"", b"{", b"{}", b'["\xff"]'])
def test_what_cannot_be_read_of_earlier_subscriptions_costs_only_their_end(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "subscriptions.json").write_bytes(found)
    kept = Subscriptions(tmp_path)
    assert kept.load() == []
    kept.save(["in/+"])
    assert Subscriptions(tmp_path).load() == ["in/+"]


def test_a_cycle_is_as_long_as_the_configuration_says_or_else_the_bundle(tmp_path: Path) -> None:
    made = bundle_parts()
    made["fields"]["seconds_per_cycle"] = 10.0
    bundle = bundles.write(tmp_path / "b", **made)
    for windows, gaps in ((WindowSettings(), 3), (WindowSettings(seconds_per_cycle=20), 1)):
        pipeline, tail = corridor(bundle, windows), Tail(100)
        for second in (0, 10, 50):
            payload = json.dumps({"ts": 1_767_225_600_000 + second * 1000, "values": [1.0, 2.0, 3.0]}).encode()
            tail.append(
                [Numbered(tail.last + 1, e) for e in pipeline.decode("in/x", payload, 1_767_225_700_000).entries]
            )
        while pipeline.fill(tail, tail.last) is not None:
            pass
        assert pipeline.counts["gaps"] == gaps


@pytest.mark.parametrize(
    ("windows", "trained", "held", "restarted"),
    [
        (WindowSettings(), None, 3, True),
        (WindowSettings(), 1, 1, True),
        (WindowSettings(), 0, 0, True),
        (WindowSettings(max_gap=2), 1, 2, True),
        (WindowSettings(max_gap=0, beyond_gap="span"), 1, 0, False),
    ],
)
def test_a_gap_is_held_and_a_longer_one_restarts_the_window_as_configured_or_else_as_in_training(
    tmp_path: Path, windows: WindowSettings, trained: int | None, held: int, restarted: bool
) -> None:
    made = bundle_parts()  # of a window of 5
    made["fields"]["max_gap"] = trained
    bundle = bundles.write(tmp_path / "b", **made)
    for gap in range(5):
        pipeline, tail = corridor(bundle, windows), Tail(100)
        for cycle in (1, 2, 3, 4, 5 + gap):
            payload = json.dumps({"cycle": cycle, "values": [cycle, 2.0, 3.0]}).encode()
            tail.append([Numbered(tail.last + 1, entry) for entry in pipeline.decode("in/x", payload, 0).entries])
        batch = pipeline.fill(tail, tail.last)
        assert batch is not None
        shown = [1, 2, 3, 4, *([4] * gap if gap <= held else []), 5 + gap][-5:]
        anew = gap > held and restarted
        assert [window[:, 0].tolist() for window in batch.raw.values] == ([] if anew else [shown])
        assert pipeline.counts["restarted"] == anew


def test_the_configuration_goes_before_the_bundle_for_what_is_missing(bundle: bundles.Bundle) -> None:
    pipeline = corridor(bundle, a=InputSettings(missing="reject"))
    send(pipeline, [10.0, None, 500.0, 11.0])
    assert pipeline.dropped == {Reason.MISSING_INPUT: 1}
    assert pipeline.counts["invalid_values"] == 1  # held, as the bundle says


def test_a_bundle_of_features_is_read_back_and_its_golden_windows_carry_the_readings_before(
    bundle: bundles.Bundle, tmp_path: Path
) -> None:
    assert bundle.manifest.seen == FEATURES
    assert bundle.golden_inputs.shape == (6, 5, 3)
    made = parts()
    golden = made["golden"]
    made["golden"] = Golden(golden.windows, golden.rul, golden.logits)
    with pytest.raises(BundleError, match=r"expected .*'before': "):
        bundles.write(tmp_path / "without", **made)


def test_a_feature_of_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    made = parts()
    made["fields"]["features"] = [*FEATURES[:2], Feature("x", "d")]
    with pytest.raises(BundleError, match="feature x is of d; the inputs are a, b, c"):
        bundles.write(tmp_path / "wrong", **made)
