"""A table as the daemon would have taken it in.

Owns the rules for single values: what is beyond a valid range, what is missing, and what stands in for it. They are the
daemon's own rules, applied to a whole table at once. What only a data set's format knows (a row of zeros, a clock that
jumps) belongs to its loader. Must not know formats, windows or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from edge_rul.core.valid import Ranges
from edge_rul.errors import DataError
from edge_rul.training.table import Index, Mask, Table, in_short


class Rule(msgspec.Struct, frozen=True):
    """What is said of one input.

    valid:    a value beyond is as good as missing
    missing:  an error with its place; the reading is rejected; or the value before in its life is held
    max_hold: readings in a row for which a window may hold it
    """

    name: str
    valid: tuple[float, float] | None = None
    missing: Literal["error", "reject", "hold"] = "error"
    max_hold: int | None = None

    @property
    def daemon(self) -> Literal["reject", "hold"]:
        """What the daemon, for which nothing that comes in is an error, does about it."""
        return "hold" if self.missing == "hold" else "reject"


def clean(table: Table, rules: Sequence[Rule], column: Callable[[str], str] = str) -> Table:
    """The readings that the daemon would use, with the values in force; `held` tells which are not the reading's own.

    rules: of the table's inputs. column: what the files call one. What a life begins with cannot be held: readings
    before its first complete one are rejected. All of it is counted in the table's `rules`. Raises DataError for a
    missing value that is an error, and where nothing is left.
    """
    values = table.inputs  # (N, F)
    missing = np.isnan(values)  # (N, F)
    for f, rule in enumerate(rules):
        if rule.missing == "error" and missing[:, f].any():
            row = int(missing[:, f].argmax())
            where = f"{in_short(list(table.files))}: cycle {table.cycle[row]} of {table.asset[row]}"
            called = column(rule.name)
            problem = f"{rule.name} is missing" + (f" (column {called})" if called != rule.name else "")
            hint = "say by its `missing`, or by dataset.rows.missing, what becomes of such readings"
            raise DataError("load data set", where, problem, hint=hint)
    ranges = Ranges([rule.valid for rule in rules], [rule.missing == "hold" for rule in rules])
    invalid = ranges.beyond(values)  # (N, F)
    missing |= invalid
    used: Mask = ~np.any(missing & ~ranges.hold, axis=1)  # (N,)
    begun = np.repeat(table.starts, table.lengths)  # (N,) first row of the life
    used &= _latest(used & ~np.any(missing, axis=1)) >= begun
    counts = {
        "values_invalid": int(invalid.sum()),
        "missing_held": int(missing[used].sum()),
        "missing_dropped": int((~used).sum()),
    }
    left = msgspec.structs.replace(
        table.where(used), rules={**table.rules, **{name: n for name, n in counts.items() if n}}
    )
    if not len(left):
        raise DataError("load data set", "inputs", f"none of {len(table)} readings has a valid value of each input")
    held = missing[used]  # (M, F)
    source = np.stack([_latest(~held[:, f]) for f in range(len(rules))], axis=1)  # (M, F) where the value came from
    forced = np.take_along_axis(left.inputs, source, axis=0)  # (M, F)
    return msgspec.structs.replace(left, inputs=forced, held=held, max_hold=[rule.max_hold for rule in rules])


def _latest(happened: Mask) -> Index:
    """(N,) the latest row, up to each, at which it happened; -1 before the first."""
    latest: Index = np.maximum.accumulate(np.where(happened, np.arange(len(happened)), -1))
    return latest
