"""`edge-rul train` and `edge-rul evaluate`: from paths to exit codes.

Owns the order of the steps and what is printed. Must not know the formulas, the network or a data format. torch is
imported where it is needed: `evaluate` runs on the box, without it.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_rul import bundle as bundles
from edge_rul.errors import EXIT_OK, ConfigError, DataError
from edge_rul.training.calibrate import IntervalSettings, calibrate
from edge_rul.training.evaluate import gather
from edge_rul.training.report import summarise
from edge_rul.training.report_text import as_text
from edge_rul.training.table import Table, in_short
from edge_rul.training.windows import left_out


def train_command(
    config: Path,
    data: Path,
    out: Path,
    *,
    force: bool = False,
    threads: int | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    fold: int | None = None,
    init_from: Path | None = None,
) -> int:
    """Train by the configuration on the files in `data`, and write the bundle `out`. Returns an exit code.

    force: replace a bundle that is there. threads: torch's, of one operation; None leaves its default. run_dir: where
    the run is recorded, with a checkpoint after each epoch. resume: take up the run that is there. seed, fold: in
    place of the configuration's. init_from: a bundle whose weights to begin with, as far as they fit. Raises
    ConfigError, DataError, BundleError or TrainingError.
    """
    _let_threads_sleep()
    try:
        import torch  # noqa: PLC0415
    except ImportError as e:
        raise ConfigError(
            "train", "torch", "is not installed", hint="python -m pip install 'edge-rul[train]' brings it"
        ) from e
    from edge_rul.training import (  # noqa: PLC0415
        device,
        export_bundle,
        fit,
        lives,
        plots,
        prepared,
        progress,
        run_directory,
        settings,
        transfer,
        windows,
    )

    chosen = settings.load_settings(config)
    if seed is not None:
        chosen = settings.with_seed(chosen, seed)
    if fold is not None:
        chosen = settings.with_fold(chosen, fold)
    start = None if init_from is None else transfer.read(init_from)
    bundles.claim(out, replace=force)
    if threads:
        torch.set_num_threads(threads)
    content = config.read_bytes()
    every, learnt, judged, kept = lives.read(chosen, data)
    training = windows.full_windows(learnt, chosen.window, chosen.stride)
    validation = None if judged is None else windows.full_windows(judged, chosen.window)
    calibration = windows.full_windows(kept, chosen.window)
    if not len(calibration):
        raise _nothing_to_calibrate_on(kept, chosen.window)
    record = None
    if run_dir is not None:
        record = run_directory.RunDirectory(run_dir)
        same = {
            "configuration": hashlib.sha256(content).hexdigest(),
            "data": every.files,
            "threads": torch.get_num_threads(),
            "seed": seed,
            "fold": fold,
            "init_from": None if start is None else start.sha256,
            "versions": run_directory.versions(run_directory.RESULT),
        }
        record.begin(content, same, device.choose(chosen.recipe.device), resume=resume)
    with progress.on_stderr(chosen.recipe.epochs, fit.steps_per_epoch(training, chosen.recipe)) as shown:
        shown.say(
            f"{chosen.name}: {len(training)} windows of {len(learnt.assets)} assets to learn from, {len(calibration)} "
            f"of {len(kept.assets)} kept for calibration; {torch.get_num_threads()} threads"
        )
        for line in _what_was_lost(every, chosen.window):
            shown.say(line)
        fitted = fit.fit(training, validation, chosen, shown, record, start)
    source = export_bundle.Source(
        command=command_line(config, out, threads=threads, seed=seed, fold=fold, init_from=init_from),
        config_sha256=hashlib.sha256(content).hexdigest(),
        config_text=content.decode(),
    )
    unseen = prepared.prepare(calibration, chosen, fitted.transform)
    answers = prepared.predict(fitted.model, unseen)
    reached = prepared.score(answers, unseen)
    interval = calibrate(answers[0], unseen.labels, chosen.rul.max, chosen.interval)
    made = export_bundle.export(
        out, fitted, chosen, training, validation, calibration, reached, interval, source, replace=force
    )
    size = sum(f.stat().st_size for f in made.path.iterdir()) / 1e6
    print(f"wrote {out}: {size:.1f} MB, sha256 {made.sha256[:12]}")
    if math.isnan(reached.rmse):
        print("  no asset that was kept for calibration was seen to its end: no RMSE, and no intervals")
    else:
        print(f"  RMSE {reached.rmse:.2f} {chosen.rul.unit}, all windows of the assets kept for calibration")
    if record is not None:
        plots.plot_run(record, chosen.rul.unit)
        print(f"  the run's record: {record.path}")
    print(f"  next: edge-rul evaluate {shlex.quote(str(out))} --data {shlex.quote(str(data))}")
    return EXIT_OK


def _what_was_lost(every: Table, window: int) -> Iterator[str]:
    """What the rules did to readings, and how many windows and lives teach nothing, or only a bound."""
    if every.rules:
        yield ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in every.rules.items())
    if lost := {name: count for name, count in left_out(every, window).items() if count}:
        of = f"of {len(every.starts)} lives"
        yield ", ".join(f"{count} {name.replace('lives', of).replace('_', ' ')}" for name, count in lost.items())


def _nothing_to_calibrate_on(kept: Table, window: int) -> DataError:
    longest = int(kept.lengths.max())
    problem = f"no full window of {window} readings; the longest life among them has {longest}"
    if longest >= window:
        problem += ", with holes or held values in every window"
    return DataError(
        "train",
        f"assets kept for calibration: {in_short(kept.assets)}",
        problem,
        hint="keep others by calibration.seed, share or fold, or take a smaller window",
    )


def _let_threads_sleep() -> None:
    """Before torch or scikit-learn is loaded: their OpenMP threads spin while they wait. Beside any other work on the
    same cores that made a step take 2 to 10 times as long (measured on two cores); asleep they cost nothing."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def command_line(
    config: Path,
    out: Path,
    *,
    threads: int | None = None,
    seed: int | None = None,
    fold: int | None = None,
    init_from: Path | None = None,
) -> str:
    """The command as a user would type it in the directory where it ran, without a path of this machine."""
    words = ["edge-rul", "train", _relative(config), "--data", "DIR", "--out", _relative(out)]
    words += ["--threads", str(threads)] if threads else []
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--fold", str(fold)] if fold is not None else []
    words += ["--init-from", _relative(init_from)] if init_from is not None else []
    return shlex.join(words)


def _relative(path: Path) -> str:
    """Relative to the working directory where it lies within, else only the name."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return path.name


def evaluate_command(bundle: Path, data: Path, *, json: bool = False, report: Path | None = None) -> int:
    """Print the bundle's figures on the lives in `data`, for people or as one JSON object. Returns an exit code.

    report: a directory to write them to as HTML with plots, and as JSON. Raises BundleError, DataError or EngineError.
    """
    _let_threads_sleep()
    judged = bundles.load(bundle)
    evidence = gather(judged, data)
    figures = summarise(judged, evidence)
    for note in figures.notes:
        print(f"edge-rul evaluate: {note}", file=sys.stderr)
    print(msgspec.json.encode(figures).decode() if json else as_text(figures))
    if report is not None:
        from edge_rul.training.report_html import write  # noqa: PLC0415  it loads matplotlib

        print(f"report: {write(report, judged, evidence, figures)}", file=sys.stderr)
    return EXIT_OK


def calibrate_command(bundle: Path, data: Path, out: Path, *, level: float, force: bool = False) -> int:
    """Write the bundle `out`: `bundle` with intervals at `level`. Returns an exit code.

    force: replace a bundle that is there. Raises BundleError, DataError or EngineError.
    """
    from edge_rul.training.recalibrate import recalibrate  # noqa: PLC0415

    bundles.claim(out, replace=force)
    made = recalibrate(bundles.load(bundle), data, out, IntervalSettings(level=level), replace=force)
    print(f"wrote {out}: sha256 {made.sha256[:12]}")
    return EXIT_OK
