"""Several folds' bundles judged together, each on its own test lives: for what one fold has too few failures.

    python tools/pool_folds.py bundles/wind_0 bundles/wind_1 bundles/wind_2 bundles/wind_3 --data DIR [--out FILE.json]

Every limit of the predicted RUL is one for all folds, as if one model had answered. Prints the figures, the mean's and
the trees' beside the network's, and with --each every life that failed by itself: how far it was off, how far ahead the
failure was told at each share of false alarms, and which were not told. One bundle will do.

Owns what is pooled. Which windows are judged, who answers and the formulas stand in the package.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.errors import EXIT_OK, ConfigError, EdgeRulError
from edge_rul.training.detection import Detection, DetectionSettings, detect
from edge_rul.training.evaluate import Judged, dataset_of, gather
from edge_rul.training.metrics import Scores, scores
from edge_rul.training.table import Mask
from edge_rul.training.windows import Labels, Windows, class_of, joined, labels


class Fold(NamedTuple):
    """mean: the label that the windows which taught have on average."""

    bundle: Bundle
    judged: Judged
    mean: float | None


class Life(msgspec.Struct, frozen=True):
    """One life that was seen to fail. mean_rmse: of always answering the mean of what taught its bundle. told: RUL left
    at the first alarm within the horizon, at each share of false alarms that was asked for; None: no alarm."""

    asset: str
    life: int
    windows: int
    rmse: float
    mean_rmse: float | None
    tree_rmse: dict[str, float]
    told: list[float | None]


class Pooled(msgspec.Struct, frozen=True):
    """rmse and the like are in `unit`, over windows whose RUL is known. trees, tree_detection: by what they look at."""

    bundles: list[str]
    unit: str
    lives: int
    windows: int
    mean_rmse: float | None
    network: Scores
    trees: dict[str, Scores]
    detection: Detection | None
    tree_detection: dict[str, Detection]
    failures: list[Life]


def pool(folds: Sequence[Fold]) -> Pooled:
    """Raises ConfigError where two of them judge one life."""
    manifest, settings = folds[0].bundle.manifest, dataset_of(folds[0].bundle)
    assets = [asset for fold in folds for asset in fold.judged.windows.table.assets]
    if twice := {a for a in assets if assets.count(a) > 1}:
        raise ConfigError("pool", "bundles", f"{', '.join(sorted(twice)[:3])} is in the test of two; expected folds")
    windows = joined([fold.judged.windows for fold in folds])
    true = labels(windows, manifest.rul.max, manifest.classes)
    one_hot = np.eye(len(manifest.classes), dtype=np.float32)

    def together(each: Sequence[Array]) -> Array:
        out: Array = np.concatenate(each)
        return out

    def figures(rul: Array, logits: Array) -> Scores:
        found = scores(rul, logits, true.rul, true.health, true.is_lower_bound)
        return msgspec.structs.replace(found, nasa_score=None)

    def told(rul: Array, by: DetectionSettings) -> Detection:
        return detect(windows, rul, by, manifest.rul.unit, settings.seconds_per_cycle)

    rul = together([fold.judged.rul for fold in folds])
    trees = {f: together([fold.judged.trees[f] for fold in folds]) for f in folds[0].judged.trees}
    mean = None
    if all(fold.mean is not None for fold in folds):
        mean = together([np.full(len(f.judged.windows), f.mean, np.float32) for f in folds])  # (N,)
    by = settings.detection
    detection = None if by is None else told(rul, by)
    return Pooled(
        bundles=[f"{fold.bundle.manifest.name} {fold.bundle.sha256[:12]}" for fold in folds],
        unit=manifest.rul.unit,
        lives=len(np.unique(windows.first)),
        windows=len(windows),
        mean_rmse=None if mean is None else _rmse(mean, true, ~true.is_lower_bound),
        network=figures(rul, together([fold.judged.logits for fold in folds])),
        trees={f: figures(answer, one_hot[class_of(answer, manifest.classes)]) for f, answer in trees.items()},
        detection=detection,
        tree_detection={} if by is None else {f: told(answer, by) for f, answer in trees.items()},
        failures=failures(windows, true, rul, mean, trees, detection),
    )


def _rmse(rul: Array, true: Labels, here: Mask) -> float:
    return float(np.sqrt(np.mean((rul - true.rul)[here].astype(np.float64) ** 2)))


def failures(
    windows: Windows, true: Labels, rul: Array, mean: Array | None, trees: dict[Any, Array], detection: Detection | None
) -> list[Life]:
    """Each life that was seen to fail, with the alarms at the detection's limits."""
    table, left = windows.table, windows.table.rul[windows.last]  # (N,)
    points, horizon = ([], 0.0) if detection is None else (detection.points, detection.horizon)
    found = []
    for first in np.unique(windows.first[~table.is_lower_bound[windows.last]]).tolist():
        own = windows.first == first  # (N,)
        leads = [left[own & (left <= horizon) & (rul <= point.limit)] for point in points]
        found.append(
            Life(
                str(table.asset[first]),
                int(table.life[first]),
                int(own.sum()),
                _rmse(rul, true, own),
                None if mean is None else _rmse(mean, true, own),
                {f: _rmse(answer, true, own) for f, answer in trees.items()},
                [round(float(lead.max()), 2) if len(lead) else None for lead in leads],
            )
        )
    return found


def as_text(pooled: Pooled, *, each: bool) -> str:
    """each: with a line a failure."""
    unit, lines = pooled.unit, [f"{len(pooled.bundles)} folds: {pooled.windows} windows of {pooled.lives} lives"]
    if pooled.mean_rmse is not None:
        lines.append(f"training mean: RMSE {pooled.mean_rmse:.2f} {unit}")
    for name, s in [("network", pooled.network), *((f"tree: {f}", s) for f, s in pooled.trees.items())]:
        lines.append(f"{name}: RMSE {s.rmse:.2f}, mean absolute error {s.mae:.2f} {unit}, macro F1 {s.macro_f1:.3f}")
    shown = [("network", pooled.detection), *((f"tree: {f}", d) for f, d in pooled.tree_detection.items())]
    for name, d in shown:
        if d is None:
            continue
        auc = "" if d.auc is None else f"AUC {d.auc:.3f}, "
        lines.append(f"{name}: {auc}{d.exposure_days or 0:.0f} days of exposure")
        for p in d.points:
            often = (
                "" if p.episodes_a_month is None else f", {p.episodes_a_month:.2f} false episodes an asset and month"
            )
            lead = "" if p.lead is None else f", {p.lead:.1f} {unit} ahead (median)"
            lines.append(
                f"  at {p.asked:.0%}, {p.false_alarms} of {p.far}: {p.found} of {p.failures} failures, "
                f"{p.found_low:.0%} to {p.found_high:.0%}{lead}{often}"
            )
    if each:
        for f in pooled.failures:
            others = {**({} if f.mean_rmse is None else {"mean": f.mean_rmse}), **f.tree_rmse}
            line = ", ".join(f"{name} {rmse:.2f}" for name, rmse in {"network": f.rmse, **others}.items())
            told = ", ".join("not told" if t is None else f"{t:.1f}" for t in f.told)
            ahead = f"; {unit} ahead: {told}" if f.told else ""
            lines.append(f"{f.asset}, life {f.life}, {f.windows} windows: RMSE {line}{ahead}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Judge several folds' bundles together.")
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--data", type=Path, required=True, help="directory with the data set's files")
    parser.add_argument("--out", type=Path, help="a file for all figures as JSON")
    parser.add_argument("--each", action="store_true", help="a line for each failure")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `edge-rul train` has it
    try:
        folds = []
        for path in args.bundles:
            bundle = bundles.load(path)
            evidence = gather(bundle, args.data)
            if evidence.whole is None:
                raise ConfigError("pool", str(path), "its test lives have no full window")
            folds.append(Fold(bundle, evidence.whole, evidence.mean))
        pooled = pool(folds)
    except EdgeRulError as e:
        print(f"pool_folds: {e}", file=sys.stderr)
        return e.exit_code
    print(as_text(pooled, each=args.each))
    if args.out is not None:
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(pooled), indent=1) + b"\n")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
