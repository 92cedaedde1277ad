"""What a bundle is worth on lives that it has not seen.

Owns the standard protocol and the predictions that it judges: the bundle's own graph, normaliser and engine, so that
what ships is what is measured. Must not need torch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_rul.bundle import Bundle
from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array
from edge_rul.engines import infer_all, open_engine
from edge_rul.errors import BundleError
from edge_rul.training import dataset
from edge_rul.training.clean import Rule
from edge_rul.training.format import Protocol
from edge_rul.training.metrics import scores
from edge_rul.training.parts import Part
from edge_rul.training.table import Table
from edge_rul.training.windows import full_windows, labels, last_windows

BATCH = 64  # ONNX Runtime is fastest between 16 and 64


class Report(msgspec.Struct, frozen=True):
    """Figures on test lives by the data set's protocol: the last window of each, or all full windows; labels capped.

    engines: lives. padded: those shorter than the window, padded at the front by repeating their first reading. rmse,
    mae, bias, cap in `unit`, over the windows whose RUL is known; bias is predicted - true. nasa_score: only for last
    windows, since it is a sum over lives.
    """

    bundle: str
    sha256: str
    subset: str
    protocol: Protocol
    engines: int
    windows: int
    padded: int
    unit: str
    cap: float
    rmse: float
    mae: float
    bias: float
    nasa_score: float | None
    accuracy: float
    macro_f1: float


def predict_windows(bundle: Bundle, readings: Readings, *, threads: int = 0) -> tuple[Array, Array]:
    """(N, T) readings -> rul (N,) in the bundle's unit and logits (N, C), as the daemon computes them.

    The graph is verified on the bundle's golden windows first; raises EngineError where it disagrees.
    """
    # By name, so that the figures do not depend on what else is installed.
    with open_engine("onnxruntime", bundle, max_batch=BATCH, threads=threads) as engine:
        return infer_all(engine, bundle.manifest.transform.apply(readings).x)


def dataset_of(bundle: Bundle) -> dataset.DatasetSettings:
    """Which data set the bundle was trained on, and how it is split."""
    try:
        settings: dataset.DatasetSettings = msgspec.convert(
            bundle.manifest.training["dataset"], dataset.DatasetSettings
        )
    except (KeyError, msgspec.ValidationError) as e:
        raise BundleError("evaluate", str(bundle.path), f"training.dataset names no data set: {e}") from e
    return settings


def load_table(bundle: Bundle, data_dir: Path, part: Part) -> Table:
    """The lives of the data set that the bundle was trained on, with the bundle's inputs, as the daemon would take them
    in. Raises DataError."""
    manifest = bundle.manifest
    rules = [Rule(i.name, i.valid, i.missing, i.max_hold) for i in manifest.inputs]
    return dataset.load(dataset_of(bundle), data_dir, part, rules, manifest.rul.unit)


def evaluate(bundle: Bundle, data_dir: Path, *, threads: int = 0) -> Report:
    """Judge the bundle on the test lives in `data_dir`. Raises DataError, BundleError or EngineError."""
    manifest, settings = bundle.manifest, dataset_of(bundle)
    table = load_table(bundle, data_dir, "test")
    cut = {"last_windows": last_windows, "all_windows": full_windows}[settings.protocol]
    windows = cut(table, manifest.window)
    true = labels(windows, manifest.rul.max, manifest.classes)
    rul, logits = predict_windows(bundle, windows.readings(before=manifest.transform.changes), threads=threads)
    figures = msgspec.structs.asdict(scores(rul, logits, true.rul, true.health, true.is_lower_bound))
    if settings.protocol != "last_windows":
        figures["nasa_score"] = None
    return Report(
        bundle=manifest.name,
        sha256=bundle.sha256,
        subset=settings.called,
        protocol=settings.protocol,
        engines=len(table.starts),
        windows=len(windows),
        padded=int((windows.padding > 0).sum()),
        unit=manifest.rul.unit,
        cap=manifest.rul.max,
        **figures,
    )
