"""The pictures of RUL."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.adapters.http.chart import bar, history, sparkline
from edge_rul.core.trace import Point

NAN = float("nan")
POINTS = st.lists(
    st.builds(Point, st.integers(0, 3), st.integers(0, 2**53), st.floats(0, 1e6, width=32), st.just(NAN), st.just(NAN)),
    min_size=1,
    max_size=60,
    unique_by=lambda p: p[:2],
).map(sorted)


def numbers(text: str, tag: str, name: str) -> list[tuple[float, float]]:
    found = ET.fromstring(text).find(f".//{tag}[@class='{name}']")
    assert found is not None
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", found.attrib["points"])]


def test_rul_runs_down_and_its_interval_lies_around_it() -> None:
    points = [Point(0, c, 100.0 - c, 90.0 - c, 120.0 - c) for c in range(0, 90, 10)]
    text = history(points, 125.0, "cycles", [("low", 30.0)])
    line, band = numbers(text, "polyline", "rul"), numbers(text, "polygon", "band")
    assert [y for _, y in line] == sorted(y for _, y in line), "down the screen"
    high, low = band[: len(points)], band[: len(points) - 1 : -1]
    assert all(h[1] < y[1] < lo[1] for h, y, lo in zip(high, line, low, strict=True))
    assert "from 100 cycles at cycle 0 of life 0 to 20 cycles at cycle 80 of life 0" in text


def test_without_an_interval_there_is_no_band() -> None:
    assert "polygon" not in history([Point(0, 1, 5.0, NAN, NAN), Point(0, 2, 4.0, NAN, NAN)], 125.0, "s", [])


def test_lives_stand_beside_each_other_whatever_their_cycles() -> None:
    points = [Point(0, 1000, 5.0, NAN, NAN), Point(0, 1001, 4.0, NAN, NAN), Point(1, 1, 99.0, NAN, NAN)]
    text = history(points, 125.0, "s", [])
    assert text.count('class="life"') == 1 and text.count('class="rul"') == 2


@given(POINTS)
def test_whatever_the_points_it_is_drawn_inside_the_frame(points: list[Point]) -> None:
    text = history(points, 125.0, "<&>", [("a<b", 30.0)])
    root = ET.fromstring(text)
    for node in root.iter():
        for x, y in re.findall(r"([-\d.e]+),([-\d.e]+)", node.attrib.get("points", "")):
            assert 0 <= float(x) <= 720 and 0 <= float(y) <= 260
    ET.fromstring(sparkline(points, 125.0) or "<svg/>")


@pytest.mark.parametrize(("low", "high", "mark"), [(0, 1, 99), (0, 1, -99), (5, 5, 5), (5, 5, 6)])
def test_a_mark_beyond_the_scale_stays_on_it(low: float, high: float, mark: float) -> None:
    circle = ET.fromstring(bar(low, high, mark, (low, high))).find("circle")
    assert circle is not None and 0 <= float(circle.attrib["cx"]) <= 120


def test_an_interval_without_an_upper_end_reaches_the_top() -> None:
    points = [Point(0, c, 110.0, 95.0, NAN) for c in range(3)]
    band = numbers(history(points, 125.0, "cycles", []), "polygon", "band")
    assert [y for _, y in band[:3]] == [12.0] * 3 and all(y > 12 for _, y in band[3:])


def test_where_readings_have_no_numbers_the_axis_says_when_they_were() -> None:
    begun = 1_767_225_600_000
    text = history(
        [Point(0, begun + i * 600_000, 100.0 - i, float("nan"), float("nan")) for i in range(9)], 125.0, "h", []
    )
    assert ">2026-01-01 00:00:00</text>" in text
    assert "to 92 h at cycle 2026-01-01 01:20:00 of life 0" in text
