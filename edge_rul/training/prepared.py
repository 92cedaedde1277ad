"""Windows as the network gets them: normalised, labelled, on the device.

Owns the step from a table's windows to batches of tensors. Must not know losses, the training loop or files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edge_rul.core.normalise import Array, ZScore
from edge_rul.model.dual_task_model import DualTaskModel
from edge_rul.training.losses.tasks import SCALE, Targets
from edge_rul.training.metrics import Scores, scores
from edge_rul.training.settings import TrainingSettings
from edge_rul.training.table import Index
from edge_rul.training.windows import Labels, Windows, labels

EVALUATION_BATCH = 256
CPU = torch.device("cpu")


class Prepared(NamedTuple):
    """rows: (N, F) the table's readings normalised. labels: what the windows are judged by, in the RUL's unit.
    scale: from that unit to the training scale."""

    rows: Tensor
    windows: Windows
    labels: Labels
    scale: float

    def inputs(self, select: Index) -> Tensor:
        """(B, T, F) of the selected windows, on the device."""
        return self.rows[torch.from_numpy(self.windows.rows(select)).to(self.rows.device)]

    def batch(self, select: Index) -> tuple[Tensor, Targets]:
        """The selected windows (B, T, F) and their targets, on the device."""
        device = self.rows.device
        return self.inputs(select), Targets(
            torch.from_numpy(self.labels.rul[select] * np.float32(self.scale)).to(device),
            torch.from_numpy(self.labels.is_lower_bound[select]).to(device),
            torch.from_numpy(self.labels.health[select]).to(device),
        )


def prepare(
    windows: Windows,
    settings: TrainingSettings,
    normaliser: ZScore,
    device: torch.device = CPU,
) -> Prepared:
    """Label and normalise the windows' table."""
    rows = torch.from_numpy(normaliser.apply(windows.table.inputs)).to(device)  # (N, F)
    return Prepared(rows, windows, labels(windows, settings.rul.max, settings.classes), SCALE / settings.rul.max)


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
