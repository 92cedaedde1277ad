"""Topic templates and asset names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rul.core.topic import Asset, Template, name_problem, topic_problem

_LEVEL = st.text(
    st.characters(blacklist_characters="/+#{}$", blacklist_categories=("Cc", "Cs")), min_size=1, max_size=8
)


@given(line=_LEVEL, asset=_LEVEL)
def test_format_and_match_are_inverse(line: str, asset: str) -> None:
    template = Template("plant/{line}/{asset}/cycle")
    levels = {"line": line, "asset": asset}
    assert template.match(template.format(levels)) == levels


@pytest.mark.parametrize("topic", ["plant/A/x", "plant/A/x/cycle/more", "Plant/A/x/cycle", "plant/A/x/cycles", ""])
def test_other_topics_do_not_match(topic: str) -> None:
    assert Template("plant/{line}/{asset}/cycle").match(topic) is None


def test_filter_has_a_plus_for_each_name() -> None:
    template = Template("plant/{line}/{asset}/cycle")
    assert template.filter == "plant/+/+/cycle"
    assert template.names == ("line", "asset")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/{b",
        "a/x{b}/c",
        "a/+/c",
        "a/#",
        "a/{b}/{b}",
        "$share/g/a/{asset}",
        "$SYS/{asset}",
        "a/\x00/{asset}",
        "a/\ufdd0/{asset}",
        "a/" * 64 + "{asset}",
        "x" * 1020 + "/{asset}",
    ],
)
def test_a_wrong_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Template(text)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("plant/{asset}/cycle", "plant/{asset}/cycle", True),
        ("plant/{asset}/cycle", "{site}/{asset}/{what}", True),
        ("plant/{asset}/cycle", "edge/{asset}/cycle", False),
        ("plant/{asset}/cycle", "plant/{asset}", False),
        ("plant/{line}/x", "plant/a/{asset}", True),
    ],
)
def test_overlap_is_symmetric(a: str, b: str, expected: bool) -> None:
    assert Template(a).overlaps(Template(b)) is expected
    assert Template(b).overlaps(Template(a)) is expected


@pytest.mark.parametrize(
    "name", ["", "a/b", "a+", "#", "a\x00b", "a\nb", "a\x85b", "\ud800", "x" * 129, "$SYS", "_daemon"]
)
def test_names_that_do_not_fit_into_a_level(name: str) -> None:
    assert name_problem(name) is not None


@pytest.mark.parametrize("name", ["engine-001", "Pumpe Süd 3", "泵", "x" * 128])
def test_names_of_a_plant(name: str) -> None:
    assert name_problem(name) is None


# What Mosquitto takes for malformed; the neighbours are characters as any other.
NONCHARACTERS = ["\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001fffe", "\U0001ffff", "\U0010fffe", "\U0010ffff"]


def test_no_name_and_no_topic_holds_what_unicode_says_is_no_character() -> None:
    for character in NONCHARACTERS:
        assert "noncharacter" in str(name_problem(f"pump{character}"))
        assert "noncharacter" in str(topic_problem(f"answers/{character}"))
    for character in "\ufdcf\ufdf0\ufffd\U0001fffd\U00020000\U0010fffd":
        assert name_problem(character) is topic_problem(character) is None


def test_a_topic_has_as_many_levels_as_any_broker_takes() -> None:
    assert topic_problem("/".join("x" * 64)) is None
    assert topic_problem("/".join("x" * 65)) == "has 65 levels, at most 64 are allowed"
    longest = "/".join(["{asset}", *"x" * 63])
    assert Template(longest).format({"asset": "pump"}).count("/") == 63


def test_the_same_name_on_another_line_is_another_asset() -> None:
    assert Asset("pump-1", (("line", "A"),)) != Asset("pump-1", (("line", "B"),))
