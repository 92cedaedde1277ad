"""Does a network that knows one fleet learn another sooner? FD001's bundle to N-CMAPSS DS02, leaving engines out.

    python tools/measure_transfer.py --data DIR --out DIR          3 seeds, each training engine left out once
    python tools/measure_transfer.py --data DIR --out DIR --seeds 1 --engines 1 --epochs 2      a minute's trial

For each seed and engine it trains twice by configs/ncmapss_ds02.yaml, but at a constant rate: from random weights and
from the bundle's, and judges the engine that was left out after each epoch. runs.csv grows a row an epoch, and a run
that is there whole is not repeated. transfer.svg and summary.json follow at the end, or from what is there.

Owns the comparison: updates until a run first reaches the error that the run from random weights ends with (the mean of
its last five epochs). Must not know the network or the formulas.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge_rul.errors import EXIT_OK, EdgeRulError
from edge_rul.training import fit, lives, progress, transfer
from edge_rul.training.schedule import ConstantSettings
from edge_rul.training.settings import HeldOutSettings, TrainingSettings, load_settings
from edge_rul.training.windows import full_windows

ROOT = Path(__file__).parent.parent
HEAD = ("start", "seed", "engine", "epoch", "updates", "rmse")
STARTS = ("random", "bundle")
LAST = 5  # epochs whose mean is a run's end


class Run(NamedTuple):
    """updates, rmse: by epoch."""

    updates: list[int]
    rmse: list[float]


Runs = dict[tuple[str, int, int], Run]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what FD001's weights are worth on DS02.")
    parser.add_argument("--data", type=Path, required=True, help="directory with the DS02 files")
    parser.add_argument("--out", type=Path, required=True, help="directory for runs.csv, summary.json, transfer.svg")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "cmapss_fd001", help="(the shipped one)")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ncmapss_ds02.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="(3)")
    parser.add_argument("--engines", type=int, default=6, help="engines to leave out, one after the other (6)")
    parser.add_argument("--epochs", type=int, default=40, help="of each run (40)")
    args = parser.parse_args()
    try:
        settings = load_settings(args.config)
        args.out.mkdir(parents=True, exist_ok=True)
        start = transfer.read(args.bundle)
        for seed in range(args.seeds):
            for engine in range(args.engines):
                for name in STARTS:
                    if (name, seed, engine) not in finished(args.out, args.epochs):
                        chosen = of_run(settings, seed, engine, args.epochs)
                        rows = run(chosen, args.data, start if name == "bundle" else None)
                        record(args.out, [(name, seed, engine, *row) for row in rows])
                        print(f"{name}, seed {seed}, engine {engine}: RMSE {rows[-1][2]:.2f}", flush=True)
    except EdgeRulError as e:
        print(f"measure_transfer: {e}", file=sys.stderr)
        return e.exit_code
    runs = finished(args.out, args.epochs)
    told = summary(runs, settings.rul.unit)
    (args.out / "summary.json").write_text(json.dumps(told, indent=1) + "\n")
    plot(runs, settings.rul.unit, args.out / "transfer.svg")
    print(json.dumps(told, indent=1))
    return EXIT_OK


def of_run(settings: TrainingSettings, seed: int, engine: int, epochs: int) -> TrainingSettings:
    """A constant rate, so that where a run stands does not depend on how long it is to be."""
    rate = settings.recipe.schedule.learning_rate
    recipe = msgspec.structs.replace(settings.recipe, epochs=epochs, schedule=ConstantSettings(learning_rate=rate))
    return msgspec.structs.replace(settings, recipe=recipe, seed=seed, calibration=HeldOutSettings(fold=engine))


def run(settings: TrainingSettings, data: Path, start: transfer.Start | None) -> list[tuple[int, int, float]]:
    """(epoch, updates, validation RMSE) of each epoch."""
    _, learnt, _, kept = lives.read(settings, data)
    training, judged = full_windows(learnt, settings.window, settings.stride), full_windows(kept, settings.window)
    steps = fit.steps_per_epoch(training, settings.recipe)
    with progress.on_stderr(settings.recipe.epochs, steps) as shown:
        fitted = fit.fit(training, judged, settings, shown, None, start)
    return [(e.epoch, e.epoch * steps, e.validation.rmse) for e in fitted.epochs if e.validation is not None]


def record(out: Path, rows: list[tuple[Any, ...]]) -> None:
    path = out / "runs.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([HEAD] if new else [])
        writer.writerows(rows)


def finished(out: Path, epochs: int) -> Runs:
    """The runs in runs.csv that have so many epochs."""
    found: dict[tuple[str, int, int], list[dict[str, str]]] = {}
    if (out / "runs.csv").exists():
        with (out / "runs.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["start"], int(row["seed"]), int(row["engine"])), []).append(row)
    return {
        key: Run([int(r["updates"]) for r in rows], [float(r["rmse"]) for r in rows])
        for key, rows in found.items()
        if len(rows) == epochs
    }


def reached(run: Run, target: float) -> int | None:
    """Updates until the run's RMSE is first at or below the target; None where it never is."""
    return next((u for u, rmse in zip(run.updates, run.rmse, strict=True) if rmse <= target), None)


def summary(runs: Runs, unit: str) -> dict[str, Any]:
    """Each pair, and the median share of the updates that the bundle's weights save where both arrive."""
    pairs = []
    for (name, seed, engine), plain in sorted(runs.items()):
        if name == "random" and (warm := runs.get(("bundle", seed, engine))) is not None:
            target = float(np.mean(plain.rmse[-LAST:]))
            pairs.append(
                {
                    "seed": seed,
                    "engine": engine,
                    "target_rmse": round(target, 3),
                    "updates_random": reached(plain, target),
                    "updates_bundle": reached(warm, target),
                    "best_random": round(min(plain.rmse), 3),
                    "best_bundle": round(min(warm.rmse), 3),
                }
            )
    both = [p for p in pairs if p["updates_random"] and p["updates_bundle"]]
    saved = [1 - p["updates_bundle"] / p["updates_random"] for p in both]
    return {
        "unit": unit,
        "pairs": pairs,
        "compared": len(both),
        "bundle_never_arrived": sum(p["updates_bundle"] is None for p in pairs),
        "median_share_of_updates_saved": round(float(np.median(saved)), 3) if saved else None,
        "bundle_was_sooner": sum(s > 0 for s in saved),
    }


def plot(runs: Runs, unit: str, path: Path) -> None:
    """Validation RMSE against updates: each run thin, the median of all thick."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, colour, label in (("random", "tab:gray", "random weights"), ("bundle", "tab:blue", "FD001's weights")):
        own = [run for (start, *_), run in sorted(runs.items()) if start == name]
        for run in own:
            axes.plot(run.updates, run.rmse, color=colour, alpha=0.2, linewidth=0.8)
        if own:
            # An epoch has fewer updates where the engine that is left out has more windows.
            first, last = max(run.updates[0] for run in own), min(run.updates[-1] for run in own)
            updates = np.arange(first, last + 1)
            middle = np.median([np.interp(updates, run.updates, run.rmse) for run in own], axis=0)
            axes.plot(updates, middle, color=colour, linewidth=2, label=f"{label}, median of {len(own)} runs")
    axes.set(xlabel="optimiser updates", ylabel=f"RMSE of the engine left out, {unit}", yscale="log")
    axes.set_yticks([3, 5, 7, 10, 15, 20], labels=["3", "5", "7", "10", "15", "20"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
