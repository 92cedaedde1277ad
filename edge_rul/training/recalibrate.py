"""New intervals for a bundle, without training.

Owns the way from a bundle and its training data to the same bundle with another interval table. Must not need torch.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load as load_tensors

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.errors import BundleError
from edge_rul.training.calibrate import IntervalSettings, calibrate
from edge_rul.training.evaluate import gather


def recalibrate(bundle: Bundle, data: Path, out: Path, settings: IntervalSettings, *, replace: bool = False) -> Bundle:
    """Write the bundle at `out` with intervals by `settings`, from the lives that it kept for calibration.

    Raises BundleError where it kept none, or `out` is taken, DataError where `data` lacks them, and EngineError.
    """
    kept = gather(bundle, data, parts=("train",), trees=False).held_out
    if kept is None:
        raise BundleError("calibrate", str(bundle.path), "kept no lives for calibration that are in the data")
    manifest = bundle.manifest
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__ if name not in ("schema", "files")}
    return bundles.write(
        out,
        fields={**fields, "interval": calibrate(kept.rul, kept.true, manifest.rul.max, settings)},
        graph=bundle.graph.read_bytes(),
        weights=load_tensors(bundle.weights.read_bytes()),
        golden=bundle.golden,
        replace=replace,
    )
