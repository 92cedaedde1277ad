"""PRONOSTIA bearings (FEMTO-ST, IEEE PHM 2012 challenge) to a table.

Owns two forms of the same 17 lives: the published folders of raw snapshots, and a table of features a snapshot that was
made of them. A reading is one snapshot: 0.1 s of vibration, every 10 s. Source: Nectoux et al., PRONOSTIA: An
Experimental Platform for Bearings Accelerated Life Test, PHM 2012. Must not know windows or the network.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_rul.errors import DataError
from edge_rul.training.columns import Floats, read
from edge_rul.training.format import Format
from edge_rul.training.parts import Part
from edge_rul.training.table import LARGEST, Table, table_of_lives

FEATURES = "pronostia_features.csv.gz"
FOLDERS = {"Learning_set": "learning", "Full_Test_Set": "test"}  # the challenge's split, which becomes the groups
INPUTS = ("h_rms", "v_rms")
SAMPLES = 2560  # of a snapshot, at 25.6 kHz
PERIOD = 10.0  # seconds from one snapshot to the next
TOLERATED = 1.0  # seconds by which the logged clock may stray from that


class _Snapshots(NamedTuple):
    """N snapshots in the order of bearing and number. number: from 1. clock: seconds of the day, as logged. rms: (N, 2)
    horizontal and vertical, without the mean, g."""

    bearing: list[str]
    group: list[str]
    number: Floats
    clock: Floats
    rms: Floats


class BearingsSettings(Format, frozen=True, kw_only=True, tag="pronostia"):
    """The directory holds Learning_set and Full_Test_Set with a folder a bearing, or the table of their features.

    Readings are ordered by the snapshots' numbers, never by the logged clock, which jumps; its jumps are counted.
    Inputs are h_rms and v_rms, the standard deviation of each channel in g: an accelerometer's mean is not vibration.
    """

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """See Format.read."""
        place = {name: i for i, name in enumerate(INPUTS)}
        columns = [place[name] for name in inputs]
        files: dict[str, str] = {}
        found = _features(data / FEATURES, files) if (data / FEATURES).exists() else _raw(data, files)
        asset = np.array(found.bearing, np.str_)
        same = asset[1:] == asset[:-1]  # (N - 1,)
        jumps = same & (np.abs(np.diff(found.clock) - PERIOD * np.diff(found.number)) > TOLERATED)
        return table_of_lives(
            asset=asset,
            life=np.zeros(len(asset), np.int64),
            cycle=found.number.astype(np.int64),
            inputs=found.rms[:, columns].astype(np.float32),
            failed=np.ones(len(asset), np.bool_),
            files=files,
            groups=dict(zip(found.bearing, found.group, strict=True)),
            rules={"clock_jumps_ignored": int(jumps.sum())},
        )


def _features(path: Path, files: dict[str, str]) -> _Snapshots:
    names = ("h_mean", "h_rms", "v_mean", "v_rms")
    columns = read(path, ["bearing", "split", "snapshot", "clock_s", *names], files)
    h_mean, h_rms, v_mean, v_rms = (columns.numbers(name) for name in names)
    squares = np.stack([h_rms**2 - h_mean**2, v_rms**2 - v_mean**2], axis=1)  # (N, 2)
    number, clock = columns.whole("snapshot").astype(np.float64), columns.numbers("clock_s")
    rms = np.sqrt(np.maximum(squares, 0))
    return _Snapshots(columns.texts("bearing"), columns.texts("split"), number, clock, rms)


def _raw(data: Path, files: dict[str, str]) -> _Snapshots:
    bearings = [(b, group) for name, group in FOLDERS.items() for b in sorted(data.glob(f"{name}/Bearing*"))]
    rows: list[tuple[str, str, int, float, float, float]] = []
    for bearing, group in bearings:
        digest = hashlib.sha256()
        for path in sorted(bearing.glob("acc_*.csv")):
            clock, horizontal, vertical = snapshot(path, digest)
            rows.append((bearing.name, group, int(path.stem.removeprefix("acc_")), clock, horizontal, vertical))
        files[f"{bearing.parent.name}/{bearing.name}"] = digest.hexdigest()
    if not rows:
        hint = f"--data names the directory that holds {' and '.join(FOLDERS)}, or {FEATURES}"
        raise DataError("load data set", str(data), "has no snapshots of bearings", hint=hint)
    numbers = np.array([row[2:] for row in rows], np.float64)  # (N, 4)
    return _Snapshots([row[0] for row in rows], [row[1] for row in rows], numbers[:, 0], numbers[:, 1], numbers[:, 2:])


def snapshot(path: Path, digest: hashlib._Hash | None = None) -> tuple[float, float, float]:
    """The logged time of day in seconds, and the horizontal and vertical RMS without the mean in g, of one acc_*.csv.

    Its rows are hour, minute, second, microsecond, horizontal and vertical acceleration; one bearing's files are
    separated by semicolons. Raises DataError with file:line.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        raise DataError("load data set", str(path), f"cannot be read: {e.strerror}") from None
    if digest is not None:
        digest.update(content)
    text = content.decode("ascii", "replace")
    rows = list(csv.reader(text.splitlines(), delimiter=";" if ";" in text.partition("\n")[0] else ","))
    for line, row in enumerate(rows, 1):
        if len(row) != 6:
            raise DataError("load data set", f"{path}:{line}", f"{len(row)} columns, expected 6")
    if len(rows) != SAMPLES:
        raise DataError("load data set", f"{path}:{len(rows)}", f"{len(rows)} samples, expected {SAMPLES}")
    try:
        samples = np.array(rows, np.float64)  # (2560, 6)
    except ValueError as e:
        raise DataError("load data set", str(path), f"expected numbers only: {e}") from None
    if not (held := np.abs(samples) <= LARGEST).all():  # NaN is not, nor infinity
        line = int((~held).any(axis=1).argmax())
        problem = f"{rows[line]}, expected finite numbers within float32's range"
        raise DataError("load data set", f"{path}:{line + 1}", problem)
    hour, minute, second, micro = samples[0, :4].tolist()
    horizontal, vertical = samples[:, 4:].std(axis=0).tolist()
    return hour * 3600 + minute * 60 + second + micro / 1e6, horizontal, vertical
