"""NASA C-MAPSS turbofan files to a table.

Owns the format of train_*.txt, test_*.txt and RUL_*.txt: space-separated, 26 columns (unit, cycle, three operational
settings, 21 sensors); training engines run to failure, test engines are cut off and RUL_* holds what each had left
after its last row. Source: Saxena, Goebel, Simon, Eklund: Damage Propagation Modeling for Aircraft Engine
Run-to-Failure Simulation, PHM 2008. Must not know windows, labels, the network or torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np

from edge_rul.core.normalise import Array
from edge_rul.errors import DataAbsent, DataError
from edge_rul.training.format import Format, Protocol
from edge_rul.training.parts import Part
from edge_rul.training.table import LARGEST, Index, Table

SETTINGS = ("setting1", "setting2", "setting3")
# fmt: off
SENSORS = (
    "T2", "T24", "T30", "T50", "P2", "P15", "P30", "Nf", "Nc", "epr", "Ps30", "phi", "NRf", "NRc", "BPR", "farB",
    "htBleed", "Nf_dmd", "PCNfR_dmd", "W31", "W32",
)
# fmt: on
COLUMNS = (*SETTINGS, *SENSORS)
MOST = 2**53  # of an engine's number, which is read as a float


class CmapssSettings(Format, frozen=True, kw_only=True, tag="cmapss"):
    """subset: FD001 to FD004, as the files' names say. The files are split already. The test engines are cut off before
    they fail, and the standard protocol judges the last window of each."""

    subset: str
    protocol: Protocol = "last_windows"

    def __post_init__(self) -> None:
        if self.split is not None:
            raise ValueError("C-MAPSS is published as a train and a test file: expected no split")

    @property
    def called(self) -> str:
        return self.subset

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """See Format.read."""
        return load(data, self.subset, part, inputs)


def load(data: Path, subset: str, part: str, inputs: Sequence[str]) -> Table:
    """Read train_{subset}.txt, or test_{subset}.txt with RUL_{subset}.txt. An asset is named by its unit number.

    inputs: names out of COLUMNS; raises KeyError for another one, and DataError with file:line for a file that is
    missing, malformed or does not count an engine's cycles 1, 2, 3, ...
    """
    columns = [{name: i for i, name in enumerate(COLUMNS)}[name] for name in inputs]
    files: dict[str, str] = {}
    unit, cycle, values = _readings(data / f"{part}_{subset}.txt", files)
    ends = np.append(np.flatnonzero(np.diff(unit)), len(unit) - 1)  # (E,) last row of each engine
    lengths = np.diff(ends, prepend=-1)  # (E,)
    left_at_end = np.zeros(len(ends))  # (E,) cycles after each engine's last row
    if part == "test":
        left_at_end = _left(data / f"RUL_{subset}.txt", files, len(ends))
    rul = np.repeat(cycle[ends] + left_at_end, lengths) - cycle  # (N,)
    return Table(
        asset=unit.astype(np.str_),
        life=np.zeros(len(unit), np.int64),
        cycle=cycle,
        inputs=np.ascontiguousarray(values[:, columns]),
        rul=rul.astype(np.float32),
        is_lower_bound=np.zeros(len(unit), np.bool_),
        files=files,
    )


def _lines(path: Path, files: dict[str, str]) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as e:
        raise (DataAbsent if isinstance(e, FileNotFoundError) else DataError)(
            "load data set",
            str(path),
            f"cannot be read: {e.strerror}",
            hint="--data names the directory that holds the C-MAPSS files, such as train_FD001.txt",
        ) from e
    files[path.name] = hashlib.sha256(content).hexdigest()
    return content.decode("ascii", "replace").rstrip().splitlines()


def _fault(path: Path, line: int, problem: str) -> DataError:
    return DataError("load data set", f"{path}:{line}", problem)


def _numbers(path: Path, line: int, text: str, count: int) -> list[float]:
    fields = text.split()
    if len(fields) != count:
        raise _fault(path, line, f"{len(fields)} columns, expected {count}")
    row = []
    for column, field in enumerate(fields, 1):
        try:
            number = float(field)
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            raise _fault(path, line, f"column {column} is {field!r}, expected a finite number")
        if abs(number) > LARGEST:
            raise _fault(path, line, f"column {column} is {field!r}, expected a number within float32's range")
        row.append(number)
    return row


def _readings(path: Path, files: dict[str, str]) -> tuple[Index, Index, Array]:
    """(N,) unit, (N,) cycle, (N, 24) settings and sensors, float32."""
    rows = []
    done: set[float] = set()  # units that have ended
    unit = cycle = 0.0
    for line, text in enumerate(_lines(path, files), 1):
        row = _numbers(path, line, text, 2 + len(COLUMNS))
        if row[0] != unit:
            done.add(unit)
            if row[0] in done or not 1 <= row[0] <= MOST or row[0] % 1:
                raise _fault(path, line, f"unit is {row[0]:g} after unit {unit:g}, expected a new whole number above 0")
            unit, cycle = row[0], 0.0
        if row[1] != cycle + 1:
            raise _fault(path, line, f"cycle of unit {unit:g} is {row[1]:g}, expected {cycle + 1:g}")
        cycle = row[1]
        rows.append(row)
    if not rows:
        raise _fault(path, 1, "the file has no rows")
    table = np.array(rows)  # (N, 26) float64
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:].astype(np.float32)


def _left(path: Path, files: dict[str, str], engines: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(E,) cycles left after each test engine's last row."""
    left = [_numbers(path, line, text, 1)[0] for line, text in enumerate(_lines(path, files), 1)]
    if len(left) != engines:
        raise _fault(path, len(left), f"{len(left)} lines, the test file has {engines} engines")
    if min(left) < 0:
        raise _fault(path, left.index(min(left)) + 1, f"RUL is {min(left):g}, expected at least 0")
    return np.array(left)
