"""Which data set, and the loader that reads it.

Owns the list of formats. A format is one module with a Struct of its keys and a `read`; the rest of training sees only
the table. Must not know windows, the network or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_rul.errors import ConfigError, DataError
from edge_rul.training.bearings import BearingsSettings
from edge_rul.training.clean import Rule, clean
from edge_rul.training.cmapss import CmapssSettings
from edge_rul.training.disks import DisksSettings
from edge_rul.training.format import cycles_to, tidy
from edge_rul.training.parts import Part, take
from edge_rul.training.run_to_failure import TableSettings
from edge_rul.training.table import Table
from edge_rul.training.wind import WindSettings

DatasetSettings = CmapssSettings | TableSettings | BearingsSettings | WindSettings | DisksSettings


def load(
    settings: DatasetSettings, data: Path, part: Part, inputs: Sequence[str | Rule], unit: str = "cycles"
) -> Table:
    """Read the lives of `part` from the directory or file `data`, with these inputs in this order, as the daemon would
    take them in. An input is a name, for which dataset.rows.missing holds, or a rule of its own.

    unit: of the RUL; one of time needs dataset.seconds_per_cycle. Raises DataError with file:line where a file is
    missing or malformed, and ConfigError where the format has no such input.
    """
    per_cycle = cycles_to(unit, settings.seconds_per_cycle)
    try:
        if not data.exists():
            hint = "name the directory by --data"
            raise DataError("load data set", str(data), "there is no such directory", hint=hint)
        table = settings.read(data, part, [i if isinstance(i, str) else i.name for i in inputs])
    except KeyError as e:
        name = type(settings).__struct_config__.tag
        raise ConfigError("load data set", "inputs", f"{name} has no column {e.args[0]!r}") from e
    except OSError as e:  # in a folder that may not be entered
        raise DataError("load data set", str(e.filename or data), f"cannot be read: {e.strerror or e}") from e
    missing = settings.rows.rule
    rules = [Rule(i, missing=missing) if isinstance(i, str) else i for i in inputs]
    table = clean(tidy(table, settings.rows), rules, settings.column)
    if settings.split is not None:
        table = take(table, settings.split, part)
    return msgspec.structs.replace(table, rul=table.rul * np.float32(per_cycle), max_gap=settings.max_gap)
