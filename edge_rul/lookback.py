"""Look back: an asset's readings and predictions out of the journal, and the same readings through another bundle.

    edge-rul export ASSET --config FILE      the journal's readings with the configured bundle's predictions
    edge-rul rescore FILE --bundle B         an export's readings through bundle B, beside what the file says

Predictions are not stored: they are derived again, by the parts of the core that derived them first. Owns what a row of
an export is. How rows are written and read stands in `lookback_file`. Must not touch the journal's lock, or a broker.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_rul import bundle as bundles
from edge_rul.adapters.journal_file import FILE
from edge_rul.adapters.journal_reader import read_journal
from edge_rul.bundle import Bundle
from edge_rul.config import WindowSettings, load_settings
from edge_rul.core.assemble import Assembled, Overdue
from edge_rul.core.batch import Due
from edge_rul.core.command import Command
from edge_rul.core.features import Readings
from edge_rul.core.life import Lives
from edge_rul.core.outgoing import iso
from edge_rul.core.payload import Part, Reading
from edge_rul.core.prediction import Prediction, predict
from edge_rul.core.tail import Numbered
from edge_rul.core.topic import Asset
from edge_rul.engines import Engine, model_of, open_engine
from edge_rul.errors import DataError, Reason
from edge_rul.rings import make_rings

USED = "used"


class Row(msgspec.Struct):
    """A reading that came in. verdict: `used`, or the reason why it is in no window. life: None where it is in none.

    prediction: the newest revision of the answer for its cycle; None while the asset's window was not full, or where
    what had filled it is no longer kept.
    """

    seq: int
    reading: Reading
    verdict: str
    life: int | None = None
    prediction: Prediction | None = None


class Scorer:
    """Readings of one asset to rows, through the bundle's windows and engine."""

    def __init__(
        self, bundle: Bundle, engine: Engine, windows: WindowSettings, journal: str = "", held: Sequence[str] = ()
    ) -> None:
        """held: inputs that may be missing where a reading came in parts."""
        manifest = bundle.manifest
        self._engine = engine
        self._transform = manifest.transform
        self._rings = functools.partial(make_rings, windows, manifest)
        self._ranges = manifest.ranges
        self._hold = np.array([i.name in held for i in manifest.inputs], np.bool_)  # (F,)
        self._model = model_of(bundle, engine, journal)
        self.begin()

    def begin(self) -> None:
        """Forget the asset."""
        self.lives = Lives(self._rings(), 1, self._ranges)
        self._rows: dict[tuple[int, int], Row] = {}  # by life and cycle
        self._due: list[tuple[Due, Readings]] = []

    def answer(self, rows: Iterable[Row]) -> None:
        """Put further revisions of these rows' answers into them."""
        self._rows.update({(row.life, row.reading.cycle): row for row in rows if row.life is not None})

    def apply(self, entries: Iterable[Numbered]) -> list[Row]:
        """A row for each reading among the entries, which follow what was applied before."""
        rows = []
        for seq, entry in ((n.seq, n.entry) for n in entries):
            if isinstance(entry, Reading):
                rows.append(self._take(seq, entry))
            elif isinstance(entry, Part | Overdue):
                ended = self.lives.assemble(entry, self._hold)
                rows += self._end(seq, [] if isinstance(ended, Reason) else ended)
            elif isinstance(entry, Command) and entry.asset in self.lives:
                if entry.action == "reset":
                    if not self.lives.begun_by(entry):
                        rows += self._end(seq, self.lives.close(entry.asset, self._hold))
                    self.lives.reset(entry)
                elif entry.action == "remove":
                    self.lives.remove(entry.asset)
        self._score()
        return rows

    def _end(self, seq: int, ended: list[Assembled]) -> list[Row]:
        return [self._take(seq, assembled.reading, assembled.refused) for assembled in ended]

    def _take(self, seq: int, reading: Reading, refused: Reason | None = None) -> Row:
        applied = refused or self.lives.apply(reading)
        if isinstance(applied, Reason):
            return Row(seq, reading, applied.value)
        row = Row(seq, msgspec.structs.replace(reading, cycle=applied.cycle), USED, applied.life)
        self._rows[applied.life, applied.cycle] = row
        for answer in applied.answers:
            due = Due.of(seq, reading.asset, applied.life, answer, alarm=False)
            self._due.append((due, answer.window.readings))
            if len(self._due) >= self._engine.max_batch:
                self._score()
        return row

    def _score(self) -> None:
        if not self._due:
            return
        done = self._transform.apply(self._transform.gather([window for _, window in self._due]))
        rul, logits = self._engine.infer(done.x)
        for index, (due, _) in enumerate(self._due):
            row = self._rows.get((due.life, due.cycle))  # None: its reading is no longer kept
            if row is not None:
                answer = float(rul[index]), logits[index]
                row.prediction = predict(due, *answer, done.marks[index], iso(due.time), self._model)
        self._due.clear()


class Kept(msgspec.Struct):
    """What a journal keeps of one asset, read at one moment. snapshot: (seq, state). since: seq, see `export`."""

    journal: str
    inputs: tuple[str, ...]
    asset: Asset
    entries: list[Numbered]
    snapshot: tuple[int, bytes] | None
    since: int


def kept(path: Path, name: str, levels: dict[str, str], since: int | None) -> Kept:
    """path: of the journal. Raises JournalError, DataError."""
    with read_journal(path) as journal:
        asset = find_asset(journal.assets(), name, levels)
        reached = 0 if since is None else journal.reached(since / 1000)
        entries = list(journal.entries(asset))
        return Kept(journal.id, journal.inputs, asset, entries, journal.snapshot(asset), reached)


def history(kept: Kept, scorer: Scorer) -> list[Row]:
    """The asset's readings that the journal keeps, in order of arrival, with their predictions.

    What came up to the newest snapshot is applied to an empty window, as the one before it is gone, so the first rows
    lack a prediction; what came after it is exact. The snapshot also tells which life it is, and how many came in it
    where readings are counted by arrival.
    """
    asset, entries = kept.asset, kept.entries
    if kept.snapshot is None:
        return scorer.apply(entries)
    seq, state = kept.snapshot
    before = scorer.apply(n for n in entries if n.seq <= seq)
    reached, last = (scorer.lives.number(asset), scorer.lives.standing(asset).cycle) if before else (0, None)
    scorer.begin()
    try:
        scorer.lives.load(asset, state)
    except (ValueError, msgspec.DecodeError) as e:
        problem = f"its snapshot does not fit the configured bundle: {e}"
        raise DataError("export", str(asset), problem, hint="export with the bundle that the daemon ran") from None
    offset = scorer.lives.number(asset) - reached
    newest = scorer.lives.standing(asset).cycle
    for row in before:
        if row.life is None:
            continue
        by_arrival = row.reading.key == "arrival" and row.life == reached
        row.life += offset
        cycle = row.reading.cycle + ((newest or 0) - (last or 0) if by_arrival else 0)
        row.reading = msgspec.structs.replace(row.reading, cycle=cycle)
        if row.prediction is not None:
            row.prediction = msgspec.structs.replace(row.prediction, life=row.life, cycle=cycle)
    scorer.answer(before)  # a late reading may still revise them
    return before + scorer.apply(n for n in entries if n.seq > seq)


def find_asset(known: Sequence[Asset], name: str, levels: dict[str, str]) -> Asset:
    """The one that bears the name and the levels. Raises DataError that says which there are."""
    named = [asset for asset in known if asset.name == name or str(asset) == name]
    found = [asset for asset in named if levels.items() <= asset.fields().items()]
    if len(found) == 1:
        return found[0]
    if found or named:
        several = "; ".join(", ".join(f"--level {k}={v}" for k, v in asset.levels) for asset in (found or named)[:10])
        problem = f"{len(found)} assets bear this name" if found else f"no asset of this name is at {levels}"
        raise DataError("export", name, problem, hint=f"say which: {several}")
    if not known:
        raise DataError("export", name, "the journal knows no asset yet")
    names = sorted({asset.name for asset in known})
    close = difflib.get_close_matches(name, names, 3, 0.4)
    problem = f"the journal has no such asset; it has {len(known)}: {', '.join(names[:10])}"
    problem += ", ..." if len(names) > 10 else ""
    raise DataError("export", name, problem, hint=f"did you mean {' or '.join(close)}?" if close else "")


def parse_since(text: str, now: float) -> int:
    """`6h`, `2d`, `30m` ago, or ISO 8601, UTC where no zone is given -> epoch milliseconds. Raises ValueError."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text):
        return round((now - float(match[1]) * {"m": 60, "h": 3600, "d": 86400}[match[2]]) * 1000)
    try:
        when = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except ValueError:
        raise ValueError(f"expected a time such as 2026-01-31T12:00 or 6h, found {text!r}") from None
    return round((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() * 1000)


def export(config: Path, name: str, levels: dict[str, str], since: int | None) -> tuple[list[Row], Bundle]:
    """An asset's rows. since: epoch milliseconds, of event times, or of the arrival where a reading has none.

    Works while the daemon runs. Raises ConfigError, BundleError, EngineError, JournalError, DataError.
    """
    # It imports MQTT, which nothing else in here needs.
    from edge_rul.wiring import held_inputs, open_engine_and_bundle, state_directory  # noqa: PLC0415

    settings, source = load_settings(config)
    found = kept(state_directory(settings, source) / FILE, name, levels, since)
    bundle, (engine, _) = open_engine_and_bundle(settings, source, lambda _: None)
    with engine:
        inputs = tuple(i.name for i in bundle.manifest.inputs)
        sizes = {len(n.entry.values) for n in found.entries if isinstance(n.entry, Reading)}
        if (found.inputs and found.inputs != inputs) or sizes - {len(inputs)}:
            theirs = ", ".join(found.inputs) or f"{sorted(sizes)} values"
            problem = f"the journal's readings are {theirs}, the bundle's inputs {', '.join(inputs)}"
            raise DataError("export", str(found.asset), problem, hint="export with the bundle that the daemon ran")
        held = held_inputs(settings, bundle)
        rows = history(found, Scorer(bundle, engine, settings.windows, found.journal, held))
    if since is not None:
        rows = [r for r in rows if (r.seq > found.since if r.reading.time is None else r.reading.time >= since)]
    return rows, bundle


class Compared(msgspec.Struct):
    """A row of an export, and what another bundle says. file: the export's columns as they stand there."""

    file: dict[str, Any]
    prediction: Prediction | None


def rescore(
    rows: list[dict[str, Any]],
    inputs: Sequence[str],
    path: Path,
    bundle_path: Path,
    windows: WindowSettings,
) -> tuple[list[Compared], Bundle]:
    """An export's used rows through the bundle at `bundle_path`, by asset, life and cycle, late ones in their place.

    rows: see `lookback_file.load`. inputs: those that the file has. Raises BundleError, EngineError, DataError.
    """
    bundle = bundles.load(bundle_path)
    needs = [i.name for i in bundle.manifest.inputs]
    if lacking := [name for name in needs if name not in inputs]:
        problem = f"the bundle {bundle.manifest.name} needs {', '.join(lacking)}, which the file lacks"
        raise DataError("rescore", str(path), problem, hint=f"the file has {', '.join(inputs)}")
    used = [row for row in rows if row["verdict"] == USED]
    used.sort(key=lambda row: (str(row["asset"]), row["life"], row["cycle"]))
    compared = []
    with open_engine("auto", bundle) as engine:
        scorer = Scorer(bundle, engine, windows)
        for _, life in groupby(used, key=lambda row: (row["asset"], row["life"])):
            group = list(life)
            scorer.begin()
            entries = [_numbered(i, r, needs) for i, r in enumerate(group)]
            compared += [Compared(r, s.prediction) for r, s in zip(group, scorer.apply(entries), strict=True)]
    return compared, bundle


def _numbered(index: int, row: dict[str, Any], inputs: Sequence[str]) -> Numbered:
    values = np.array([row["values"][name] for name in inputs], np.float32)
    # Without its time, unless that is its key: that it belongs to this life is settled.
    cycle, key = row["cycle"], row["key"]
    return Numbered(index + 1, Reading(row["asset"], cycle, cycle if key == "time" else None, values, key=key))


def export_command(config: Path, asset: str, levels: dict[str, str], since: int | None, out: Path | None) -> int:
    """Write the export to a file, or as CSV to stdout. Raises EdgeRulError."""
    from edge_rul import lookback_file as files  # noqa: PLC0415 - it knows this module's rows

    rows, bundle = export(config, asset, levels, since)
    files.write(out, files.columns(rows, bundle))
    files.note(f"{len(rows)} readings, {sum(r.prediction is not None for r in rows)} predictions", out)
    return 0


def rescore_command(path: Path, bundle: Path, windows: WindowSettings, *, json: bool, out: Path | None) -> int:
    """Show both side by side, and write them to a file. Raises EdgeRulError."""
    from edge_rul import lookback_file as files  # noqa: PLC0415

    rows, inputs = files.load(path)
    compared, other = rescore(rows, inputs, path, bundle, windows)
    report = files.Report(compared, path, other)
    if out is not None:
        files.write(out, report.columns())
        files.note(f"{len(compared)} rows", out)
    print(report.json() if json else report.text())
    return 0
