"""Which lives teach and which judge, where a data set is published in one piece.

Owns the ways to draw the test assets. Whole assets move, never lives or windows: what one asset's windows teach helps
with its others. Must not know formats, windows, the network or torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_rul.errors import ConfigError, DataError
from edge_rul.training.table import Table

Part = Literal["train", "test"]
Names = Annotated[list[str], Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]  # what NumPy, torch and scikit-learn all take


class AssetsSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="assets"):
    """test: the names of the test assets."""

    test: Names

    @property
    def words(self) -> str:
        return f"{len(self.test)} assets named"

    def drawn(self, table: Table) -> set[str]:
        if lost := set(self.test) - set(table.assets):
            raise ConfigError("split", "dataset.split.test", f"names {', '.join(sorted(lost))}, which the data lacks")
        return set(self.test)


class GroupSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="group"):
    """test: the groups whose assets are the test's, as a data set that publishes its own split names them."""

    test: Names

    @property
    def words(self) -> str:
        return ", ".join(self.test)

    def drawn(self, table: Table) -> set[str]:
        groups = set(table.groups.values())
        if lost := set(self.test) - groups:
            found = f"the data has {', '.join(sorted(groups)) or 'no groups'}"
            raise ConfigError("split", "dataset.split.test", f"names {', '.join(sorted(lost))}; {found}")
        return {asset for asset, group in table.groups.items() if group in self.test}


class ShareSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="share"):
    """share: of the assets of each group, drawn by `seed`."""

    share: Annotated[float, Meta(gt=0, lt=1)]
    seed: Seed = 0

    @property
    def words(self) -> str:
        return f"{self.share:.0%} by seed {self.seed}"

    def drawn(self, table: Table) -> set[str]:
        dealt = _dealt(table, self.seed)
        count = round(self.share * len(dealt))
        # Every 1/share-th of the order, so that each group gives its share.
        return {dealt[int(i * len(dealt) / count)] for i in range(count)}


class FoldsSplit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="folds"):
    """One of several test sets that together are all assets. folds: how many, each with its part of every group; left
    out, each asset is one, in the order of their names. fold: which one, from 0; `edge-rul train --fold K` takes
    another."""

    folds: Annotated[int, Meta(ge=2)] | None = None
    fold: Annotated[int, Meta(ge=0)] = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, expected from 0 to {self.folds - 1}, as there are {self.folds}")

    @property
    def words(self) -> str:
        return f"fold {self.fold}" + ("" if self.folds is None else f" of {self.folds}")

    def drawn(self, table: Table) -> set[str]:
        dealt = in_order(table.assets) if self.folds is None else _dealt(table, self.seed)
        folds = self.folds or len(dealt)
        if self.fold >= folds:
            raise ConfigError("split", "dataset.split.fold", f"is {self.fold}, the data has assets for {folds} folds")
        return set(dealt[self.fold :: folds])


SplitSettings = AssetsSplit | GroupSplit | ShareSplit | FoldsSplit


def take(table: Table, settings: SplitSettings, part: Part) -> Table:
    """The rows of the part's assets. Raises DataError where the part would be empty, or leave no test, which training
    tells rather than the evaluation after it; and ConfigError for a wrong name."""
    test = settings.drawn(table)
    chosen: Collection[str] = test if part == "test" else [a for a in table.assets if a not in test]
    if lacking := part if not chosen else "test" if not test else "":
        hint = "whole assets are drawn: more of them are needed, or another share, other folds or names"
        problem = f"dataset.split leaves none for the {lacking} part"
        raise DataError("split", f"{len(table.assets)} assets", problem, hint=hint)
    return table.of(chosen)


def in_order(names: Collection[str]) -> list[str]:
    """By length first, so that 2 comes before 10."""
    return sorted(names, key=lambda name: (len(name), name))


def _dealt(table: Table, seed: int) -> list[str]:
    """All assets, group after group, those of a group in random order."""
    random = np.random.default_rng(seed)
    dealt: list[str] = []
    for group in sorted({table.groups.get(a, "") for a in table.assets}):
        own = sorted(a for a in table.assets if table.groups.get(a, "") == group)
        dealt += [own[i] for i in random.permutation(len(own))]
    return dealt
