"""The documentation says what the code does: its tables, its examples, its links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import doc_tables
import pytest
import yaml
from conftest import ROOT

from edge_rul.config import load_settings
from edge_rul.core.payload import Decoder
from edge_rul.core.topic import Template

DOCS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
TOPICS = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(doc_tables.tables()))
def test_the_tables_are_what_the_code_says(name: str) -> None:
    text = (doc_tables.DOCS / name).read_text(encoding="utf-8")
    assert text == doc_tables.updated(name, text), "run python tools/doc_tables.py"
    assert doc_tables.TODO not in text, "write what these rows mean"
    assert not re.search(r"(?m)^\|.*meaning \|\n(\|.*\n)*\|.*\| +\|$", text), "a meaning is empty"


def test_a_table_that_is_missing_or_unknown_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"lacks the tables \['log'\]"):
        doc_tables.updated("configuration.md", CONFIGURATION.replace("<!-- table: log -->", ""))
    with pytest.raises(ValueError, match=r"has \['logs'\]"):
        doc_tables.updated("configuration.md", CONFIGURATION.replace("table: log -->", "table: logs -->"))


def test_a_new_row_begins_as_todo_and_a_meaning_is_kept() -> None:
    line = next(line for line in CONFIGURATION.splitlines() if line.startswith("| `port` "))
    without = CONFIGURATION.replace(line + "\n", "")
    assert "| `port` | whole number from 1 to 65535 | `1883` | TODO |" in doc_tables.updated(
        "configuration.md", without
    )
    stale = CONFIGURATION.replace("`1883`", "`1`")
    assert stale != CONFIGURATION
    assert doc_tables.updated("configuration.md", stale) == CONFIGURATION


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_short_configuration_is_one(tmp_path: Path) -> None:
    example = blocks(CONFIGURATION, "yaml")[0]
    path = tmp_path / "edge-rul.yaml"
    path.write_text(example)
    loaded, _ = load_settings(path)
    assert loaded.topics.readings == ["plant/{asset}/cycle"]
    for more in blocks(CONFIGURATION, "yaml")[1:]:
        path.write_text(example + more)
        assert yaml.safe_load(more).keys() <= load_settings(path)[1].data.keys()


def test_the_readings_and_commands_shown_are_taken() -> None:
    decoder = Decoder(
        ["T24", "T30", "T50"],
        [Template("plant/{line}/{asset}/cycle"), Template("plant/{line}/{asset}/{sensor}/now")],
        command=Template("edge-rul/command"),
    )
    readings = blocks(TOPICS.partition("## In: readings")[2].partition("\n## ")[0], "json")
    assert [len(json.loads(r)) if r.startswith("[") else 1 for r in readings] == [1, 1, 2, 1, 1]
    for payload in readings:
        last = "T24/now" if '"value"' in payload else "cycle"
        decoded = decoder.decode(f"plant/line-a/engine-7/{last}", payload.encode(), 1_800_000_000_000)
        assert decoded.rejected == []
        assert decoded.entries
    shown = blocks(TOPICS.partition("## In: commands")[2].partition("\n## ")[0], "json")
    commands = [text for text in shown if "edge-rul/reply" not in text]
    assert len(commands) == 4
    for payload in commands:
        decoded = decoder.decode("edge-rul/command", payload.encode(), 0)
        assert decoded.rejected == []
        assert [str(entry.asset) for entry in decoded.entries] == ["line-a/engine-7"]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", found.read_text(encoding="utf-8"))
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_files_of_the_repository_that_are_named_are_there(path: Path) -> None:
    named = r"`((?:configs|docs|edge_rul|systemd|tests|tools)/[\w./-]+\.[a-z]+)`"
    for file in re.findall(named, path.read_text(encoding="utf-8")):
        assert (ROOT / file).exists(), f"{path.name} names {file}"


def test_the_training_configuration_shown_is_one(tmp_path: Path) -> None:
    from edge_rul.training import settings

    path = tmp_path / "pumps.yaml"
    path.write_text(blocks((ROOT / "docs" / "own-data.md").read_text(encoding="utf-8"), "yaml")[0])
    assert settings.load_settings(path).name == "pumps"
