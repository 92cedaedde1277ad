"""A report as a page that needs nothing else, and as JSON.

Owns the page: what stands where, in which words. The pictures are `report_plots`'; nothing of the clock goes in, so
that the same bundle and data give the same files.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import msgspec

from edge_rul.bundle import Bundle
from edge_rul.errors import DataError
from edge_rul.training.breakdown import Band
from edge_rul.training.detection import Detection
from edge_rul.training.evaluate import Evidence
from edge_rul.training.metrics import Scores
from edge_rul.training.report import Report, Section
from edge_rul.training.report_plots import Plot, draw

PAGE, FIGURES, PLOTS = "report.html", "report.json", "plots"
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.of { margin-top: 0.2rem; color: #555; } code { font-size: 0.9em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.6rem 0; } caption { text-align: left; padding: 0.2rem 0; color: #555; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; } th[scope=row], thead th:first-child { text-align: left; font-weight: 400; }
figure { margin: 0.8rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #555; max-width: 52rem; }
.note { border-left: 4px solid #b3261e; padding: 0.2rem 0.8rem; background: #fdf3f2; }
"""


def write(directory: Path, bundle: Bundle, evidence: Evidence, report: Report) -> Path:
    """Write report.html, report.json and plots/ into `directory`. Returns the page's path. Raises DataError."""
    plots = draw(bundle, evidence, report)
    try:
        (directory / PLOTS).mkdir(parents=True, exist_ok=True)
        for plot in plots:
            (directory / PLOTS / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
        (directory / FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        (directory / PAGE).write_text(page(bundle, report, plots), encoding="utf-8")
    except OSError as e:
        raise DataError("write report", str(directory), f"cannot be written: {e.strerror or e}") from None
    return directory / PAGE


def page(bundle: Bundle, report: Report, plots: list[Plot]) -> str:
    """The whole page."""
    subset = f" on {escape(report.subset)}" if report.subset else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in report.notes)
    tables = "\n".join(_figures(section, report) for section in report.sections)
    pictures = {plot.name: _picture(plot) for plot in plots}
    more = {
        "bands": "".join(_bands(section, report) for section in report.sections),
        "intervals": _coverage(report),
        "lead_time": _lead_times(report),
    }
    body = "\n".join(f"{picture}\n{more.get(name, '')}" for name, picture in pictures.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.bundle)}{subset}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(report.bundle)}{subset}</h1>
<p class="of">{escape(bundle.manifest.description)}. Bundle <code>{report.sha256[:12]}</code>, made by
<code>{escape(str(bundle.manifest.training.get("command", "?")))}</code>; this page by
<code>edge-rul evaluate BUNDLE --data DIR --report DIR</code>.</p>
{notes}<h2>Figures</h2>
<p>Labels are capped at {report.cap:g} {escape(report.unit)}. The network learnt from none of these lives. The trees are
gradient-boosted ones (scikit-learn, 200 rounds, never tuned) on a few numbers of each window, fitted on the lives that
the network was fitted on, with its normaliser; a network that does not beat them has not earned its place. The one that
is better on the lives kept for calibration, <em>{escape(report.tree or "none")}</em>, is compared below.</p>
{tables}
{_beside(report)}
{body}
</body>
</html>
"""


def _table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        lines.append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _figures(section: Section, report: Report) -> str:
    columns: list[Scores] = [section.network, *section.trees.values()]
    padded = f", {section.padded} of them shorter than the window and padded" if section.padded else ""
    rows = [
        [f"RMSE, {report.unit}", *(f"{s.rmse:.2f}" for s in columns)],
        [f"mean absolute error, {report.unit}", *(f"{s.mae:.2f}" for s in columns)],
        [f"bias, {report.unit}", *(f"{s.bias:+.2f}" for s in columns)],
        ["NASA score", *("" if s.nasa_score is None else f"{s.nasa_score:.1f}" for s in columns)],
        ["class accuracy", *("" if s.accuracy is None else f"{s.accuracy:.1%}" for s in columns)],
        ["macro F1", *("" if s.macro_f1 is None else f"{s.macro_f1:.3f}" for s in columns)],
    ]
    table = _table(
        f"{section.what}: {section.windows} windows of {section.lives} lives{padded}",
        ["", "network", *(f"tree: {name}" for name in section.trees)],
        [row for row in rows if any(row[1:])],
    )
    if (d := section.difference) is None:
        return table
    sure = "the network is better" if d.high < 0 else "the tree is better" if d.low > 0 else "neither is surely better"
    return table + (
        f"<p>RMSE of network minus tree: {d.value:+.2f} {escape(report.unit)}; {d.level:.0%} of {d.resamples:,} paired "
        f"resamples of the lives lie in {d.low:+.2f} to {d.high:+.2f}: {sure}.</p>\n"
    )


def _beside(report: Report) -> str:
    """The plainest yardstick, failures told ahead, and what the rules for dirt did."""
    text = ""
    if report.mean_rmse is not None:
        text += f"<p>Always answering the training mean: RMSE {report.mean_rmse:.2f} {escape(report.unit)}.</p>\n"
    for name, found in (("network", report.detection), ("tree", report.tree_detection)):
        text += _detection(name, found) if found is not None else ""
    counts = [
        [f"{part}: {rule.replace('_', ' ')}", str(n)] for part, by in report.rules.items() for rule, n in by.items()
    ]
    return text + (
        _table("What the rules for dirt did to the files of each part of the data", ["", "times"], counts)
        if counts
        else ""
    )


def _detection(name: str, found: Detection) -> str:
    rows = [
        [
            f"{p.asked:.0%}",
            f"{p.false_alarms} of {p.far}",
            f"{p.found} of {p.failures}",
            f"{p.found_low:.0%} to {p.found_high:.0%}",
            _number(p.lead),
            _number(p.episodes_a_month, ".2f"),
        ]
        for p in found.points
    ]
    exposure = "" if found.exposure_days is None else f", {found.exposure_days:.0f} days of them"
    caption = (
        f"Failures told ahead by the {name}: AUC {_number(found.auc, '.3f')} of {found.near} windows with at most "
        f"{found.horizon:g} {found.unit} left against {found.far} with more{exposure}"
    )
    head = ["false alarms allowed", "they were", "found", "95% interval", f"{found.unit} before", "false a month"]
    return _table(caption, head, rows)


def _bands(section: Section, report: Report) -> str:
    tree: list[Band | None] = [*section.tree_bands] or [None] * len(section.bands)
    rows = [
        [
            f"{b.low:g} to {b.high:g}" if b.high is not None else f"at the cap, {b.low:g} and more",
            str(b.windows),
            *(_number(of.rmse if of else None) for of in (b, t)),
            *(_number(of.bias if of else None, "+.1f") for of in (b, t)),
            _number(b.coverage, ".1%"),
            _number(b.width),
        ]
        for b, t in zip(section.bands, tree, strict=True)
    ]
    head = ["true RUL", "windows", "RMSE", "of the tree", "bias", "of the tree", "in the interval", "its width"]
    return _table(f"{section.what}, in {report.unit}", head, rows)


def _coverage(report: Report) -> str:
    rows = [
        [
            s.what,
            f"{c.level:.0%}",
            f"{c.coverage:.1%}",
            _number(c.below_cap, ".1%"),
            f"{c.late:.1%}",
            f"{c.early:.1%}",
            f"{c.mean_width:.1f}",
            f"{c.median_width:.1f}",
        ]
        for s in report.sections
        if (c := s.coverage) is not None
    ]
    head = ["windows", "level", "held", "below the cap", "fails before", "fails after", "mean width", "median width"]
    return _table(f"Widths up to the cap, in {report.unit}", head, rows) if rows else ""


def _lead_times(report: Report) -> str:
    rows = [
        [name, str(of.lives), str(of.missed), _number(of.shortest), _number(of.median), _number(of.longest)]
        for name, of in (("network", report.lead_time), ("tree", report.tree_lead_time))
        if of is not None
    ]
    head = ["", "lives", "without a warning", "shortest", "median", "longest"]
    return _table(f"True RUL at the warning, {report.unit}", head, rows) if rows else ""


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def _picture(plot: Plot) -> str:
    data = base64.b64encode(plot.svg.encode()).decode()
    return (
        f"<h2>{escape(plot.title)}</h2>\n<figure><figcaption>{escape(plot.caption)}</figcaption>\n"
        f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(plot.title)}"></figure>'
    )
