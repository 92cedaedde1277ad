"""Local patterns of neighbouring cycles: three convolutions over time.

Owns the first block of DualTaskModel. Knows neither the other blocks nor what the sensors mean.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (64, 128, 64)
KERNEL = 3


class CNNFrontend(nn.Module):
    """Three times Conv1d -> BatchNorm1d -> ReLU -> Dropout, from c_in to 64, 128 and 64 channels.

    Kernel 3 with padding 1 keeps the window's length. ValueError for c_in below 1.
    """

    out_dim = CHANNELS[-1]

    def __init__(self, c_in: int, dropout_p: float = 0.15) -> None:
        super().__init__()
        if c_in < 1:
            raise ValueError(f"c_in is {c_in}, expected at least 1")
        self.conv1 = nn.Conv1d(c_in, CHANNELS[0], KERNEL, padding=1)
        self.bn1 = nn.BatchNorm1d(CHANNELS[0])
        self.conv2 = nn.Conv1d(CHANNELS[0], CHANNELS[1], KERNEL, padding=1)
        self.bn2 = nn.BatchNorm1d(CHANNELS[1])
        self.conv3 = nn.Conv1d(CHANNELS[1], CHANNELS[2], KERNEL, padding=1)
        self.bn3 = nn.BatchNorm1d(CHANNELS[2])
        self.dropout = nn.Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, c_in) normalised sensors, oldest cycle first -> (B, T, 64)."""
        h: Tensor = x.transpose(1, 2)  # (B, c_in, T), as Conv1d wants it
        h = self.dropout(F.relu(self.bn1(self.conv1(h))))  # (B, 64, T)
        h = self.dropout(F.relu(self.bn2(self.conv2(h))))  # (B, 128, T)
        h = self.dropout(F.relu(self.bn3(self.conv3(h))))  # (B, 64, T)
        return h.transpose(1, 2)  # (B, T, 64)
