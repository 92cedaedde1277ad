"""A CSV or Parquet file as named columns.

Owns reading it, and the words for what is wrong in it: file, line, column, what was found and what was expected. Must
not know what a column means.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import importlib
import io
import zlib
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_rul.errors import DataAbsent, DataError
from edge_rul.training.table import LARGEST, Index, in_short

Floats = npt.NDArray[np.float64]
_SHOWN = 12  # names in a message
_MILLISECONDS_FROM = 1e11  # as the daemon takes a reading's time; as seconds it would be the year 5138


class Columns:
    """Columns of one file, each a text a row. sha256: of the file as it lies there."""

    def __init__(self, path: Path, sha256: str, texts: dict[str, list[str]], lines: Iterable[int]) -> None:
        self.path, self.sha256 = path, sha256
        self._texts, self._lines = texts, list(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def texts(self, name: str) -> list[str]:
        return self._texts[name]

    def numbers(self, name: str) -> Floats:
        """(N,) NaN where a cell is empty or says NaN. Raises DataError for what is no number, infinite, or beyond the
        range of a table's float32."""
        cells = self._texts[name]
        try:
            if any("_" in cell for cell in cells):
                raise ValueError  # Python would read 1_234
            found = np.array([cell or "nan" for cell in cells], np.float64)  # (N,)
        except ValueError:
            row = next(i for i, cell in enumerate(cells) if cell and not _is_number(cell))
            raise self.fault(row, f"column {name} is {cells[row]!r}, expected a number") from None
        if np.isinf(found).any():
            row = int(np.isinf(found).argmax())
            raise self.fault(row, f"column {name} is {cells[row]!r}, expected a finite number")
        if (beyond := np.abs(found) > LARGEST).any():
            row = int(beyond.argmax())
            problem = f"column {name} is {cells[row]!r}, expected a number within float32's range"
            raise self.fault(row, problem, f"the largest is {LARGEST:.2g}")
        return found

    def whole(self, name: str) -> Index:
        """(N,) whole numbers from 0. Raises DataError for anything else."""
        found = self.numbers(name)
        with np.errstate(invalid="ignore"):
            wrong = ~((found >= 0) & (found % 1 == 0) & (found <= 2**53))  # NaN is wrong too
        if wrong.any():
            row = int(wrong.argmax())
            raise self.fault(row, f"column {name} is {self._texts[name][row]!r}, expected a whole number of at least 0")
        return found.astype(np.int64)

    def seconds(self, name: str) -> Floats:
        """(N,) times in seconds: numbers as they are, or ISO 8601, in UTC where no zone is named. Raises DataError."""
        cells = self._texts[name]
        if cells and _is_number(cells[0]):
            found = self.numbers(name)
            if np.isnan(found).any():
                raise self.fault(int(np.isnan(found).argmax()), f"column {name} is empty, expected a time")
            if (beyond := found > _MILLISECONDS_FROM).any():
                row = int(beyond.argmax())
                problem = f"column {name} is {cells[row]!r}, expected seconds"
                raise self.fault(row, problem, "milliseconds? divide them by 1000")
            return found
        times = np.empty(len(cells))
        for row, cell in enumerate(cells):
            try:
                time = datetime.fromisoformat(f"{cell[:-1]}+00:00" if cell.endswith("Z") else cell)
            except ValueError:
                hint = "a number of seconds, or 2026-01-31T12:00Z"
                raise self.fault(row, f"column {name} is {cell!r}, expected a time", hint) from None
            times[row] = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
        return times

    def at(self, row: int) -> str:
        """Where a row stands: file:line."""
        return f"{self.path}:{self._lines[row]}"

    def fault(self, row: int, problem: str, hint: str = "") -> DataError:
        return DataError("load data set", self.at(row), problem, hint=hint)


def read(path: Path, names: Iterable[str], files: dict[str, str]) -> Columns:
    """The named columns of a .csv, .csv.gz or .parquet file, whose hash is noted in `files`.

    Raises DataError where the file cannot be read, lacks a column, or has a row of another length than its head.
    """
    wanted = list(dict.fromkeys(names))
    try:
        content = path.read_bytes()
        sha256 = files[path.name] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".parquet":
            return _parquet(path, content, sha256, wanted)
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except OSError as e:  # gzip's own error is one
        hint = "--data names the file, or the directory that holds it"
        kind = DataAbsent if isinstance(e, FileNotFoundError) else DataError
        raise kind("load data set", str(path), f"cannot be read: {e.strerror or e}", hint=hint) from None
    except (UnicodeDecodeError, EOFError, zlib.error) as e:
        raise DataError("load data set", str(path), f"is no CSV in UTF-8: {e}") from None
    return _csv(path, text, sha256, wanted)


def _csv(path: Path, text: str, sha256: str, wanted: list[str]) -> Columns:
    reader = csv.reader(io.StringIO(text, newline=""))
    head: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        head = [name.strip() for name in next(reader, [])]
        places = [_place(path, head, name) for name in wanted]
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(head):
                problem = f"{len(row)} columns, the head has {len(head)}"
                raise DataError("load data set", f"{path}:{reader.line_num}", problem)
            rows.append([row[place].strip() for place in places])
            lines.append(reader.line_num)
    except csv.Error as e:
        raise DataError("load data set", f"{path}:{reader.line_num}", f"is no CSV: {e}") from None
    if not rows:
        raise DataError("load data set", f"{path}:1", "the file has no rows")
    return Columns(path, sha256, dict(zip(wanted, map(list, zip(*rows, strict=True)), strict=True)), lines)


def _parquet(path: Path, content: bytes, sha256: str, wanted: list[str]) -> Columns:
    """Rows count from 1 in messages, as a Parquet file has no lines."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        hint = "python -m pip install 'edge-rul[parquet]', or name a .csv file"
        raise DataError("load data set", str(path), "Parquet needs the Python package pyarrow", hint=hint) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        for name in wanted:
            _place(path, file.schema_arrow.names, name)
        found = _to_microseconds(file.read(columns=wanted)).to_pydict()
    except (OSError, ValueError) as e:  # what pyarrow raises for a file that is none is one of these
        raise DataError("load data set", str(path), f"is no Parquet file: {e}") from None
    texts = {name: ["" if cell is None else str(cell) for cell in found[name]] for name in wanted}
    count = len(next(iter(texts.values())))
    if not count:
        raise DataError("load data set", str(path), "the file has no rows")
    return Columns(path, sha256, texts, range(1, count + 1))


def _to_microseconds(table: Any) -> Any:
    """A pyarrow table with times as fine as Python's: those in nanoseconds could only be read by pandas."""
    arrow: Any = importlib.import_module("pyarrow")
    fields = []
    for field in table.schema:
        fine = arrow.types.is_timestamp(field.type) and field.type.unit == "ns"
        fields.append(field.with_type(arrow.timestamp("us", field.type.tz)) if fine else field)
    return table.cast(arrow.schema(fields), safe=False)  # whose last digits may go


def _place(path: Path, head: list[str], name: str) -> int:
    if head.count(name) == 1:
        return head.index(name)
    if name in head:
        raise DataError("load data set", f"{path}:1", f"has {head.count(name)} columns {name!r}, expected one")
    near = difflib.get_close_matches(name, head, 1)
    shown = in_short(head, _SHOWN)
    hint = f"did you mean {near[0]!r}?" if near else ""
    if len(head) == 1 and any(separator in head[0] for separator in ";\t"):
        hint = "columns are separated by commas, and decimals by a point"
    raise DataError("load data set", f"{path}:1", f"has no column {name!r}; it has {shown}", hint=hint)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
