"""From the last cycle's features to the vector that both tasks share.

Owns the fourth block of DualTaskModel. Knows neither the other blocks nor the tasks.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class FCFunnel(nn.Module):
    """Linear -> ReLU -> Dropout for each width in `hidden`, then Linear to `out_dim` with no activation.

    `hidden` may have any length. ValueError for a width below 1.
    """

    def __init__(
        self,
        d_model: int = 512,
        hidden: tuple[int, ...] = (256, 64),
        out_dim: int = 32,
        dropout_p: float = 0.3,
    ) -> None:
        super().__init__()
        widths = (d_model, *hidden, out_dim)
        if min(widths) < 1:
            raise ValueError(f"widths are {widths}, expected at least 1 each")
        layers: list[nn.Module] = []
        for a, b in pairwise(widths[:-1]):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout_p)]
        layers.append(nn.Linear(widths[-2], out_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, T, d_model) -> (B, out_dim); only the last cycle is read."""
        return self.compress(h[:, -1])

    def compress(self, last: Tensor) -> Tensor:
        """last: (B, d_model), the last cycle already selected -> (B, out_dim)."""
        z: Tensor = self.layers(last)  # (B, 256) -> (B, 64) -> (B, 32)
        return z
