"""Intervals by predicted RUL, as bundles have them, against those of a quantile regressor calibrated alike.

    python tools/compare_intervals.py bundles/cmapss_fd001 --data DIR [--json]

The regressor stands for a quantile head: two boosted trees on the last value and slope of each input, for the two ends,
fitted on the lives that the network learnt from, and moved apart until they hold the level (conformalised quantile
regression: Romano, Patterson and Candes, NeurIPS 2019). Both are calibrated on the lives kept for calibration, in five
parts, each judged by a table that the others made; windows at the cap count for neither table. Printed is, at each
level, the share held below the cap and the mean width up to the cap: the narrower at one share is the better.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.errors import EdgeRulError
from edge_rul.training import tree
from edge_rul.training.calibrate import FOLDS, IntervalSettings, cross_held, dealt
from edge_rul.training.evaluate import described, gather, load_table
from edge_rul.training.windows import full_windows, labels

LEVELS = (0.8, 0.85, 0.9, 0.95)
SEES: tree.Features = "last value, slope"


def by_regressor(ends: tuple[Array, Array], true: Array, fold: Array, cap: float, level: float) -> tuple[Array, Array]:
    """(N,) low and (N,) high: each part's ends moved apart by what the other parts' windows below the cap need."""
    low, high = np.empty_like(true), np.empty_like(true)
    for k in range(FOLDS):
        others = (fold != k) & (true < cap)
        off = np.maximum(ends[0] - true, true - ends[1])[others]  # (n,)
        move = np.quantile(off, min(1.0, level * (len(off) + 1) / len(off)), method="higher")
        own = fold == k
        low[own] = np.maximum(0, ends[0][own] - move)
        high[own] = np.maximum(low[own], ends[1][own] + move)
    return low, high


def compare(bundle: Bundle, data: Path) -> list[dict[str, Any]]:
    """A row for each level and kind of interval."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415  half a second

    manifest, settings = bundle.manifest, IntervalSettings()
    judged = gather(bundle, data, parts=("train",), trees=False).held_out
    if judged is None:
        raise SystemExit("the bundle's calibration lives are not in the data")
    table = load_table(bundle, data, "train")
    apart = {*manifest.validation["assets"], *manifest.training.get("validation_assets", [])}
    learnt = full_windows(table.of([a for a in table.assets if a not in apart]), manifest.window)
    taught = labels(learnt, manifest.rul.max, manifest.classes)
    known = np.flatnonzero(~taught.is_lower_bound)
    x, y = described(bundle, learnt, known, SEES), taught.rul[known]
    seen = described(bundle, judged.windows, np.arange(len(judged.windows)), SEES)
    asset = judged.windows.table.asset[judged.windows.last].tolist()
    fold = dealt(asset)  # (N,), as cross_held has them
    true, cap = judged.true.rul, manifest.rul.max
    below = true < cap

    def end(quantile: float) -> Array:
        fitted = HistGradientBoostingRegressor(
            loss="quantile", quantile=quantile, max_iter=200, learning_rate=0.05, max_leaf_nodes=15, random_state=0
        ).fit(x, y)
        found: Array = fitted.predict(seen).astype(np.float32)
        return found

    outside = 1 - settings.level
    ends = end(outside * settings.late), end(1 - outside * (1 - settings.late))
    rows = []
    for level in LEVELS:
        ours = cross_held(judged.rul, judged.true, asset, cap, IntervalSettings(level, settings.late, settings.bins))
        for kind, (low, high) in (
            ("by predicted RUL", ours),
            ("quantile regressor", by_regressor(ends, true, fold, cap, level)),
        ):
            inside = (low <= true) & ((true <= high) | (high >= cap))
            width = np.minimum(high, cap) - np.minimum(low, cap)
            rows.append(
                {
                    "level": level,
                    "kind": kind,
                    "held_below_cap": float(inside[below].mean()),
                    "held": float(inside.mean()),
                    "width_below_cap": float(width[below].mean()),
                    "width": float(width.mean()),
                }
            )
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        rows = compare(bundles.load(args.bundle), args.data)
    except EdgeRulError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    if args.json:
        print(json.dumps(rows))
        return 0
    print("level  kind                held below the cap, of all   mean width below the cap, of all")
    for r in rows:
        print(
            f"{r['level']:.0%}    {r['kind']:18}  {r['held_below_cap']:17.1%} {r['held']:8.1%}"
            f"   {r['width_below_cap']:23.1f} {r['width']:8.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
