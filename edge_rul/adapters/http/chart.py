"""Pictures of RUL as SVG text, drawn here, so that the page needs no library and no script.

Owns geometry and escaping of what it draws. Colours and widths are the style sheet's, by class.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from edge_rul.adapters.http.words import cycle
from edge_rul.core.trace import Point

SPARK_POINTS = 24
_SPARK = (96, 22)
_SIZE = (720, 260)
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 30


def sparkline(points: Sequence[Point], top: float) -> str:
    """RUL of the last points of one life on a scale from 0 to `top`. Decoration: the row says it in words."""
    if len(points) < 2:
        return ""
    width, height = _SPARK
    step = (width - 4) / (SPARK_POINTS - 1)
    start = width - 2 - step * (len(points) - 1)
    line = " ".join(
        f"{start + step * i:.1f},{height - 2 - (height - 4) * _share(p.rul, top):.1f}" for i, p in enumerate(points)
    )
    end_y = height - 2 - (height - 4) * _share(points[-1].rul, top)
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
        f'<polyline points="{line}"/><circle cx="{width - 2}" cy="{end_y:.1f}" r="2"/></svg>'
    )


def bar(low: float, high: float, mark: float, scale: tuple[float, float]) -> str:
    """A range from `low` to `high` with a mark, on a scale. Decoration."""
    width, height = 120, 14
    first, last = scale

    def x(value: float) -> float:
        return 4 + (width - 8) * min(1.0, max(0.0, (value - first) / (last - first) if last > first else 0.5))

    return (
        f'<svg class="bar" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
        f'<line x1="4" x2="{width - 4}" y1="7" y2="7"/>'
        f'<rect x="{x(low):.1f}" y="4" width="{max(2.0, x(high) - x(low)):.1f}" height="6" rx="3"/>'
        f'<circle cx="{x(mark):.1f}" cy="7" r="4"/></svg>'
    )


def history(points: Sequence[Point], top: float, unit: str, limits: Sequence[tuple[str, float]]) -> str:
    """RUL over cycles, life beside life, with its interval and the alarms' limits. limits: name and RUL of each."""
    if not points:
        return ""
    width, height = _SIZE
    top = max([top, *(p.high for p in points if not math.isnan(p.high)), *(p.rul for p in points)])
    xs = _positions(points)
    across = max(1, xs[-1])

    def x(value: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * value / across

    def y(rul: float) -> float:
        return height - _BOTTOM - (height - _TOP - _BOTTOM) * _share(rul, top)

    parts = [_axis(height, width, top, y, unit)]
    for name, limit in limits:
        at = y(limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="limit" x="{_LEFT + 4}" y="{at - 4:.1f}">{escape(name)} {limit:g}</text>')
    for begin, end in _lives(points):
        some = list(zip(xs[begin:end], points[begin:end], strict=True))
        if begin:
            at = x(xs[begin])
            parts.append(f'<line class="life" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{y(0):.1f}"/>')
        band = [(at, p) for at, p in some if not math.isnan(p.low)]
        if band:
            edge = [f"{x(at):.1f},{y(top if math.isnan(p.high) else p.high):.1f}" for at, p in band]
            edge += [f"{x(at):.1f},{y(p.low):.1f}" for at, p in reversed(band)]
            parts.append(f'<polygon class="band" points="{" ".join(edge)}"/>')
        line = " ".join(f"{x(at):.1f},{y(p.rul):.1f}" for at, p in some)
        parts.append(f'<polyline class="rul" points="{line}"/>')
    parts.append(f'<circle class="now" cx="{x(xs[-1]):.1f}" cy="{y(points[-1].rul):.1f}" r="4"/>')
    parts += [
        f'<text class="tick" x="{x(xs[i]):.1f}" y="{height - 10}" text-anchor="{at}">{cycle(points[i].cycle)}</text>'
        for i, at in _cycle_ticks(points, xs, across)
    ]
    first, last = points[0], points[-1]
    told = escape(
        f"RUL from {first.rul:.0f} {unit} at cycle {cycle(first.cycle)} of life {first.life} "
        f"to {last.rul:.0f} {unit} at cycle {cycle(last.cycle)} of life {last.life}"
    )
    drawn = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{told}">{drawn}</svg>'


def _share(value: float, top: float) -> float:
    return min(1.0, max(0.0, value / top)) if top > 0 else 0.0


def _positions(points: Sequence[Point]) -> list[int]:
    """Each point's place on the axis: cycles of a life as they are, the next life right after the last."""
    place, places = 0, [0]
    for before, point in pairwise(points):
        place += point.cycle - before.cycle if point.life == before.life else 1
        places.append(place)
    return places


def _lives(points: Sequence[Point]) -> list[tuple[int, int]]:
    """The range of indices of each life."""
    cuts = [0, *(i for i in range(1, len(points)) if points[i].life != points[i - 1].life), len(points)]
    return list(pairwise(cuts))


def _cycle_ticks(points: Sequence[Point], xs: Sequence[int], across: int) -> list[tuple[int, str]]:
    """The first and last point, and what lies far enough from both between them."""
    if len(points) == 1:
        return [(0, "start")]
    last = len(points) - 1
    near = [bisect_left(xs, across * part) for part in (0.25, 0.5, 0.75)]
    between = [i for i in dict.fromkeys(near) if 0.15 < xs[i] / across < 0.85]
    return [(0, "start"), *((i, "middle") for i in between), (last, "end")]


def _axis(height: int, width: int, top: float, y: Callable[[float], float], unit: str) -> str:
    """Lines at round numbers, at most six."""
    raw = top / 5
    size = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw) if raw > 0 else 1
    parts = []
    for n in range(int(top / step) + 1):
        at = y(n * step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{n * step:g}</text>')
    parts.append(
        f'<text class="tick" x="{width - _RIGHT}" y="{_TOP + 16}" text-anchor="end">RUL, {escape(unit)}</text>'
    )
    return "".join(parts)
