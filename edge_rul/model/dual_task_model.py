"""The whole network: one backbone, two tasks.

    x (B, T, c_in) -> cnn (B, T, 64) -> lstm (B, T, 512) -> attn (B, T, 512) -> funnel (B, 32) = z
                                                            z -> rul_head (B,), health_head (B, C)

Owns how the blocks are put together, and the weights' way to and from a file. Must not know data sets, losses or
the daemon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from edge_rul.bundle import Network
from edge_rul.errors import BundleError
from edge_rul.model.attention_block import AttentionBlock
from edge_rul.model.bilstm_encoder import BiLSTMEncoder
from edge_rul.model.cnn_frontend import CNNFrontend
from edge_rul.model.fc_funnel import FCFunnel
from edge_rul.model.health_head import HealthHead
from edge_rul.model.rul_head import RULHead

RUL_GAIN = 10.0  # see DualTaskModel.draw_he


class DualTaskModel(nn.Module):
    """RUL and health of a window. The defaults are the published model, 3,496,900 parameters at 14 inputs.

    The window must arrive normalised: there is no normalisation layer. Both heads read the same z, which is never
    detached, so that both tasks train the backbone. Answers are the tuple (rul, logits), in this order: a dict would
    break DataParallel and torch.compile. ValueError for sizes below 1, for heads that do not divide 2 * lstm_hidden,
    and for an input that is not (B, T, c_in).
    """

    def __init__(
        self,
        c_in: int = 14,
        lstm_hidden: int = 256,
        num_heads: int = 8,
        shared_dim: int = 32,
        num_classes: int = 3,
        dropout: float = 1.0,
    ) -> None:
        """dropout: what to multiply the published rates by; it matters in training alone."""
        super().__init__()
        self.c_in = c_in
        self.cnn = CNNFrontend(c_in, dropout_p=0.15 * dropout)
        self.lstm = BiLSTMEncoder(self.cnn.out_dim, lstm_hidden, num_layers=2, dropout_p=0.3 * dropout)
        self.attn = AttentionBlock(self.lstm.out_dim, num_heads, dropout_p=0.1 * dropout)
        self.funnel = FCFunnel(self.lstm.out_dim, (256, 64), shared_dim, dropout_p=0.3 * dropout)
        self.rul_head = RULHead(shared_dim)
        self.health_head = HealthHead(shared_dim, num_classes)

    def draw_he(self) -> None:
        """Draw the weights of the funnel and the heads anew, by He et al., arXiv 1502.01852: mean 0, deviation
        sqrt(2 / inputs), biases 0.

        As torch draws them, what differs between windows becomes smaller by about the square root of six in each of
        the seven layers up to the RUL, which at first is nearly the same for all; a fifth of a short run passes until
        it is not. The last layer of the RUL is drawn RUL_GAIN times as wide: what it sees is in ones, what it answers
        is in tens.
        """
        for part in (self.funnel, self.rul_head, self.health_head):
            for layer in part.layers:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.rul_head.final.weight.mul_(RUL_GAIN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, c_in) -> rul (B,) and logits (B, C), as the reference writes it: attention over all cycles."""
        h = self._encode(x)  # (B, T, 512)
        z = self.funnel(self.attn(h))  # (B, 32)
        return self.rul_head(z), self.health_head(z)

    def forward_last(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` answers, to float32 rounding, with attention for the last cycle alone.

        Training and the exported graph use this one: it saves 29% of the arithmetic, and without the dropout of the
        attention weights the gradients are the same.
        """
        z = self.shared(x)  # (B, 32)
        return self.rul_head(z), self.health_head(z)

    def shared(self, x: Tensor) -> Tensor:
        """x: (B, T, c_in) -> z (B, 32), which both heads read; by way of the last cycle alone."""
        h = self._encode(x)  # (B, T, 512)
        z: Tensor = self.funnel.compress(self.attn.last_cycle(h))  # (B, 32)
        return z

    def _encode(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[2] != self.c_in or x.shape[1] < 1:
            raise ValueError(f"input has shape {tuple(x.shape)}, expected (B, T, {self.c_in}) with T at least 1")
        h: Tensor = self.lstm(self.cnn(x))  # (B, T, 64) -> (B, T, 512)
        return h


def parameters(model: nn.Module) -> int:
    """How many numbers of `model` are trained."""
    return sum(p.numel() for p in model.parameters())


def weights_of(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """The state dict as arrays of their own, for `bundle.write`: float32, and int64 for BatchNorm's batch counters."""
    return {name: np.array(t.detach().cpu().numpy()) for name, t in model.state_dict().items()}


def load_model(weights: Path, network: Network) -> DualTaskModel:
    """The model that `network` describes with the weights of a safetensors file, in eval mode.

    Raises BundleError if the file cannot be read, lacks a weight, has one too many, or one of another shape.
    """

    def error(problem: str) -> BundleError:
        return BundleError("load weights", str(weights), problem, hint="weights and manifest must be of one bundle")

    sizes = (network.c_in, network.lstm_hidden, network.num_heads, network.shared_dim, network.num_classes)
    try:
        model = DualTaskModel(*sizes)
    except ValueError as e:
        raise error(f"the manifest describes no network: {e}") from e
    if (found := parameters(model)) != network.parameters:
        raise error(f"the manifest counts {network.parameters} parameters, the network that it describes has {found}")
    try:
        model.load_state_dict(load_tensors(weights.read_bytes()), strict=True)
    except OSError as e:
        raise error(f"cannot be read: {e.strerror}") from e
    except SafetensorError as e:
        raise error(f"is not a safetensors file: {e}") from e
    except RuntimeError as e:  # torch names every missing, unexpected and misshapen weight
        raise error(str(e)) from e
    return model.eval()
