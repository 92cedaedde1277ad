"""Any run-to-failure table: one row a reading, told by a map of its columns.

Owns what a user's own data may look like: CSV or Parquet, with a column for the asset, one for the cycle or the time,
one for each input; lives that end in failure, or that were only watched for a while. Must not know windows or the
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.errors import ConfigError, DataAbsent, DataError
from edge_rul.training.columns import Columns, read
from edge_rul.training.format import Format
from edge_rul.training.parts import Part
from edge_rul.training.table import Index, Mask, Table, in_short, table_of_lives

Name = Annotated[str, Meta(min_length=1)]
YES = ("1", "1.0", "true", "yes")


class TrainTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two files, where the data is published in two parts."""

    train: Name
    test: Name


class FailedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a life that ended in failure is told from one that was only watched for a while (censored).

    column: of the table, or of `file` beside it, which has one row a life. values: those that mean failure, in any case
    of letters; YES where they are left out. In the table one row of the life is enough. asset, life: the columns of
    `file` that name a life; those of the table where they are left out.
    """

    column: Name
    values: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: list(YES))
    file: Name | None = None
    asset: Name | None = None
    life: Name | None = None


class TableSettings(Format, frozen=True, tag="table"):
    """file: in the directory that --data names; --data may name a file too, which then stands for it.

    asset, life, cycle, time, group: names of columns. life: where an asset has several, in the order of the file.
    cycle or time: the place of a reading in its life; a time becomes a cycle by `seconds_per_cycle`. columns: of inputs
    whose column has another name. failed: left out, every life ends in failure. group: of an asset, for `split`.
    health: names the class that a reading is in, and nothing where that is not known; left out, the RUL tells it.
    """

    asset: Name
    file: Name | TrainTest | None = None
    life: Name | None = None
    cycle: Name | None = None
    time: Name | None = None
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    failed: FailedSettings | None = None
    group: Name | None = None
    health: Name | None = None

    @property
    def names_health(self) -> bool:
        """See Format.names_health."""
        return self.health is not None

    def __post_init__(self) -> None:
        if (self.cycle is None) == (self.time is None):
            raise ValueError("expected either cycle or time, the column that orders an asset's readings")
        if self.time is not None and self.seconds_per_cycle is None:
            raise ValueError("seconds_per_cycle is needed where the readings are ordered by time")
        if isinstance(self.file, TrainTest) and self.split is not None:
            raise ValueError("file names a train and a test file already: expected no split")

    def column(self, name: str) -> str:
        """See Format.column."""
        return self.columns.get(name, name)

    def read(self, data: Path, part: Part, inputs: Sequence[str]) -> Table:
        """See Format.read."""
        path = self._path(data, part)
        files: dict[str, str] = {}
        named = [self.column(i) for i in inputs]
        told = None if self.failed is None or self.failed.file else self.failed.column
        others = (self.asset, self.life, self.cycle, self.time, self.group, self.health, told)
        columns = read(path, [*(n for n in others if n is not None), *named], files)
        asset = np.array(columns.texts(self.asset), np.str_)
        if not asset.all():
            raise columns.fault(int((asset == "").argmax()), f"column {self.asset} is empty, expected an asset's name")
        own = np.zeros(len(columns), np.int64) if self.life is None else _counted(asset, columns.texts(self.life))
        cycle = self._cycle(columns, asset, own)
        order = np.lexsort((cycle, own, _first_seen(asset.tolist())))  # (N,) stable: asset, life, cycle
        self._refuse_twice(columns, asset, own, cycle, order)
        keys = columns.texts(self.life) if self.life else None
        return table_of_lives(
            asset=asset[order],
            life=own[order],
            cycle=cycle[order],
            inputs=np.stack([columns.numbers(n) for n in named], axis=1).astype(np.float32)[order],  # (N, F)
            failed=self._failed(columns, asset, own, keys, path.parent, files, part)[order],
            files=files,
            time=None if self.time is None else np.rint(columns.seconds(self.time) * 1000).astype(np.int64)[order],
            health=None if self.health is None else np.array(columns.texts(self.health), np.str_)[order],
            groups={} if self.group is None else dict(zip(asset.tolist(), columns.texts(self.group), strict=True)),
        )

    def _path(self, data: Path, part: Part) -> Path:
        if part == "test" and self.split is None and not isinstance(self.file, TrainTest):
            hint = "dataset.split: {by: share, share: 0.2} keeps some of them for the test"
            raise DataAbsent("load data set", str(data), "has no test lives: all are for training", hint=hint)
        if data.is_file():
            if isinstance(self.file, TrainTest):
                hint = "name the directory that holds both"
                raise ConfigError("load data set", "dataset.file", f"names two files, --data one: {data}", hint=hint)
            return data
        if self.file is None:
            hint = "name the table itself by --data, or its name in that directory by dataset.file"
            problem = f"is not given, and --data is no file: {data}"
            raise ConfigError("load data set", "dataset.file", problem, hint=hint)
        return data / (getattr(self.file, part) if isinstance(self.file, TrainTest) else self.file)

    def _cycle(self, columns: Columns, asset: np.ndarray[tuple[int], np.dtype[np.str_]], life: Index) -> Index:
        """(N,) whole numbers from 0; of a time, counted from the life's first."""
        if self.cycle is not None:
            return columns.whole(self.cycle)
        assert self.time is not None and self.seconds_per_cycle is not None  # see __post_init__
        step = columns.seconds(self.time) / self.seconds_per_cycle  # (N,)
        _, which = np.unique(np.stack([_first_seen(asset.tolist()), life]), axis=1, return_inverse=True)
        first = np.full(which.max() + 1, np.inf)
        np.minimum.at(first, which.reshape(-1), step)
        return np.rint(step - first[which.reshape(-1)]).astype(np.int64)

    def _refuse_twice(
        self,
        columns: Columns,
        asset: np.ndarray[tuple[int], np.dtype[np.str_]],
        life: Index,
        cycle: Index,
        order: Index,
    ) -> None:
        a, b = order[:-1], order[1:]
        twice = (asset[a] == asset[b]) & (life[a] == life[b]) & (cycle[a] == cycle[b])
        if twice.any():
            first, second = sorted((int(a[twice.argmax()]), int(b[twice.argmax()])))
            hint = "name the column that tells an asset's lives apart by dataset.life" if self.life is None else ""
            if self.time is not None:
                hint = f"two readings lie within one cycle of {self.seconds_per_cycle:g} s"
            problem = f"cycle {cycle[second]} of {asset[second]} stands twice, first on {columns.at(first)}"
            raise columns.fault(second, problem, hint)

    def _failed(
        self,
        columns: Columns,
        asset: np.ndarray[tuple[int], np.dtype[np.str_]],
        life: Index,
        keys: list[str] | None,
        folder: Path,
        files: dict[str, str],
        part: Part,
    ) -> Mask:
        """(N,) whether the reading's life was seen to fail."""
        told = self.failed
        if told is None:
            return np.ones(len(columns), np.bool_)
        meant = {v.lower() for v in told.values}
        if told.file is None:
            said = columns
            marked = {
                (a, n)
                for a, n, text in zip(asset.tolist(), life.tolist(), columns.texts(told.column), strict=True)
                if text.lower() in meant
            }
            failed = [key in marked for key in zip(asset.tolist(), life.tolist(), strict=True)]
        else:
            by_asset, by_life = told.asset or self.asset, (told.life or self.life) if keys else None
            said = read(folder / told.file, [n for n in (by_asset, by_life, told.column) if n], files)
            names = zip(said.texts(by_asset), said.texts(by_life) if by_life else [""] * len(said), strict=True)
            rows = self._row_of_each(said, list(names))
            ended = [text.lower() in meant for text in said.texts(told.column)]
            failed = []
            for row, key in enumerate(zip(asset.tolist(), keys or [""] * len(columns), strict=True)):
                if key not in rows:
                    problem = f"{' '.join(filter(None, key))} has no row in {said.path}"
                    raise columns.fault(row, problem, "each life needs one, to say how it ended")
                failed.append(ended[rows[key]])
        if part == "train" and not any(failed):  # every RUL would be a lower bound, from which nothing is learnt
            found = in_short([repr(text) for text in dict.fromkeys(said.texts(told.column))])
            problem = f"no life failed: column {told.column} is {found}; expected {' or '.join(map(repr, told.values))}"
            hint = "say by dataset.failed.values what means failure, or leave `failed` out where every life ends in one"
            raise DataError("load data set", str(said.path), problem, hint=hint)
        return np.array(failed, np.bool_)

    def _row_of_each(self, lives: Columns, names: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """The row of each life in a table of lives. Raises DataError where one has two, which may contradict."""
        rows: dict[tuple[str, str], int] = {}
        for row, name in enumerate(names):
            if (first := rows.setdefault(name, row)) != row:
                hint = "name the column that tells an asset's lives apart by dataset.life" if self.life is None else ""
                problem = f"{' '.join(filter(None, name))} stands twice, first on {lives.at(first)}"
                raise lives.fault(row, problem, hint)
        return rows


def _first_seen(texts: list[str]) -> Index:
    """(N,) numbers from 0 in the order in which the texts first come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def _counted(asset: np.ndarray[tuple[int], np.dtype[np.str_]], lives: list[str]) -> Index:
    """(N,) each asset's lives from 0, in the order in which they first come."""
    seen: dict[str, dict[str, int]] = {}
    pairs = zip(asset.tolist(), lives, strict=True)
    return np.array([(own := seen.setdefault(a, {})).setdefault(text, len(own)) for a, text in pairs], np.int64)
