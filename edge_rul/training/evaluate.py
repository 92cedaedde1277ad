"""A bundle's answers on lives that it has not seen, and the tree's beside them.

Owns which windows are judged and who answers: the bundle's own graph, normaliser and engine, so that what ships is what
is measured, and trees that were fitted on the lives that the network was. Must not need torch. The figures stand in
`report`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edge_rul.bundle import Bundle
from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array
from edge_rul.core.transform import Transform
from edge_rul.engines import Engine, infer_all, open_engine
from edge_rul.errors import BundleError, DataAbsent
from edge_rul.training import dataset, tree
from edge_rul.training.clean import Rule
from edge_rul.training.parts import Part
from edge_rul.training.table import Index, Table
from edge_rul.training.windows import Labels, Windows, full_windows, labels, last_windows, left_out

BATCH = 64  # ONNX Runtime is fastest between 16 and 64
CHUNK = 64 * BATCH  # windows whose readings are in memory at once
_LACKING: dict[Part, str] = {"test": "no test figures", "train": "no held-out figures and no tree"}


class Judged(NamedTuple):
    """Windows of lives that nothing was fitted on, their labels, and the answers: the network's, and RUL by each tree.

    what: which windows, in words.
    """

    what: str
    windows: Windows
    true: Labels
    rul: Array
    logits: Array
    trees: dict[tree.Features, Array]


class Evidence(NamedTuple):
    """protocol: the windows that the data set's protocol judges. whole: all full windows of the test lives. held_out:
    all full windows of the lives that were kept for calibration. mean: the label that the windows which taught have on
    average. rules: what the rules for dirt did, by part: to the readings and values of the files, and to the windows
    and lives of the part. notes: what is lacking, and why."""

    protocol: Judged | None
    whole: Judged | None
    held_out: Judged | None
    mean: float | None
    rules: dict[Part, dict[str, int]]
    notes: list[str]


def predict_windows(bundle: Bundle, readings: Readings, *, threads: int = 0) -> tuple[Array, Array]:
    """(N, T) readings -> rul (N,) in the bundle's unit and logits (N, C), as the daemon computes them.

    The graph is verified on the bundle's golden windows first; raises EngineError where it disagrees.
    """
    # By name, so that the figures do not depend on what else is installed.
    with open_engine("onnxruntime", bundle, max_batch=BATCH, threads=threads) as engine:
        return infer_all(engine, bundle.manifest.transform.apply(readings).x)


def dataset_of(bundle: Bundle) -> dataset.DatasetSettings:
    """Which data set the bundle was trained on, and how it is split."""
    try:
        settings: dataset.DatasetSettings = msgspec.convert(
            bundle.manifest.training["dataset"], dataset.DatasetSettings
        )
    except (KeyError, msgspec.ValidationError) as e:
        raise BundleError("evaluate", str(bundle.path), f"training.dataset names no data set: {e}") from e
    return settings


def load_table(bundle: Bundle, data_dir: Path, part: Part) -> Table:
    """The lives of the data set that the bundle was trained on, with the bundle's inputs, as the daemon would take them
    in. Raises DataError."""
    manifest = bundle.manifest
    rules = [Rule(i.name, i.valid, i.missing, i.max_hold) for i in manifest.inputs]
    return dataset.load(dataset_of(bundle), data_dir, part, rules, manifest.rul.unit)


def _inputs(transform: Transform, windows: Windows, select: Index) -> Array:
    """(n, T, C) of the selected windows."""
    return transform.apply(windows.readings(select, before=transform.changes)).x


def gather(
    bundle: Bundle,
    data_dir: Path,
    *,
    threads: int = 0,
    parts: Sequence[Part] = ("test", "train"),
    trees: bool = True,
) -> Evidence:
    """Answer the windows that `data_dir` has of the test and calibration lives.

    parts: of the data set to look at. One of several may be absent, which is noted. trees: whether to fit some. Raises
    DataAbsent where none is there, DataError where one is malformed, BundleError and EngineError.
    """
    settings, length, notes = dataset_of(bundle), bundle.manifest.window, list[str]()
    tables = _tables(bundle, data_dir, parts, notes)
    kept, learnt = _of_training(bundle, tables["train"], notes) if "train" in tables else (None, None)
    grown, mean = _learn(bundle, full_windows(learnt, length), trees) if learnt is not None else ([], None)
    with open_engine("onnxruntime", bundle, max_batch=BATCH, threads=threads) as engine:

        def judge(what: str, table: Table | None, cut: Callable[[Table, int], Windows]) -> Judged | None:
            if table is None or not len(windows := cut(table, length)):
                return None
            return _judge(bundle, engine, grown, what, windows)

        test = tables.get("test")
        whole = judge("all full windows of the test lives", test, full_windows)
        protocol = whole
        if settings.protocol == "last_windows":
            protocol = judge("the last window of each test life", test, last_windows)
        held_out = judge("all full windows of the lives kept for calibration", kept, full_windows)
    rules = {part: {**table.rules, **left_out(table, length)} for part, table in tables.items()}
    return Evidence(protocol, whole, held_out, mean, rules, notes)


def _tables(bundle: Bundle, data_dir: Path, parts: Sequence[Part], notes: list[str]) -> dict[Part, Table]:
    tables: dict[Part, Table] = {}
    absent: list[DataAbsent] = []
    for part in parts:
        try:
            tables[part] = load_table(bundle, data_dir, part)
        except DataAbsent as e:
            absent.append(e)
            notes.append(f"{_LACKING[part]}: {e.object} {e.problem}")
    if not tables:
        raise absent[0]
    return tables


def _of_training(bundle: Bundle, table: Table, notes: list[str]) -> tuple[Table | None, Table | None]:
    """The lives kept for calibration, and those that the network learnt from; None where they cannot be told."""
    training, kept = bundle.manifest.training, bundle.manifest.validation.get("assets", [])
    if not kept or set(kept) - set(table.assets):
        problem = "names no assets kept for calibration" if not kept else "names assets that the data lacks"
        notes.append(f"{_LACKING['train']}: the bundle {problem}")
        return None, None
    if table.files != training.get("files"):
        notes.append("the training data is not the bundle's: its held-out figures may be of lives that it learnt from")
    apart = {*kept, *training.get("validation_assets", [])}
    return table.of(kept), table.of([a for a in table.assets if a not in apart])


def _learn(bundle: Bundle, windows: Windows, trees: bool) -> tuple[list[tree.Tree], float | None]:
    """A tree for each way of describing a window, where some are wanted, and the mean label; of the windows whose RUL
    is known."""
    true = labels(windows, bundle.manifest.rul.max, bundle.manifest.classes)
    known = np.flatnonzero(~true.is_lower_bound)
    if not len(known):
        return [], None
    wanted = tree.FEATURES if trees else ()
    grown = [tree.Tree(f, described(bundle, windows, known, f), true.rul[known]) for f in wanted]
    return grown, float(true.rul[known].mean())


def described(bundle: Bundle, windows: Windows, select: Index, features: tree.Features) -> Array:
    """(n, D) the numbers by which a yardstick sees the selected windows: normalised as for the network, but never
    smoothed, so that it does not change with what it measures."""
    transform = msgspec.structs.replace(bundle.manifest, smooth=None).transform
    chunks = np.array_split(select, max(1, -(-len(select) // CHUNK)))
    return np.concatenate([tree.describe(_inputs(transform, windows, chunk), features) for chunk in chunks])


def _judge(bundle: Bundle, engine: Engine, trees: list[tree.Tree], what: str, windows: Windows) -> Judged:
    every, transform = np.arange(len(windows)), bundle.manifest.transform
    chunks = [every[i : i + CHUNK] for i in range(0, len(every), CHUNK)]
    answers = [infer_all(engine, _inputs(transform, windows, chunk)) for chunk in chunks]
    return Judged(
        what,
        windows,
        labels(windows, bundle.manifest.rul.max, bundle.manifest.classes),
        np.concatenate([rul for rul, _ in answers]),
        np.concatenate([logits for _, logits in answers]),
        {t.features: t.predict(described(bundle, windows, every, t.features)) for t in trees},
    )
