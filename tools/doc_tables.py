"""The tables of docs/ that the code decides: configuration keys, alarm states, reasons, exit codes, log events.

    python tools/doc_tables.py     brings them up to date; tests/test_docs.py fails while they are not

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. The code gives its rows, with types and defaults; what
a row means stands in the table's last column, is written by hand, and is kept. A new row begins as TODO.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from log_events import events
from msgspec import inspect

from edge_rul import errors
from edge_rul.config import Settings
from edge_rul.core.alarm import TABLE, HealthAlarm, RulAlarm, State
from edge_rul.yaml_file import describe

DOCS = Path(__file__).parent.parent / "docs"
TODO = "TODO"
_BLOCK = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)

Rows = list[tuple[str, ...]]


def settings_tables() -> dict[str, Callable[[], tuple[tuple[str, ...], Rows]]]:
    """A table for each section of the settings, by dotted key; "settings" is the top."""
    tables: dict[str, Callable[[], tuple[tuple[str, ...], Rows]]] = {}

    def add(name: str, struct: inspect.StructType) -> None:
        rows: Rows = [(f"`{struct.tag_field}`", f"{struct.tag}", "**required**")] if struct.tag_field else []
        for field in struct.fields:
            sections = [i for i in _plain(field.type) if isinstance(i, inspect.StructType)]
            rows.append((f"`{field.encode_name}`", _type(field.type, bool(sections)), _default(field)))
            for section in sections:
                inner = field.encode_name if name == "settings" else f"{name}.{field.encode_name}"
                if isinstance(field.type, inspect.DictType):
                    inner += ".NAME"
                if section.tag is not None:
                    inner += f" ({section.tag})"
                add(inner, section)
        tables[name] = lambda: (("key", "value", "default", "meaning"), rows)

    add("settings", _struct(Settings))
    assert {RulAlarm, HealthAlarm} <= {i.cls for i in _all_structs(_struct(Settings))}
    return tables


def alarm_states() -> tuple[tuple[str, ...], Rows]:
    rows = [
        (f"`{old.value}`", signal.value, f"`{new.value}`", f"`{event.value}`" if event else "")
        for state in State
        for (old, signal), (new, event) in TABLE.items()
        if old is state
    ]
    return ("state", "what happens", "next state", "event"), rows


def reasons() -> tuple[tuple[str, ...], Rows]:
    return ("reason", "meaning"), [(f"`{reason.value}`",) for reason in errors.Reason]


def exit_codes() -> tuple[tuple[str, ...], Rows]:
    codes = sorted(value for name, value in vars(errors).items() if name.startswith("EXIT_"))
    return ("code", "meaning"), [(f"`{code}`",) for code in codes]


def log_table() -> tuple[tuple[str, ...], Rows]:
    return ("event", "level", "meaning"), [
        (f"`{n}`", ", ".join(sorted(levels))) for n, levels in sorted(events().items())
    ]


def tables() -> dict[str, dict[str, Callable[[], tuple[tuple[str, ...], Rows]]]]:
    """Document -> table's name -> what gives its heading and rows."""
    return {
        "configuration.md": settings_tables(),
        "logs.md": {"events": log_table},
        "topics.md": {"alarm states": alarm_states, "reasons": reasons, "exit codes": exit_codes},
    }


def updated(name: str, text: str) -> str:
    """The document with its tables as the code has them. ValueError where a table is missing or unknown."""
    wanted = tables()[name]
    there = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(there) != sorted(wanted):
        lacking, unknown = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
        raise ValueError(f"{name} lacks the tables {lacking}, has {unknown} which the code does not know, or one twice")
    return _BLOCK.sub(lambda m: m[1] + _table(*wanted[m["name"]](), m["body"]) + m[4], text)


def _table(heading: tuple[str, ...], rows: Rows, old: str) -> str:
    meanings = {}
    for line in old.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(heading):
            meanings[cells[0]] = cells[-1]
    if rows and len(rows[0]) < len(heading):
        rows = [(*row, meanings.get(row[0], TODO)) for row in rows]
    lines = [heading, ("---",) * len(heading), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _struct(type: Any) -> inspect.StructType:
    info = inspect.type_info(type)
    assert isinstance(info, inspect.StructType)
    return info


def _plain(info: Any) -> list[Any]:
    """The alternatives of a type, those of its items where it is a list or a mapping."""
    if isinstance(info, inspect.UnionType):
        return [plain for alternative in info.types for plain in _plain(alternative)]
    if isinstance(info, inspect.ListType):
        return _plain(info.item_type)
    if isinstance(info, inspect.DictType):
        return _plain(info.value_type)
    return [info]


def _all_structs(struct: inspect.StructType) -> list[inspect.StructType]:
    inner = [i for field in struct.fields for i in _plain(field.type) if isinstance(i, inspect.StructType)]
    return [struct, *(found for i in inner for found in _all_structs(i))]


def _type(info: Any, section: bool) -> str:
    if isinstance(info, inspect.ListType):
        return "list" if section else "list of text"
    if section:
        return "keys"
    text = describe(info).removeprefix("a ").replace("one of: ", "")
    return text.replace("|", r"\|")


def _default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    default = field.default_factory() if field.default is inspect.NODEFAULT else field.default
    if isinstance(default, msgspec.Struct):
        return "see there"
    if default is None or default in ({}, []):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default.value if isinstance(default, Enum) else default}`"


def main() -> int:
    todo = 0
    for name in tables():
        path = DOCS / name
        text = updated(name, path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
        todo += text.count(f"| {TODO} |")
        print(f"docs/{name}: {len(_BLOCK.findall(text))} tables")
    if todo:
        print(f"{todo} rows say {TODO}: write what they mean")
    return int(todo > 0)


if __name__ == "__main__":
    sys.exit(main())
