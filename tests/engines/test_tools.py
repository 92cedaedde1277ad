"""The benchmarks run, and say what they claim to; how fast anything is stands in no test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bench_engines
import bench_start
import pytest
import reduced_precision
from conftest import absent
from engines.precisions import reduced_or_skip

from bundles import make_bundle
from edge_rul.bundle import Bundle
from edge_rul.engines import open_engine
from edge_rul.errors import EngineError


def test_the_table_of_engines(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny_bundle.path), "--batches", "1,3", "--seconds", "0.01", "--engines", "onnxruntime,openvino int8"]
    assert bench_engines.main([*command, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {(r["engine"], r["batch"]) for r in table["rows"]} >= {("onnxruntime", 1), ("onnxruntime", 3)}
    for row in table["rows"]:
        assert row["calls"] >= 5
        assert row["windows_per_s"] * row["p50_ms"] / 1e3 == pytest.approx(row["batch"])
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["windows_per_s"] <= row["windows_per_s_best"]
        assert row["factor"] is None
    assert bench_engines.main(command) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_the_work_of_a_window_is_that_of_the_network(shipped_bundle: Path) -> None:
    from edge_rul import bundle

    assert 135e6 < bench_engines.flop(bundle.load(shipped_bundle)) < 145e6


def test_a_measured_tolerance_makes_a_precision_usable(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(EngineError, match="no tolerance for precision int8") as caught:
        open_engine("openvino", bundle, precision="int8")
    assert "reduced_precision.py" in caught.value.hint
    made = reduced_precision.write_tolerances(
        bundle, {"int8": {"largest_difference": 2.0, "largest_difference_logits": 1.0}}
    )
    assert made.manifest.tolerance["float32"] == bundle.manifest.tolerance["float32"]
    assert made.manifest.tolerance["int8"].rul == 4.0
    assert made.manifest.files == bundle.manifest.files, "nothing but the manifest changed"
    reduced_or_skip(made, "int8")
    open_engine("openvino", made, precision="int8").close()


def test_a_precision_that_is_far_off_gets_no_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "b")
    made = reduced_precision.write_tolerances(
        bundle, {"int8": {"largest_difference": 116.6, "largest_difference_logits": 9.0}}
    )
    assert set(made.manifest.tolerance) == {"float32"}
    assert "too far from float32" in capsys.readouterr().err


def test_what_the_daemon_costs(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        absent("mosquitto (apt-get install mosquitto)")
    assert bench_start.main([str(tiny_bundle.path), "--assets", "3", "--load", "0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["torch_loaded"] is False
    assert 0 < result["ready"]["rss_mb"] <= result["with_assets"]["peak_mb"]
    assert result["ready"]["cpu_s"] > 0
    assert result["load"]["predictions_per_s"] > 0
