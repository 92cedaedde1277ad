"""A run's course as pictures.

Owns the plots of a run directory. Needs matplotlib, which the extra `train` brings. Must not know the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_rul.training.run_directory import RunDirectory

BLUE, ORANGE = "#1f5f99", "#c4601d"  # RUL, health
TASKS = (("rul", "RUL", BLUE), ("class", "health", ORANGE))


def plot_run(run: RunDirectory, unit: str) -> list[Path]:
    """Write plots/epochs.svg and plots/tasks.svg of what the run has recorded so far. Answers their paths."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  heavy, and not needed by any other step

    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    written = []
    with plt.rc_context({"svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}):
        for name, draw in (("epochs", _epochs), ("tasks", _tasks)):
            rows = run.rows("epochs" if name == "epochs" else "steps")
            if rows:
                figure = draw(plt, rows, unit)
                written.append(folder / f"{name}.svg")
                figure.savefig(written[-1])
                plt.close(figure)
    return written


def _epochs(plt: Any, rows: dict[str, list[float]], unit: str) -> Any:
    """Loss, and the validation RMSE where there is one."""
    judged = "validation rmse" in rows
    figure, axes = plt.subplots(1, 2 if judged else 1, figsize=(10 if judged else 5, 3.6), layout="constrained")
    panels = [("loss", "mean loss of the epoch"), ("validation rmse", f"validation RMSE / {unit}")]
    for axis, (key, label) in zip(axes if judged else [axes], panels, strict=False):
        axis.plot(rows["epoch"], rows[key], color=BLUE, marker="o", markersize=3)
        axis.set(xlabel="epoch", ylabel=label)
        axis.locator_params(axis="x", integer=True)
    return figure


def _tasks(plt: Any, rows: dict[str, list[float]], unit: str) -> Any:
    """Over the measured steps: errors, task weights, gradient norms on the shared backbone, learning rate."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained", sharex=True)
    panels = (("error", "error of the task"), ("weight", "task weight"), ("norm", "gradient norm on the backbone"))
    for axis, (what, label) in zip(axes.flat, panels, strict=False):
        for key, name, colour in TASKS:
            axis.plot(rows["step"], rows[f"{key}_{what}"], color=colour, label=name, linewidth=1)
        axis.set(ylabel=label)
        if all(v > 0 for key, _, _ in TASKS for v in rows[f"{key}_{what}"]):
            axis.set_yscale("log")
        axis.legend(frameon=False)
    axes.flat[3].plot(rows["step"], rows["learning_rate"], color="black", linewidth=1)
    axes.flat[3].set(ylabel="learning rate")
    for axis in axes[1]:
        axis.set(xlabel="step")
    return figure
