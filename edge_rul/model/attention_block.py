"""Which cycles matter: multi-head self-attention with a residual and a LayerNorm.

Owns the third block of DualTaskModel, in the reference's form over all cycles and in the exact form for the last
cycle alone. Knows neither the other blocks nor what the sensors mean.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AttentionBlock(nn.Module):
    """LayerNorm(h + SelfAttention(h)), with dropout on the attention weights.

    ValueError for sizes below 1, and for a number of heads that does not divide d_model.
    """

    def __init__(self, d_model: int = 512, num_heads: int = 8, dropout_p: float = 0.1) -> None:
        super().__init__()
        if d_model < 1 or num_heads < 1:
            raise ValueError(f"d_model is {d_model} and num_heads {num_heads}, expected at least 1")
        if d_model % num_heads:
            raise ValueError(f"num_heads is {num_heads}, which does not divide d_model {d_model} (2 * lstm_hidden)")
        self.d_model = d_model
        self.num_heads = num_heads
        self.head_dim = d_model // num_heads
        self.mha = nn.MultiheadAttention(d_model, num_heads, dropout=dropout_p, batch_first=True)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, h: Tensor) -> Tensor:
        """h: (B, T, d_model) -> (B, T, d_model), every cycle."""
        attended, _ = self.mha(h, h, h, need_weights=False)  # (B, T, 512)
        out: Tensor = self.norm(h + attended)  # (B, T, 512)
        return out

    def last_cycle(self, h: Tensor) -> Tensor:
        """h: (B, T, d_model) -> (B, d_model): `forward(h)[:, -1]` for about a twentieth of the arithmetic.

        Only the last cycle's query is needed, and then neither keys nor values have to be computed at every cycle:

            score_t = q . (W_k h_t + b_k) = (W_k^T q) . h_t + constant        the softmax ignores the constant
            context = sum_t a_t (W_v h_t + b_v) = W_v (sum_t a_t h_t) + b_v sum_t a_t

        for each head, with sum_t a_t = 1 unless dropout took some of the weights. Equal to `forward` to float32
        rounding. In training, dropout acts on the last query's weights, as it does on that row in `forward`.
        """
        H, E, D = self.num_heads, self.head_dim, self.d_model
        w_q, w_k, w_v = self.mha.in_proj_weight.view(3, D, D).unbind()  # each (512, 512)
        b_q, _, b_v = self.mha.in_proj_bias.view(3, D).unbind()  # each (512,)
        last = h[:, -1]  # (B, 512)

        q = F.linear(last, w_q, b_q) * E**-0.5  # (B, 512); 1/8 for heads of 64
        q = q.view(-1, H, E).transpose(0, 1)  # (H, B, 64)
        probe = (q @ w_k.view(H, E, D)).transpose(0, 1)  # (B, H, 512), what each head looks for in h_t
        weights = (probe @ h.transpose(1, 2)).softmax(dim=-1)  # (B, H, T)
        weights = F.dropout(weights, self.mha.dropout, self.training)  # (B, H, T)
        pooled = (weights @ h).transpose(0, 1)  # (H, B, 512)
        context = (pooled @ w_v.view(H, E, D).transpose(1, 2)).transpose(0, 1)  # (B, H, 64)
        context = context + b_v.view(H, E) * weights.sum(dim=-1, keepdim=True)  # (B, H, 64)
        out: Tensor = self.norm(last + self.mha.out_proj(context.flatten(1)))  # (B, 512)
        return out
