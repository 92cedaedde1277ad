"""docs/schemas: the JSON schema of each shape that the daemon publishes, written from its types.

python tools/schemas.py        write them; tests/test_schemas.py fails while they are not what the code publishes
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_rul.core.outgoing import schemas

DIRECTORY = Path(__file__).parent.parent / "docs" / "schemas"


def rendered() -> dict[str, str]:
    """File name -> text."""
    return {f"{name}.schema.json": json.dumps(_unwrapped(s), indent=2) + "\n" for name, s in schemas().items()}


def _unwrapped(node: Any) -> Any:
    """With descriptions, which are docstrings, as running text."""
    if isinstance(node, list):
        return [_unwrapped(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _unwrapped(value)
        for key, value in node.items()
    }


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    files = rendered()
    for stale in {f.name for f in DIRECTORY.glob("*.json")} - set(files):
        (DIRECTORY / stale).unlink()
    for name, text in files.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
        print(f"wrote {DIRECTORY.name}/{name}")


if __name__ == "__main__":
    main()
