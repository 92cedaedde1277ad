"""A report as text for a terminal.

Owns which figures are shown there, their rounding and their order; the whole of them is in the JSON.
"""

from __future__ import annotations

from edge_rul.training.breakdown import LeadTime
from edge_rul.training.detection import Detection
from edge_rul.training.report import Report, Section

_LABEL = 24  # columns of a row's label


def as_text(report: Report) -> str:
    """Network beside trees, for each set of windows that there is."""
    on = f" on {report.subset}" if report.subset else ""
    lines = [f"{report.bundle} {report.sha256[:12]}{on}; RUL capped at {report.cap:g} {report.unit}"]
    for section in report.sections:
        lines += ["", *_section(section, report.unit)]
    if report.lead_time is not None:
        lines += ["", *_lead_time(report.lead_time, report.tree_lead_time, report.unit)]
    for name, found in (("network", report.detection), ("tree", report.tree_detection)):
        if found is not None:
            lines += ["", *_detection(name, found)]
    if report.mean_rmse is not None:
        lines += ["", f"always answering the training mean: RMSE {report.mean_rmse:.2f} {report.unit}"]
    for part, counts in report.rules.items():
        told = [f"{count} {rule.replace('_', ' ')}" for rule, count in counts.items() if count]
        lines += [f"rules, {part} data: {', '.join(told)}"] if told else []
    return "\n".join(lines)


def _section(section: Section, unit: str) -> list[str]:
    padded = f", {section.padded} of them shorter than the window and padded" if section.padded else ""
    columns = [("network", section.network), *((f"tree: {name}", of) for name, of in section.trees.items())]
    rows = [
        (f"RMSE, {unit}", [f"{s.rmse:.2f}" for _, s in columns]),
        (f"mean absolute error, {unit}", [f"{s.mae:.2f}" for _, s in columns]),
        (f"bias, {unit}", [f"{s.bias:+.2f}" for _, s in columns]),
        ("NASA score", ["" if s.nasa_score is None else f"{s.nasa_score:.1f}" for _, s in columns]),
        ("class accuracy", ["" if s.accuracy is None else f"{s.accuracy:.1%}" for _, s in columns]),
        ("macro F1", ["" if s.macro_f1 is None else f"{s.macro_f1:.3f}" for _, s in columns]),
    ]
    widths = [max(len(name), 7) for name, _ in columns]
    label = max(_LABEL, *(len(name) for name, _ in rows)) + 2

    def line(name: str, cells: list[str]) -> str:
        return "  " + name.ljust(label) + "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))

    lines = [f"{section.what}: {section.windows} of {section.lives} lives{padded}"]
    lines += [line("", [name for name, _ in columns])]
    lines += [line(name, cells).rstrip() for name, cells in rows if any(cells)]
    if (d := section.difference) is not None:
        span = f"{d.low:+.2f} to {d.high:+.2f}"
        lines.append(
            f"  network - tree: {d.value:+.2f} {unit}; {d.level:.0%} of paired resamples of the lives in {span}"
        )
    if (c := section.coverage) is not None:
        below = "" if c.below_cap is None else f", {c.below_cap:.1%} of those below the cap"
        lines.append(
            f"  intervals at {c.level:.0%} hold {c.coverage:.1%}{below}; {c.mean_width:.1f} {unit} wide on average"
        )
    return lines


def _lead_time(network: LeadTime, tree: LeadTime | None, unit: str) -> list[str]:
    lines = [
        f"warning before failure: RUL told below {network.below:g} {unit} for {network.patience} windows in a row, "
        f"{network.lives} lives kept for calibration"
    ]
    for name, of in (("network", network), ("tree", tree)):
        if of is not None:
            told = "" if not of.leads else f"{of.shortest:.0f} to {of.longest:.0f} {unit}, median {of.median:.0f}; "
            lines.append(f"  {name:<8} {told}{of.missed} lives without a warning")
    return lines


def _detection(name: str, found: Detection) -> list[str]:
    exposure = "" if found.exposure_days is None else f", {found.exposure_days:.0f} days of them"
    auc = "" if found.auc is None else f"AUC {found.auc:.3f}; "
    lines = [
        f"failures told ahead, by the {name}: {auc}{found.near} windows with at most {found.horizon:g} {found.unit} "
        f"left, {found.far} with more{exposure}"
    ]
    for p in found.points:
        lead = "" if p.lead is None else f", {p.lead:.0f} {found.unit} before (median)"
        often = "" if p.episodes_a_month is None else f"; {p.episodes_a_month:.2f} false episodes an asset and month"
        lines.append(
            f"  at {p.false_alarms} false alarms of {p.far} ({p.asked:.0%}): {p.found} of {p.failures} failures, 95% "
            f"interval {p.found_low:.0%} to {p.found_high:.0%}{lead}{often}"
        )
    return lines
