"""How healthy it is: the shared vector to class logits.

Owns the classification head of DualTaskModel. Knows neither the RUL head nor what the classes are called.
"""

from __future__ import annotations

from torch import Tensor, nn


class HealthHead(nn.Module):
    """in_dim -> 32 -> 16 -> num_classes with a ReLU between. ValueError for sizes below 1."""

    def __init__(self, in_dim: int = 32, num_classes: int = 3) -> None:
        super().__init__()
        if in_dim < 1 or num_classes < 1:
            raise ValueError(f"in_dim is {in_dim} and num_classes {num_classes}, expected at least 1")
        self.layers = nn.Sequential(
            nn.Linear(in_dim, 32),
            nn.ReLU(),
            nn.Linear(32, 16),
            nn.ReLU(),
            nn.Linear(16, num_classes),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, in_dim) -> (B, C) raw logits: cross-entropy takes its own softmax, and a class is their argmax."""
        logits: Tensor = self.layers(z)  # (B, 32) -> (B, 16) -> (B, C)
        return logits
