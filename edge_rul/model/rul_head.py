"""How long it will still run: the shared vector to remaining useful life.

Owns the regression head of DualTaskModel. Knows neither the health head nor the label's cap.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RULHead(nn.Module):
    """in_dim -> 64 -> 32 -> 16 -> 1 with a ReLU after each layer, the last one too: RUL is never negative.

    ValueError for in_dim below 1.
    """

    def __init__(self, in_dim: int = 32) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim is {in_dim}, expected at least 1")
        layers: list[nn.Module] = []
        for a, b in ((in_dim, 64), (64, 32), (32, 16), (16, 1)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, in_dim) -> (B,) RUL in the label's unit, at least 0.

        (B,) and not (B, 1), which would silently broadcast a loss against labels of (B,) to (B, B).
        """
        rul: Tensor = self.layers(z)  # (B, 64) -> (B, 32) -> (B, 16) -> (B, 1)
        return rul.squeeze(-1)  # (B,)

    def set_final_bias(self, value: float) -> None:
        """Start the last layer's bias at `value`, the mean of the training labels.

        At the default initialisation the final ReLU answers 0 for every window in 59 of 100 seeds. Its gradient is
        then 0 too, and the head never learns. From the labels' mean it starts alive, and with the right level.
        """
        with torch.no_grad():
            self.final.bias.fill_(value)

    @property
    def final(self) -> nn.Linear:
        """The layer before the last ReLU."""
        layer = self.layers[-2]
        assert isinstance(layer, nn.Linear)
        return layer
