"""The lives that a configuration trains on, and which of them it keeps from what.

Owns the order: calibration assets are drawn first, validation assets of those that are left. Must not know windows,
the network or torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edge_rul.training import dataset
from edge_rul.training.settings import TrainingSettings
from edge_rul.training.table import Table


class Lives(NamedTuple):
    """every: as read. learnt: what is fitted. judged: for choosing; None where the configuration keeps none for it.
    kept: for calibration."""

    every: Table
    learnt: Table
    judged: Table | None
    kept: Table


def read(settings: TrainingSettings, data: Path) -> Lives:
    """The training lives in `data`, by the configuration's rules for its inputs. Raises DataError or ConfigError."""
    every = dataset.load(settings.dataset, data, "train", settings.rules, settings.rul.unit)
    learnt, kept = settings.calibration.split(every, "calibration")
    judged = None
    if settings.validation is not None:
        learnt, judged = settings.validation.split(learnt, "validation")
    return Lives(every, learnt, judged, kept)
