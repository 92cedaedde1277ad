"""Windows as the network gets them: transformed, labelled, on the device.

Owns the step from a table's windows to batches of tensors. Must not know losses, the training loop or files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edge_rul.core.features import Features
from edge_rul.core.normalise import Array
from edge_rul.core.transform import Transform
from edge_rul.errors import DataError
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.losses.tasks import SCALE, Targets
from edge_rul.training.metrics import Scores, scores
from edge_rul.training.normaliser import fit_normaliser
from edge_rul.training.settings import TrainingSettings
from edge_rul.training.table import Index, Mask, Table
from edge_rul.training.windows import Labels, Windows, labels

EVALUATION_BATCH = 256
CPU = torch.device("cpu")


class Prepared(NamedTuple):
    """rows: (N, C) the table's readings normalised, condition and known: (N,) the operating condition of each, and
    whether it is a known one. labels: what the windows are judged by, in the RUL's unit. scale: from that unit to the
    training scale."""

    transform: Transform
    rows: Tensor
    condition: Index
    known: Mask
    windows: Windows
    labels: Labels
    scale: float

    def inputs(self, select: Index) -> Tensor:
        """(B, T, C) of the selected windows, on the device."""
        rows = self.windows.rows(select)  # (B, T)
        x = self.rows[torch.from_numpy(rows).to(self.rows.device)]  # (B, T, C)
        if not self.transform.along:
            return x
        # By the daemon's own steps: a product on another device gives other last bits.
        finished = self.transform.finish(x.cpu().numpy(), self.condition[rows], self.known[rows])  # (B, T, C)
        return torch.from_numpy(finished).to(x.device)

    def batch(self, select: Index) -> tuple[Tensor, Targets]:
        """The selected windows (B, T, C) and their targets, on the device."""
        device = self.rows.device
        return self.inputs(select), Targets(
            torch.from_numpy(self.labels.rul[select] * np.float32(self.scale)).to(device),
            torch.from_numpy(self.labels.is_lower_bound[select]).to(device),
            torch.from_numpy(self.labels.health[select]).to(device),
        )


def fit_transform(table: Table, settings: TrainingSettings) -> Transform:
    """The steps that the settings declare, with all that they measure taken from the readings of `table`.

    Raises DataError where these do not fall into the operating conditions that were asked for, or have no times for a
    change per unit of time.
    """
    timed = [f.name for f in settings.seen if f.change not in (None, "cycle")]
    if timed and table.time is None:
        hint = "take its change per cycle, or name the column of times by dataset.time"
        raise DataError("train", f"feature {timed[0]}", "is a change in time, and the data set has no times", hint=hint)
    names = [i.name for i in settings.inputs]
    features = Features(settings.seen, names)
    values, _ = features.apply(table.readings(before=features.changes))  # (N, C)
    # A value that is held repeats the noise of the one before it.
    repeated = np.zeros(len(table), np.bool_) if table.held is None else table.held.any(axis=1)  # (N,)
    by = table.inputs[:, [names.index(name) for name in settings.normaliser.settings]]  # (N, S)
    return Transform(
        names,
        low=table.inputs.min(axis=0).tolist(),
        high=table.inputs.max(axis=0).tolist(),
        features=settings.seen,
        normaliser=fit_normaliser(settings.normaliser, values, by, table.follows & ~repeated, settings.seed),
        smoothing=settings.smooth,
        window=settings.window,
    )


def prepare(
    windows: Windows,
    settings: TrainingSettings,
    transform: Transform,
    device: torch.device = CPU,
) -> Prepared:
    """Label and transform the windows' table."""
    rows = transform.rows(windows.table.readings(before=transform.changes))
    true = labels(windows, settings.rul.max, settings.classes)
    z = torch.from_numpy(rows.z).to(device)  # (N, C)
    return Prepared(transform, z, rows.condition, rows.known, windows, true, SCALE / settings.rul.max)


@torch.no_grad()
def predict(model: DualTaskModel, prepared: Prepared) -> tuple[Array, Array]:
    """rul (N,) in the RUL's unit and logits (N, C) of all windows, in eval mode and float32."""
    model.eval()
    ruls, logits = [], []
    for begin in range(0, len(prepared.windows), EVALUATION_BATCH):
        select = np.arange(begin, min(begin + EVALUATION_BATCH, len(prepared.windows)))
        r, c = model.forward_last(prepared.inputs(select))  # (B,), (B, C)
        ruls.append(r.cpu().numpy())
        logits.append(c.cpu().numpy())
    return np.concatenate(ruls) / np.float32(prepared.scale), np.concatenate(logits)


def score(answers: tuple[Array, Array], prepared: Prepared) -> Scores:
    """Figures over all windows, in the RUL's unit. answers: of `predict`."""
    true = prepared.labels
    return scores(*answers, true.rul, true.health, true.is_lower_bound)
