"""Exports and comparisons as files and as text: CSV, Parquet, a table on the terminal, JSON.

Owns the columns' names and their order. A column of an input begins with `value_`, one of a health class with
`probability_`, so that no name of a plant's can be taken for one of ours. Knows no journal and no engine.
"""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.outgoing import iso
from edge_rul.core.topic import Asset
from edge_rul.errors import DataError
from edge_rul.lookback import USED, Compared, Row

_VALUE, _PROBABILITY, _LEVEL = "value_", "probability_", "level_"
_SHOWN = 20  # rows of a comparison on the terminal
Columns = dict[str, list[Any]]


def columns(rows: list[Row], bundle: Bundle) -> Columns:
    """An export as columns; None where there is nothing to say. Values are float32, as they came."""
    inputs = [i.name for i in bundle.manifest.inputs]
    classes = [c.name for c in bundle.manifest.classes]
    answers = [row.prediction for row in rows]
    found: Columns = {
        "seq": [row.seq for row in rows],
        "asset": [row.reading.asset.name for row in rows],
    }
    for level in [name for name, _ in rows[0].reading.asset.levels] if rows else []:
        found[_LEVEL + level] = [dict(row.reading.asset.levels)[level] for row in rows]
    found["life"] = [row.life for row in rows]
    found["key"] = [row.reading.key for row in rows]
    found["cycle"] = [row.reading.cycle for row in rows]
    found["ts"] = [iso(row.reading.time) for row in rows]
    found["verdict"] = [row.verdict for row in rows]
    for index, name in enumerate(inputs):
        found[_VALUE + name] = [None if np.isnan(v := row.reading.values[index]) else v for row in rows]
    found["rul"] = [p and p.rul for p in answers]
    found["rul_low"] = [p and p.bounds[0] for p in answers]
    found["rul_high"] = [p and p.bounds[1] for p in answers]  # none beside a rul_low: the interval has no upper end
    found["rul_unit"] = [p and p.rul_unit for p in answers]
    found["class"] = [p and p.health.name for p in answers]
    for name in classes:
        found[_PROBABILITY + name] = [p and p.health.probabilities[name] for p in answers]
    found["revision"] = [p and p.revision for p in answers]
    found["quality"] = [p and p.quality.state for p in answers]
    found["held"] = [p and p.quality.held for p in answers]
    found["missing_cycles"] = [p and p.quality.missing_cycles for p in answers]
    found["outside"] = [p and " ".join(p.quality.outside) for p in answers]
    found["unknown_condition"] = [p and p.quality.unknown_condition for p in answers]
    found["unknown_change"] = [p and p.quality.unknown_change for p in answers]
    found["bundle"] = [p and f"{p.bundle.name}@{p.bundle.sha256[:12]}" for p in answers]
    found["journal"] = [p and p.journal for p in answers]
    return found


def write(out: Path | None, table: Columns) -> None:
    """As Parquet or CSV by the name's end; None is CSV on stdout. Raises DataError."""
    if out is None:
        _write_csv(sys.stdout, table)
        return
    try:
        if out.suffix == ".parquet":
            _parquet(out).write_table(_arrow(out).table(table), out)
            return
        with out.open("w", encoding="utf-8", newline="") as file:
            _write_csv(file, table)
    except OSError as e:
        raise DataError("write", str(out), f"cannot be written: {e.strerror or e}") from None


def note(text: str, out: Path | None) -> None:
    """A word to the person, beside what may be piped."""
    print(f"{text}{'' if out is None else f' in {out}'}", file=sys.stderr)


def _write_csv(file: Any, table: Columns) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table)
    # str() of a float32 is the shortest text that reads back as the same float32.
    writer.writerows(["" if v is None else str(v) for v in row] for row in zip(*table.values(), strict=True))


def _arrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        hint = "python -m pip install 'edge-rul[parquet]', or name a .csv file"
        raise DataError("open", str(path), "Parquet needs the Python package pyarrow", hint=hint) from None


def _parquet(path: Path) -> Any:
    _arrow(path)
    return importlib.import_module("pyarrow.parquet")


def load(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """An export's rows, and the names of its inputs. Raises DataError where it is none.

    Each row has `asset` (Asset), `life`, `key`, `cycle`, `ts`, `verdict`, `values` by input, NaN where missing, and
    `rul`, `rul_unit`, `class`, `bundle`, None where the file has none.
    """
    names, raw = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    inputs = [name.removeprefix(_VALUE) for name in names if name.startswith(_VALUE)]
    if "cycle" not in names or "asset" not in names or not inputs:
        problem = f"is no export: it lacks {'asset, cycle or ' if inputs else ''}columns that begin with {_VALUE}"
        raise DataError("rescore", str(path), problem, hint="make one with `edge-rul export ASSET --out FILE`")
    levels = [name for name in names if name.startswith(_LEVEL)]
    rows = []
    for number, row in enumerate(raw, 2):
        try:
            rows.append(_row(row, inputs, levels))
        except (TypeError, ValueError) as e:
            raise DataError("rescore", f"{path}:{number}", f"cannot be read: {e}") from None
    return rows, inputs


def _row(row: dict[str, Any], inputs: Sequence[str], levels: Sequence[str]) -> dict[str, Any]:
    def given(name: str) -> Any:
        value = row.get(name)
        return None if value in (None, "") else value

    rul, life, verdict = given("rul"), given("life"), given("verdict") or USED
    asset = Asset(str(row["asset"]), tuple((name.removeprefix(_LEVEL), str(row[name])) for name in levels))
    return {
        "asset": asset,
        "life": None if life is None and verdict != USED else int(life or 0),
        "key": "time" if given("key") == "time" else "cycle",  # what was counted has a number by now
        "cycle": int(row["cycle"]),
        "ts": given("ts"),
        "verdict": verdict,
        "values": {n: float("nan") if (v := given(_VALUE + n)) is None else float(v) for n in inputs},
        "rul": None if rul is None else float(rul),
        **{name: given(name) for name in ("rul_unit", "class", "bundle")},
    }


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or []), rows
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError("rescore", str(path), f"cannot be read: {e}") from None


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        table = _parquet(path).read_table(path)
    except (OSError, ValueError) as e:  # what pyarrow raises for a file that is none is one of these
        raise DataError("rescore", str(path), f"cannot be read: {e}") from None
    return table.column_names, table.to_pylist()


class Report:
    """An export beside another bundle's answers."""

    def __init__(self, compared: list[Compared], path: Path, bundle: Bundle) -> None:
        self._path, self._bundle = path, bundle
        unit = bundle.manifest.rul.unit
        self._rows = [self._side_by_side(c, unit) for c in compared]
        self._differences = [r["difference"] for r in self._rows if r["difference"] is not None]
        both = [r for r in self._rows if r["class_file"] is not None and r["class_bundle"] is not None]
        mean = float(np.mean(np.abs(self._differences))) if self._differences else None
        largest = float(np.max(np.abs(self._differences))) if self._differences else None
        agree = sum(r["class_file"] == r["class_bundle"] for r in both) / len(both) if both else None
        self.summary = {
            "file": str(path),
            "bundle": f"{bundle.manifest.name}@{bundle.sha256[:12]}",
            "readings": len(self._rows),
            "compared": len(self._differences),
            "rul_unit": unit,
            "mean_difference": mean,
            "largest_difference": largest,
            "same_class": agree,
        }

    @staticmethod
    def _side_by_side(compared: Compared, unit: str) -> dict[str, Any]:
        file, p = compared.file, compared.prediction
        same_unit = file["rul_unit"] in (None, unit)
        there = p is not None and file["rul"] is not None and same_unit
        return {
            "asset": str(file["asset"]),
            "life": file["life"],
            "cycle": file["cycle"],
            "ts": file["ts"],
            "rul_file": file["rul"],
            "rul_bundle": p and p.rul,
            "rul_low_bundle": p and p.bounds[0],
            "rul_high_bundle": p and p.bounds[1],
            "difference": round(p.rul - file["rul"], 5) if there and p else None,
            "class_file": file["class"],
            "class_bundle": p and p.health.name,
        }

    def columns(self) -> Columns:
        names = self._rows[0].keys() if self._rows else ()
        return {name: [row[name] for row in self._rows] for name in names}

    def json(self) -> str:
        """One object: the summary, and every row in `rows`."""
        return msgspec.json.encode({**self.summary, "rows": self._rows}).decode()

    def text(self) -> str:
        """The newest rows of it, and the summary."""
        heads = ("asset", "life", "cycle", "RUL file", "RUL bundle", "difference", "class file", "class bundle")
        keys = ("asset", "life", "cycle", "rul_file", "rul_bundle", "difference", "class_file", "class_bundle")
        cells = [[_cell(row[key]) for key in keys] for row in self._rows[-_SHOWN:]]
        widths = [max(len(r[i]) for r in [list(heads), *cells]) for i in range(len(heads))]
        lines = ["  ".join(t.rjust(w) for t, w in zip(r, widths, strict=True)) for r in [list(heads), *cells]]
        if (more := len(self._rows) - _SHOWN) > 0:
            lines.append(f"and {more} earlier rows; --out FILE writes all, --json prints them")
        s = self.summary
        lines.append(f"file    {s['file']}, {s['readings']} readings")
        lines.append(f"bundle  {s['bundle']}")
        if self._differences:
            lines.append(
                f"RUL differs by {s['mean_difference']:.3g} {s['rul_unit']} on average, {s['largest_difference']:.3g} "
                f"at most, over {s['compared']} cycles that both answered; the class is the same in "
                f"{100 * (s['same_class'] or 0):.1f}%"
            )
        else:
            lines.append("nothing to compare: no cycle has an answer of both in the same unit")
        return "\n".join(lines)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
