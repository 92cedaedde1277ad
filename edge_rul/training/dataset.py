"""Which data set, and the loader that reads it.

Owns the registry of formats. A format is one module with `load(data, subset, part, inputs) -> Table`; the rest of
training sees only the table. Must not know windows, the network or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edge_rul.errors import ConfigError, DataError
from edge_rul.training import cmapss
from edge_rul.training.table import Table

Part = Literal["train", "test"]
Loader = Callable[[Path, str, Part, Sequence[str]], Table]

LOADERS: dict[str, Loader] = {"cmapss": cmapss.load}


class DatasetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """format: a name in LOADERS. subset: the part of the data set that the format's file names speak of."""

    format: str
    subset: str

    def __post_init__(self) -> None:
        if self.format not in LOADERS:
            raise ValueError(f"format is {self.format!r}, expected one of {', '.join(sorted(LOADERS))}")


def load(settings: DatasetSettings, data: Path, part: Part, inputs: Sequence[str]) -> Table:
    """Read the lives of `part` from the directory `data`, with the named inputs in this order.

    Raises DataError with file:line where a file is missing or malformed, and ConfigError where the format has no
    such input.
    """
    if not data.is_dir():
        raise DataError("load data set", str(data), "there is no such directory", hint="name the directory by --data")
    try:
        return LOADERS[settings.format](data, settings.subset, part, inputs)
    except KeyError as e:
        raise ConfigError("load data set", "inputs", f"{settings.format} has no column {e.args[0]!r}") from e
