"""The course of a window, read from both ends: a bidirectional LSTM.

Owns the second block of DualTaskModel. Knows neither the other blocks nor what the sensors mean.
"""

from __future__ import annotations

from torch import Tensor, nn


class BiLSTMEncoder(nn.Module):
    """A bidirectional LSTM of `num_layers` layers; `out_dim` is 2 * hidden_size, forward half first.

    dropout_p acts between the layers, so a single layer ignores it. Initial states are 0. ValueError for a size or a
    number of layers below 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 256, num_layers: int = 2, dropout_p: float = 0.3) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.out_dim = 2 * hidden_size
        self.lstm = nn.LSTM(
            input_size,
            hidden_size,
            num_layers=num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout_p if num_layers > 1 else 0.0,
        )

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, T, input_size) -> (B, T, 2 * hidden_size), the last layer's output at every cycle."""
        sequence: Tensor = self.lstm(h)[0]  # (B, T, 512); the final states are of no use here
        return sequence
