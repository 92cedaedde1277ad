"""A trained model to a bundle.

Owns what goes into one: the graph, the weights in the RUL's unit, golden windows, ranges of the inputs, provenance and
validation figures. Must not know how the model was fitted. Nothing of the clock or of this machine's paths goes in, so
that one run gives one bundle.
"""

from __future__ import annotations

import copy
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle, Golden, Input, Network, Tolerance
from edge_rul.core.interval import IntervalTable
from edge_rul.core.normalise import Array
from edge_rul.core.transform import plain
from edge_rul.engines import open_engine
from edge_rul.model.dual_task_model import DualTaskModel, parameters, weights_of
from edge_rul.model.export import export_onnx
from edge_rul.training.fit import Fitted
from edge_rul.training.losses.tasks import SCALE
from edge_rul.training.metrics import Scores
from edge_rul.training.normaliser import constants
from edge_rul.training.run import Epoch
from edge_rul.training.settings import TrainingSettings
from edge_rul.training.windows import Windows

GOLDEN_ENDS = 3  # golden windows at the very end of a life
GOLDEN_SPREAD = 13  # and spread over its whole length


class Source(NamedTuple):
    """Where a run comes from. command: as a user would type it. config_text: the configuration file as it was read."""

    command: str
    config_sha256: str
    config_text: str


def export(
    path: Path,
    fitted: Fitted,
    settings: TrainingSettings,
    training: Windows,
    validation: Windows | None,
    calibration: Windows,
    reached: Scores,
    interval: IntervalTable | None,
    source: Source,
    *,
    replace: bool = False,
) -> Bundle:
    """Write the bundle at `path`. Nothing is written unless the engine answers as torch does.

    validation: windows that only chose. calibration: of assets that were never fitted; reached, interval: the model's
    figures on them, and how far it is off there. Raises BundleError where the path is taken, and EngineError where the
    exported graph disagrees with the model.
    """
    model = in_unit(fitted.model, settings.rul.max)
    transform = fitted.transform
    raw = calibration.readings(golden_windows(calibration, settings.rul.max), before=transform.changes)  # (16, T)
    rul, logits = reference_answers(model, transform.apply(raw).x)
    scale = max(1.0, settings.rul.max / SCALE)
    widths = settings.model
    contents: dict[str, Any] = {
        "fields": {
            "name": settings.name,
            "description": settings.description,
            "inputs": [
                Input(i.name, i.unit, i.description, low, high, i.valid, rule.daemon, i.max_hold)
                for i, rule, low, high in zip(
                    settings.inputs, settings.rules, transform.low.tolist(), transform.high.tolist(), strict=True
                )
            ],
            "window": settings.window,
            "features": None if settings.seen == plain(transform.inputs) else settings.seen,
            "normaliser": transform.normaliser,
            "smooth": settings.smooth,
            "seconds_per_cycle": settings.dataset.seconds_per_cycle,
            "max_gap": settings.dataset.max_gap,
            "rul": settings.rul,
            "classes": settings.classes,
            "network": Network(
                len(settings.seen),
                widths.lstm_hidden,
                widths.num_heads,
                widths.shared_dim,
                len(settings.classes),
                parameters(model),
            ),
            "tolerance": {"float32": Tolerance(rul=1e-3 * scale, logits=1e-3)},
            "training": provenance(settings, fitted, training, validation, calibration, source),
            "validation": held_out_figures(calibration, reached),
            "interval": interval,
        },
        "graph": export_onnx(model, settings.window),
        "weights": weights_of(model),
        "golden": Golden(raw.values, rul, logits, raw.before, raw.elapsed),
    }
    with tempfile.TemporaryDirectory() as scratch:
        draft = bundles.write(Path(scratch) / settings.name, **contents)
        open_engine("onnxruntime", draft).close()
    return bundles.write(path, **contents, replace=replace)


def in_unit(model: DualTaskModel, max_rul: float) -> DualTaskModel:
    """A copy that answers in the RUL's unit: the factor max_rul / 125 folded into the head's last Linear.

    ReLU is homogeneous, f * relu(x) = relu(f * x) for f > 0, so the answers are f times the trained ones.
    """
    scaled = copy.deepcopy(model).eval()
    if max_rul != SCALE:
        last = [layer for layer in scaled.rul_head.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.mul_(max_rul / SCALE)  # (1, 16)
            last.bias.mul_(max_rul / SCALE)  # (1,)
    return scaled


def golden_windows(windows: Windows, max_rul: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which windows become golden: ends of lives, and RUL from 0 to twice the cap, each from the next asset in turn."""
    left = windows.table.rul[windows.last]  # (N,)
    asset = windows.table.asset[windows.last]  # (N,)
    assets = list(dict.fromkeys(asset.tolist()))
    chosen = []
    for i, target in enumerate([*[0.0] * GOLDEN_ENDS, *np.linspace(0, 2 * max_rul, GOLDEN_SPREAD)]):
        own = np.flatnonzero(asset == assets[i % len(assets)])  # (n,) windows of this asset
        chosen.append(own[np.abs(left[own] - target).argmin()])
    return np.array(chosen, np.int64)


@torch.no_grad()
def reference_answers(model: DualTaskModel, x: Array) -> tuple[Array, Array]:
    """rul (N,) and logits (N, C) of windows (N, T, C) by the reference's forward pass, in float32."""
    rul, logits = model.eval()(torch.from_numpy(x))
    return rul.numpy(), logits.numpy()


def held_out_figures(calibration: Windows, reached: Scores) -> dict[str, Any]:
    """Without the NASA score, which is a sum over lives' last windows and means nothing over all windows."""
    figures = msgspec.structs.asdict(reached)
    del figures["nasa_score"]
    return {
        "protocol": "all full windows of assets kept for calibration and never fitted, labels capped",
        "assets": calibration.table.assets,
        "windows": len(calibration),
        **figures,
    }


def provenance(
    settings: TrainingSettings,
    fitted: Fitted,
    training: Windows,
    validation: Windows | None,
    calibration: Windows,
    source: Source,
) -> dict[str, Any]:
    """All that it takes to train this bundle again."""
    return {
        "command": source.command,
        "seed": settings.seed,
        "threads": torch.get_num_threads(),
        "dataset": settings.dataset,
        "files": training.table.files,
        "configuration": {"sha256": source.config_sha256, "text": source.config_text},
        "assets": len(training.table.assets),
        "held_out": len(calibration.table.assets),
        "validation_assets": [] if validation is None else validation.table.assets,
        "windows": len(training),
        "rules": training.table.rules,
        "constant": constants(fitted.transform.normaliser, settings.seen),
        "epochs": [_row(e) for e in fitted.epochs],
        **_origin(fitted),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }


def _origin(fitted: Fitted) -> dict[str, Any]:
    """The bundle whose weights the run began with, and which of them."""
    if (start := fitted.start) is None:
        return {}
    return {"init_from": {"name": start.name, "sha256": start.sha256, "tensors": fitted.taken}}


def _row(epoch: Epoch) -> dict[str, Any]:
    judged = {} if epoch.validation is None else {"validation_rmse": round(epoch.validation.rmse, 4)}
    return {"epoch": epoch.epoch, "loss": round(epoch.loss, 4), **judged}
