"""A picture of each bundle's predictions on test lives, for the documentation.

    python tools/gallery.py --out docs/gallery bundles/batteries=DIR bundles/wind_0,bundles/wind_1=DIR

For each BUNDLE=DATA it writes NAME.svg: predicted against true RUL along a few lives with their intervals, or, where
the configuration asks for detection, the share of failures that had an alarm by a day, over the days before them. Of
that, several folds' bundles make one picture, each with its own test lives.

Owns what is drawn. Which windows are judged and who answers stands in the package. Must not know a domain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import infer_all, open_engine
from edge_rul.errors import EXIT_OK, EXIT_USAGE, ConfigError, EdgeRulError
from edge_rul.training.detection import Detection, DetectionSettings, detect
from edge_rul.training.evaluate import dataset_of, load_table
from edge_rul.training.table import Mask
from edge_rul.training.windows import Windows, full_windows, joined

BATCH, CHUNK = 64, 4096
LIVES = 4  # drawn of each bundle
POINTS = 150  # of a life, about
BLUE, RED, GREY = "#1f5f99", "#b3261e", "#8a8a8a"
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "edge-rul",
}


class Answers(NamedTuple):
    """rul: (N,) of the windows, in the bundle's unit. outside: (N,) whether inputs of the window's last reading lie
    beyond what training saw, which the daemon marks."""

    bundle: Bundle
    windows: Windows
    rul: Array
    outside: Mask


def answers(bundle: Bundle, data: Path) -> Answers:
    """The bundle's predictions for all full windows of the test lives in `data`. Raises DataError, EngineError."""
    transform = bundle.manifest.transform
    windows = full_windows(load_table(bundle, data, "test"), bundle.manifest.window)
    found, outside = [], []
    with open_engine("onnxruntime", bundle, max_batch=BATCH) as engine:
        for begin in range(0, len(windows), CHUNK):
            select = np.arange(begin, min(begin + CHUNK, len(windows)))
            seen = transform.apply(windows.readings(select, before=transform.changes))
            found.append(infer_all(engine, seen.x)[0])
            outside += [bool(marks.outside) for marks in seen.marks]
    return Answers(bundle, windows, np.concatenate([np.zeros(0, np.float32), *found]), np.array(outside, np.bool_))


def together(folds: Sequence[Answers]) -> Answers:
    """The folds as one. Raises ConfigError where each has its own intervals to draw."""
    if len(folds) == 1:
        return folds[0]
    if dataset_of(folds[0].bundle).detection is None:
        problem = f"{len(folds)} bundles in one picture; expected one, as the configuration asks for no detection"
        raise ConfigError("gallery", folds[0].bundle.manifest.name, problem)
    rul, outside = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("rul", "outside"))
    return Answers(folds[0].bundle, joined([fold.windows for fold in folds]), rul, outside)


def lives(shown: Answers) -> Any:
    """Predicted against true RUL along some lives that failed, from the shortest to the longest."""
    windows, manifest = shown.windows, shown.bundle.manifest
    cap, unit = manifest.rul.max, manifest.rul.unit
    own = np.searchsorted(windows.table.starts, windows.last, side="right")  # (N,)
    left = windows.table.rul[windows.last]  # (N,)
    ended = np.unique(own[~windows.table.is_lower_bound[windows.last]])
    by_length = sorted(ended.tolist(), key=lambda life: int((own == life).sum()))
    chosen = [by_length[i] for i in np.unique(np.linspace(0, len(by_length) - 1, LIVES).astype(int))]
    figure, axes = plt.subplots(
        1, len(chosen), figsize=(2.9 * len(chosen), 3), layout="constrained", sharey=True, squeeze=False
    )
    for axis, life in zip(axes[0], chosen, strict=True):
        mine = np.flatnonzero((own == life) & (left <= 2 * cap))
        mine = mine[:: -max(1, len(mine) // POINTS)][::-1]  # the last one is among them
        x, rul = left[mine], shown.rul[mine]
        if (table := manifest.interval) is not None:
            low, high = table.bounds(rul, cap)
            axis.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0, label=f"{table.level:.0%} interval")
        axis.plot(x, np.minimum(x, cap), color="black", linewidth=1, label="true, at most the cap")
        axis.plot(x, rul, color=BLUE, linewidth=1.2, label="predicted")
        beyond = x[shown.outside[mine]]
        axis.plot(
            beyond, np.full(len(beyond), 1.05 * cap), "|", color=RED, markersize=5, label="inputs beyond training's"
        )
        name = str(windows.table.asset[windows.last[mine][0]])
        title = f"asset {name}" if name.isdecimal() else name
        axis.set(xlim=(float(x.max()), 0), ylim=(0, 1.08 * cap), title=title)
        axis.set_xlabel(f"{unit} left")
    axes[0][0].set_ylabel(f"RUL / {unit}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def detection(shown: Answers, settings: DetectionSettings, seconds_per_cycle: float | None) -> Any:
    """The share of failures that had an alarm by then, over the time before them."""
    windows, unit = shown.windows, shown.bundle.manifest.rul.unit
    told = detect(windows, shown.rul, settings, unit, seconds_per_cycle)
    own = np.searchsorted(windows.table.starts, windows.last, side="right")  # (N,)
    left = windows.table.rul[windows.last]  # (N,)
    near = ~windows.table.is_lower_bound[windows.last] & (left <= settings.horizon)  # (N,)
    failures = np.unique(own[near])
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    days = np.unique(np.append(left[near], settings.horizon))[::-1]
    looks = zip((GREY, BLUE, RED, "black"), (3.6, 2.4, 1.2, 0.6), strict=True)  # of curves that lie upon each other
    for place, (point, (colour, width)) in enumerate(zip(told.points, looks, strict=False)):
        first = [left[(own == life) & near & (shown.rul <= point.limit)] for life in failures]
        alarmed = np.array([f.max() if len(f) else -1.0 for f in first])  # time left at the first alarm
        share = [(alarmed >= day).mean() if len(alarmed) else 0.0 for day in days]
        axis.step(days, share, where="post", color=colour, linewidth=width, label=_words(point.asked, told, settings))
        reach = [[share[-1] - point.found_low], [point.found_high - share[-1]]]
        axis.errorbar([-0.015 * (place + 1) * settings.horizon], [share[-1]], yerr=reach, color=colour, capsize=2)
    axis.set(xlim=(settings.horizon, -0.08 * settings.horizon), ylim=(0, 1.02))  # a line at 1 is seen whole
    axis.set(xlabel=f"{unit} before the failure", ylabel=f"share of {len(failures)} failures with an alarm")
    if told.points:  # there are windows far from any failure
        auc = "" if told.auc is None else f"AUC of windows {told.auc:.2f}; "
        # Below, since a curve may go anywhere.
        figure.legend(title=f"{auc}bars: 95% intervals", loc="outside lower center", ncols=1)
    return figure


def _words(asked: float, told: Detection, settings: DetectionSettings) -> str:
    point = next(p for p in told.points if p.asked == asked)
    return f"{point.false_alarms} false alarms of {point.far} {settings.of} ({asked:.0%})"


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw bundles' predictions on test lives.")
    parser.add_argument("pairs", nargs="+", metavar="BUNDLE[,BUNDLE...]=DATA")
    parser.add_argument("--out", type=Path, required=True, help="directory for the pictures")
    args = parser.parse_args()
    mpl.use("svg")
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for pair in args.pairs:
            path, equals, data = pair.partition("=")
            if not equals:
                print(f"gallery: expected BUNDLE=DATA, found {pair!r}", file=sys.stderr)
                return EXIT_USAGE
            shown = together([answers(bundles.load(Path(one)), Path(data)) for one in path.split(",")])
            bundle, dataset = shown.bundle, dataset_of(shown.bundle)
            with plt.rc_context(STYLE):
                wanted = dataset.detection
                figure = lives(shown) if wanted is None else detection(shown, wanted, dataset.seconds_per_cycle)
                figure.savefig(args.out / f"{bundle.manifest.name}.svg", metadata={"Date": None, "Creator": None})
                plt.close(figure)
            print(f"wrote {args.out / bundle.manifest.name}.svg", flush=True)
    except EdgeRulError as e:
        print(f"gallery: {e}", file=sys.stderr)
        return e.exit_code
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
