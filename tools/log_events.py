"""Every event that the package logs, read off its source: name -> levels.

    python tools/log_events.py     prints them; tools/doc_tables.py puts them into docs/logs.md

An event's name is a constant where it is logged, so that a search finds it: a call whose name is anything else is an
error here. Knows no meaning.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "edge_rul"
_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def events(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Raises ValueError that names file and line where an event has no constant name."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name, level in _logged(node) if isinstance(node, ast.Call) else ():
                if name:
                    found.setdefault(name, set()).add(level)
                elif path.name != "log.py":  # which passes names on
                    raise ValueError(f"{path.name}:{node.lineno}: an event's name must stand there as a constant")
    return found


def _logged(call: ast.Call) -> list[tuple[str, str]]:
    """(name, level) of what a call logs, the name empty where it is no constant; nothing for any other call."""
    levels = [_level(function, call) for function in _either(call.func)]
    names = [_text(name) for name in _either(call.args[0] if call.args else None)]
    if not all(levels):
        return []
    if len(levels) == len(names):
        return list(zip(names, levels, strict=True))  # two conditionals in one call are one and the same
    return [(name, level) for name in names for level in levels]


def _either(node: ast.expr | None) -> list[ast.expr | None]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _level(function: ast.expr | None, call: ast.Call) -> str:
    """Of a call on something that is called a log, or on a log's Summary; "" for any other call."""
    if not isinstance(function, ast.Attribute):
        return ""
    of = function.value
    name = (of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else "").strip("_")
    if name == "faults" and function.attr == "fault":
        return next((_text(k.value) for k in call.keywords if k.arg == "level"), "warning")
    return _LEVELS.get(function.attr, "") if name == "log" else ""


def main() -> int:
    for name, levels in sorted(events().items()):
        print(f"{name:<26} {', '.join(sorted(levels))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
