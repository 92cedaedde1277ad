"""A run that begins with another bundle's weights.

Owns which tensors are taken over, those whose name and shape fit, and how slowly they begin to move. Must not know data
or losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import torch
from msgspec import Meta
from safetensors.torch import load
from torch import Tensor, nn

from edge_rul import bundle as bundles
from edge_rul.errors import BundleError
from edge_rul.training.losses.tasks import SCALE

Epochs = Annotated[int, Meta(ge=0)]
LAST = "rul_head."  # whose last Linear a bundle has in its RUL's unit


class TransferSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of tensors that `--init-from` took over. frozen: epochs in which they do not move. warmup: epochs
    after these in which they follow the optimiser by a share that grows evenly to 1. BatchNorm's running statistics
    follow the new data from the start."""

    frozen: Epochs = 0
    warmup: Epochs = 0

    def share(self, epoch: int) -> float:
        """How far they follow in an epoch, counted from 1."""
        return min(1.0, max(0, epoch - self.frozen) / (self.warmup + 1))


class Start(NamedTuple):
    """name, sha256: of the bundle. tensors: its weights by name, answering on the training scale."""

    name: str
    sha256: str
    tensors: dict[str, Tensor]


def read(path: Path) -> Start:
    """The weights of the bundle at `path`. Raises BundleError."""
    bundle = bundles.load(path)
    tensors = load(bundle.weights.read_bytes())
    final = [name.rpartition(".")[0] for name in tensors if name.startswith(LAST) and name.endswith(".weight")]
    last = max(final, key=lambda name: int(name.rpartition(".")[2]))
    for kind in ("weight", "bias"):
        tensors[f"{last}.{kind}"] = tensors[f"{last}.{kind}"] * (SCALE / bundle.manifest.rul.max)
    return Start(bundle.manifest.name, bundle.sha256, tensors)


def take_over(model: nn.Module, start: Start) -> list[str]:
    """Copy what fits, and name it in the model's order. Raises BundleError where nothing does."""
    own = model.state_dict()
    taken = [name for name, t in own.items() if name in start.tensors and start.tensors[name].shape == t.shape]
    if not taken:
        raise BundleError("init from", start.name, "no tensor has the shape of one of this model's")
    with torch.no_grad():
        for name in taken:
            own[name].copy_(start.tensors[name])
    return taken


def in_words(model: nn.Module, taken: list[str]) -> str:
    """How many tensors were taken over, and which were not."""
    left = [name for name in model.state_dict() if name not in taken]
    rest = f"; new: {', '.join(left)}" if left else ""
    return f"{len(taken)} of {len(taken) + len(left)} tensors taken over{rest}"


class Brake:
    """Holds back parameters that were taken over, by the settings."""

    def __init__(self, model: nn.Module, taken: list[str], settings: TransferSettings) -> None:
        self._held = [p for name, p in model.named_parameters() if name in set(taken)]
        self._settings = settings

    @contextmanager
    def step(self, epoch: int) -> Iterator[None]:
        """Around a step of the optimiser: parameters += share * (where the step took them - parameters)."""
        share = self._settings.share(epoch)
        before = [p.detach().clone() for p in self._held] if share < 1 else []
        yield
        with torch.no_grad():
            for p, old in zip(self._held, before, strict=False):
                p.copy_(torch.lerp(old, p, share))
