"""A report's pictures.

Owns what each plot shows and how it looks, as SVG text. Needs matplotlib. Must not know files or HTML.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.training.breakdown import Bounds, LeadTime
from edge_rul.training.calibrate import IntervalSettings, calibrate, cross_held
from edge_rul.training.evaluate import Evidence, Judged
from edge_rul.training.plots import BLUE
from edge_rul.training.report import Report, bounds

GREY = "#8a8a8a"  # the tree
RED = "#b3261e"  # what is late
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LIVES = 9  # whose trajectories are shown
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "edge-rul",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


class Plot(NamedTuple):
    """name: of a file. title, caption: for the reader. svg: the picture."""

    name: str
    title: str
    caption: str
    svg: str


def draw(bundle: Bundle, evidence: Evidence, report: Report) -> list[Plot]:
    """All plots that the evidence has data for."""
    import matplotlib as mpl  # noqa: PLC0415  heavy, and not needed by figures alone

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    makers: list[tuple[str, str, str, Callable[..., Any]]] = [
        ("predicted", "Predicted against true RUL", _PREDICTED, _predicted),
        ("trajectories", "Whole lives", _TRAJECTORIES, _trajectories),
        ("errors", "Errors", _ERRORS, _errors),
        ("bands", "Where the errors are", _BANDS, _bands),
        ("confusion", "Health classes", _CONFUSION, _confusion),
        ("intervals", "Intervals", _INTERVALS, _intervals),
        ("lead_time", "Warning before failure", _LEAD, _lead_time),
    ]
    plots = []
    with plt.rc_context(STYLE):
        for name, title, caption, make in makers:
            figure = make(plt, bundle, evidence, report)
            if figure is not None:
                text = io.StringIO()
                figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
                plt.close(figure)
                plots.append(Plot(name, title, caption, text.getvalue()))
    return plots


def _panels(plt: Any, count: int, width: float = 4.6, height: float = 3.9) -> tuple[Any, list[Any]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def _known(judged: Judged, rul: Array) -> tuple[Array, Array]:
    """True and predicted RUL of the windows whose RUL is known."""
    known = ~judged.true.is_lower_bound
    return judged.true.rul[known], rul[known]


_PREDICTED = (
    "Each point is a window; on the line the prediction is right, above it the machine fails earlier than told. Bars "
    "are the intervals, open at the cap. The cap holds all that have more life left than training tells apart."
)


def _predicted(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    shown = [j for j in (evidence.protocol, evidence.held_out) if j is not None and (~j.true.is_lower_bound).any()]
    if not shown:
        return None
    figure, axes = _panels(plt, len(shown))
    for axis, judged in zip(axes, shown, strict=True):
        true, rul = _known(judged, judged.rul)
        top = max(report.cap, float(rul.max())) * 1.04
        if len(true) <= 400:
            if (found := bounds(bundle, judged, own=judged is evidence.held_out)) is not None:
                low, high = (b[~judged.true.is_lower_bound] for b in found)
                axis.vlines(true, low, high, color=BLUE, alpha=0.25, linewidth=2, label="interval")
            axis.plot(true, rul, "o", color=BLUE, markersize=3.5, label="network")
            axis.legend(loc="upper left")
        else:
            edges = np.linspace(0, top, 60)
            counts, _, _ = np.histogram2d(true, rul, bins=(edges, edges))
            mesh = axis.pcolormesh(
                edges, edges, np.ma.masked_equal(counts.T, 0), cmap="Blues", norm="log", vmin=0.6, rasterized=True
            )
            figure.colorbar(mesh, ax=axis, label="windows", shrink=0.8)
        axis.plot([0, report.cap], [0, report.cap], color="black", linewidth=0.8)
        axis.set(
            xlim=(0, top),
            ylim=(0, top),
            aspect="equal",
            title=judged.what,
            xlabel=f"true RUL / {report.unit}, at most {report.cap:g}",
            ylabel=f"predicted RUL / {report.unit}",
        )
    return figure


_TRAJECTORIES = (
    "Lives kept for calibration, from the shortest to the longest: predicted RUL over the cycles with its interval, "
    "told by a table that this life did not help to make; the tree beside it; and the true RUL, capped."
)


def _trajectories(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    judged = evidence.held_out or evidence.whole
    if judged is None:
        return None
    windows = judged.windows
    lives, lengths = np.unique(windows.first, return_counts=True)
    by_length = lives[np.argsort(lengths, kind="stable")]
    chosen = by_length[np.unique(np.linspace(0, len(by_length) - 1, min(LIVES, len(by_length))).round().astype(int))]
    rows = -(-len(chosen) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(11, 2.5 * rows + 0.4), layout="constrained", squeeze=False, sharey=True
    )
    found = bounds(bundle, judged, own=judged is evidence.held_out)
    for axis, first in zip(axes.flat, chosen.tolist(), strict=False):
        own = np.flatnonzero(windows.first == first)
        cycle = windows.table.cycle[windows.last[own]]
        if found is not None:
            axis.fill_between(
                cycle, found[0][own], found[1][own], color=BLUE, alpha=0.18, linewidth=0, label="interval"
            )
        if report.tree in judged.trees:
            axis.plot(cycle, judged.trees[report.tree][own], color=GREY, linewidth=0.8, label="tree")
        axis.plot(cycle, judged.rul[own], color=BLUE, linewidth=1.3, label="network")
        axis.plot(cycle, judged.true.rul[own], color="black", linewidth=0.9, linestyle="--", label="true")
        axis.set_title(f"asset {windows.table.asset[first]}, {len(own)} windows")
        axis.set_ylim(0, None)
    for axis in list(axes.flat)[len(chosen) :]:
        axis.set_visible(False)
    figure.supxlabel("cycle", fontsize=9)
    figure.supylabel(f"RUL / {report.unit}", fontsize=9)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


_ERRORS = (
    "Predicted minus true RUL. Right of 0 the prediction is too high, so that the machine fails earlier than told: the "
    "NASA score counts that side more."
)


def _errors(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    every = {j.what: j for j in (evidence.protocol, evidence.whole, evidence.held_out) if j is not None}
    shown = [j for j in every.values() if (~j.true.is_lower_bound).any()]
    if not shown:
        return None
    figure, axes = _panels(plt, len(shown), 4.2, 3.2)
    for axis, of in zip(axes, shown, strict=True):
        true, rul = _known(of, of.rul)
        errors = {"network": rul - true}
        if report.tree in of.trees:
            errors["tree"] = _known(of, of.trees[report.tree])[1] - true
        reach = max(float(np.quantile(np.abs(e), 0.999)) for e in errors.values())
        edges = np.linspace(-reach, reach, 25 if len(true) <= 400 else 61)
        axis.axvspan(0, reach, color=RED, alpha=0.05, linewidth=0)
        for (name, error), colour in zip(errors.items(), (BLUE, GREY), strict=False):
            label = f"{name}: {error.mean():+.1f} ± {error.std():.1f}"
            filled = {"alpha": 0.35, "histtype": "stepfilled"} if name == "network" else {"histtype": "step"}
            axis.hist(error, bins=edges, color=colour, label=label, linewidth=1.3, **filled)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlim=(-reach, reach), title=of.what, xlabel=f"error / {report.unit}", ylabel="windows")
        axis.margins(y=0.25)
        axis.legend(loc="upper left")
    return figure


_BANDS = (
    "RMSE by true RUL, and the bias below it; the plateau, where the true RUL is at the cap or above, stands apart. "
    "Alarms live in the lowest bands."
)


def _bands(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    shown = report.sections
    if not shown:
        return None
    figure, axes = plt.subplots(
        2, len(shown), figsize=(4.4 * len(shown), 4.8), layout="constrained", squeeze=False, sharex="col", sharey="row"
    )
    for (upper, lower), section in zip(axes.T, shown, strict=True):
        names = [f"{b.low:g}-{b.high:g}" if b.high is not None else "cap" for b in section.bands]
        place = np.arange(len(names))
        for shift, bands, colour, label in (
            (-0.2, section.bands, BLUE, "network"),
            (0.2, section.tree_bands, GREY, "tree"),
        ):
            for axis, of in ((upper, "rmse"), (lower, "bias")):
                heights = [getattr(b, of) if getattr(b, of) is not None else 0 for b in bands]
                axis.bar(place[: len(heights)] + shift, heights, 0.4, color=colour, label=label if heights else None)
        upper.set_title(section.what)
        lower.axhline(0, color="black", linewidth=0.8)
        lower.set_xticks(place, [f"{n}\n{b.windows}" for n, b in zip(names, section.bands, strict=True)], fontsize=8)
        lower.set_xlabel(f"true RUL / {report.unit}, and how many windows")
    axes[0][0].set_ylabel(f"RMSE / {report.unit}")
    axes[1][0].set_ylabel(f"bias / {report.unit}")
    axes[0][0].legend(loc="upper left")
    return figure


_CONFUSION = "Windows by true and predicted class; shares are of a true class."


def _confusion(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    shown = [s for s in report.sections if sum(map(sum, s.confusion))]
    if not shown:
        return None
    figure, axes = _panels(plt, len(shown), 4.2, 3.6)
    for axis, section in zip(axes, shown, strict=True):
        counts = np.array(section.confusion)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
        for (row, column), value in np.ndenumerate(counts):
            text = f"{value}\n{share[row, column]:.0%}"
            axis.text(
                column, row, text, ha="center", va="center", color="white" if share[row, column] > 0.6 else "black"
            )
        ticks = np.arange(len(report.classes))
        axis.set_xticks(ticks, report.classes)
        axis.set_yticks(ticks, report.classes, rotation=90, va="center")
        axis.set(title=section.what, xlabel="predicted class", ylabel="true class")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


_INTERVALS = (
    "Left: the share of windows that the intervals hold, at the bundle's level and at others that the same lives would "
    "give; on the line they hold what they promise. Middle and right: coverage and width by true RUL."
)


def _intervals(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    section = report.test_all or report.heldout
    if section is None or section.coverage is None:
        return None
    figure, (curve, by_band, width) = _panels(plt, 3, 3.9, 3.6)
    figure.suptitle(section.what, fontsize=10)
    curve.plot([0.45, 1], [0.45, 1], color="black", linewidth=0.8)
    for label, marker, observed in _curves(bundle, evidence):
        curve.plot(
            LEVELS, observed, marker=marker, color=BLUE, linewidth=1, label=label, alpha=0.5 if marker == "s" else 1
        )
    level = section.coverage.level
    curve.axvline(level, color=GREY, linewidth=0.8, linestyle=":")
    curve.set(xlim=(0.45, 1), ylim=(0.45, 1), xlabel="level", ylabel="share held", title="calibration")
    curve.legend(loc="upper left")
    names = [f"{b.low:g}-{b.high:g}" if b.high is not None else "cap" for b in section.bands]
    place = np.arange(len(names))
    some = [(i, b) for i, b in enumerate(section.bands) if b.coverage is not None]
    by_band.axhline(level, color="black", linewidth=0.8)
    by_band.plot([i for i, _ in some], [b.coverage for _, b in some], "o", color=BLUE)
    by_band.set(ylim=(min(0.5, *(b.coverage or 1 for _, b in some)) - 0.02, 1.02), title="share held by true RUL")
    width.bar([i for i, _ in some], [b.width for _, b in some], 0.6, color=BLUE, alpha=0.6)
    width.set(title="mean width by true RUL", ylabel=report.unit)
    for axis in (by_band, width):
        axis.set_xticks(place, names, fontsize=8)
        axis.set_xlabel(f"true RUL / {report.unit}")
    return figure


def _curves(bundle: Bundle, evidence: Evidence) -> list[tuple[str, str, list[float]]]:
    """(label, marker, share held at each of LEVELS), of all windows and of those below the cap."""
    kept, cap, table = evidence.held_out, bundle.manifest.rul.max, bundle.manifest.interval
    on = evidence.whole or kept
    if kept is None or on is None or table is None:
        return []
    known = ~on.true.is_lower_bound
    shares: tuple[list[float], list[float]] = ([], [])
    for level in LEVELS:
        settings = IntervalSettings(level=level, bins=len(table.at))
        found: Bounds | None
        if on is kept:
            asset = kept.windows.table.asset[kept.windows.last].tolist()
            found = cross_held(kept.rul, kept.true, asset, cap, settings)
        else:
            made = calibrate(kept.rul, kept.true, cap, settings)
            found = None if made is None else made.bounds(on.rul, cap)
        if found is None:
            return []
        inside = ((on.true.rul >= found[0]) & (on.true.rul <= found[1]))[known]
        below = on.true.rul[known] < cap
        shares[0].append(float(inside.mean()))
        shares[1].append(float(inside[below].mean()) if below.any() else float("nan"))
    return [("all windows", "s", shares[0]), ("below the cap", "o", shares[1])]


_LEAD = (
    "How much life was left when the told RUL had stood below the limit of the last class for three windows in a row: "
    "one point a life, sorted. Above the line the warning came before that class began, below it after."
)


def _lead_time(plt: Any, bundle: Bundle, evidence: Evidence, report: Report) -> Any:
    told: Sequence[tuple[str, str, LeadTime | None]] = (
        ("network", BLUE, report.lead_time),
        ("tree", GREY, report.tree_lead_time),
    )
    some = [(name, colour, of) for name, colour, of in told if of is not None and of.leads]
    if not some:
        return None
    figure, (axis,) = _panels(plt, 1, 7, 2.9)
    for name, colour, of in some:
        axis.plot(
            np.arange(1, len(of.leads) + 1), of.leads, "o-", color=colour, markersize=4, linewidth=0.8, label=name
        )
    limit = some[0][2].below
    axis.axhline(limit, color="black", linewidth=0.8)
    axis.set(
        ylim=(0, None), xlabel="lives, by how early they were warned", ylabel=f"true RUL at the warning / {report.unit}"
    )
    axis.locator_params(axis="x", integer=True)
    axis.legend(loc="upper right")
    return figure
