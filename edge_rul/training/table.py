"""Readings of whole lives as one table, and its split by assets.

Owns what a data set is to training, evaluation and calibration, whatever format it came in. Must not know formats,
windows, the network or torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edge_rul.core.features import Readings
from edge_rul.core.normalise import Array
from edge_rul.errors import DataError

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LARGEST = float(np.finfo(np.float32).max)  # of a table's inputs
ROWS = ("asset", "life", "cycle", "inputs", "rul", "is_lower_bound", "time", "held", "health")  # of each reading


class Table(msgspec.Struct, frozen=True):
    """N readings, sorted so that each life is one run of rows with its cycles in order.

    asset:          (N,) names
    life:           (N,) counted from 0 for each asset
    cycle:          (N,)
    inputs:         (N, F) float32, raw, in the configuration's order and units; NaN where missing, before `clean`
    rul:            (N,) float32, life left after the reading, in the data set's unit, not capped
    is_lower_bound: (N,) True where the life was not seen to fail: it lasts at least `rul` longer
    files:          sha256 of each file that was read, by its name
    groups:         what the data set says of an asset, by its name: its published part, its role
    max_gap:        missing cycles in a row that a window may span; None for any number
    rules:          how many readings or values a rule dropped or mended, by the rule
    time:           (N,) event times in epoch milliseconds, where the data set has them
    held:           (N, F) values that were missing, and taken from the reading before; None: none
    health:         (N,) classes that the data set names, "" where it does not; None: they are told by the RUL
    max_hold:       for each input, readings in a row for which a window may hold it; None for any number
    """

    asset: npt.NDArray[np.str_]
    life: Index
    cycle: Index
    inputs: Array
    rul: Array
    is_lower_bound: Mask
    files: dict[str, str]
    groups: dict[str, str] = {}
    max_gap: int | None = None
    rules: dict[str, int] = {}
    time: Index | None = None
    held: Mask | None = None
    health: npt.NDArray[np.str_] | None = None
    max_hold: list[int | None] = []

    def __len__(self) -> int:
        return len(self.asset)

    @property
    def starts(self) -> Index:
        """(L,) the first row of each of the L lives."""
        new = (self.asset[1:] != self.asset[:-1]) | (self.life[1:] != self.life[:-1])
        return np.concatenate([[0], np.flatnonzero(new) + 1]).astype(np.int64) if len(self) else np.zeros(0, np.int64)

    @property
    def follows(self) -> Mask:
        """(N,) whether the row before each is of the same life."""
        return ~np.isin(np.arange(len(self)), self.starts)

    @property
    def lengths(self) -> Index:
        """(L,) how many rows each of the L lives has."""
        return np.diff(np.append(self.starts, len(self)))

    @property
    def assets(self) -> list[str]:
        """Every asset once, in the table's order."""
        return list(dict.fromkeys(self.asset.tolist()))

    def of(self, assets: Collection[str]) -> Table:
        """The rows of these assets only."""
        return self.where(np.isin(self.asset, list(assets)))

    def where(self, keep: Mask) -> Table:
        """Some rows only. keep: (N,)"""
        kept = {name: column[keep] for name in ROWS if (column := getattr(self, name)) is not None}
        return msgspec.structs.replace(self, **kept)

    def readings(self, *, before: bool) -> Readings:
        """(N,) readings as the core takes them. before: with the one before each in its life."""
        if not before:
            return Readings(self.inputs)
        previous = np.arange(-1, len(self) - 1)  # (N,)
        previous[self.starts] += 1  # none before: no change from itself
        cycles = self.cycle - self.cycle[previous]  # (N,)
        milliseconds = np.zeros_like(cycles) if self.time is None else self.time - self.time[previous]  # (N,)
        elapsed = np.maximum(np.stack([cycles, milliseconds], axis=-1), 0)  # (N, 2)
        return Readings(self.inputs, self.inputs[previous], elapsed)


def in_short(names: Sequence[str], shown: int = 12) -> str:
    """Names in a message."""
    return ", ".join([*names[:shown], *(["..."] if len(names) > shown else [])])


def table_of_lives(
    *,
    asset: npt.NDArray[np.str_],
    life: Index,
    cycle: Index,
    inputs: Array,
    failed: Mask,
    files: dict[str, str],
    groups: dict[str, str],
    rules: dict[str, int] | None = None,
    time: Index | None = None,
    health: npt.NDArray[np.str_] | None = None,
) -> Table:
    """A table whose lives end with their last reading. failed: (N,) whether the reading's life was seen to fail there.
    time: (N,) event times in epoch milliseconds. health: (N,) as of the table.

    The RUL is in cycles, 0 at a life's last reading.
    """
    unknown = np.zeros(len(asset), np.float32)
    table = Table(
        asset, life, cycle, inputs, unknown, ~failed, files, groups, rules=rules or {}, time=time, health=health
    )
    starts = table.starts  # (L,)
    ends = np.append(starts[1:], len(table)) - 1  # (L,)
    rul = np.repeat(cycle[ends], ends - starts + 1) - cycle  # (N,)
    return msgspec.structs.replace(table, rul=rul.astype(np.float32))


def joined(tables: Sequence[Table]) -> Table:
    """Several tables of one data set's rules as one, in their order; no asset is in two of them."""
    columns = {name: [getattr(table, name) for table in tables] for name in ROWS}
    found = {name: None if any(c is None for c in every) else np.concatenate(every) for name, every in columns.items()}
    files, groups = ({k: v for t in tables for k, v in getattr(t, name).items()} for name in ("files", "groups"))
    return msgspec.structs.replace(tables[0], **found, files=files, groups=groups)


def split(table: Table, share: float, seed: int, key: str = "assets") -> tuple[Table, Table]:
    """(the others, held out): `share` of the assets, at least one, drawn by `seed`, is held out. key: what holds it
    out.

    Whole assets move, never windows: two windows of one life overlap in all cycles but a few, so a split of windows
    would measure how well the network remembers. Raises DataError when no asset would be left to learn from.
    """
    assets = table.assets
    count = max(1, round(share * len(assets)))
    if count >= len(assets):
        problem = f"{count} of {len(assets)} held out ({in_short(assets)}) leave none to learn from"
        hint = "whole assets are held out: more of them are needed, or a smaller share"
        raise DataError("split", key, problem, hint=hint)
    drawn = np.random.default_rng(seed).permutation(len(assets))[:count]
    held_out = {assets[i] for i in drawn}
    return table.of([a for a in assets if a not in held_out]), table.of(held_out)
