"""CLIP's transformer block, from which the graph transformer and the cross-frame baseline are built."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm that computes in float32 and returns the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class MLP(nn.Module):
    """Two linear layers with a hidden width of 4·width, and CLIP's QuickGELU x·σ(1.702x) between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class DropPath(nn.Module):
    """Stochastic depth: in training, sets a sample's whole branch to 0 with probability p and scales the others up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = x.new_empty(x.shape[:1] + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


class ResidualAttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). Attention is over the second-to-last dimension only."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = LayerNorm(width)
        self.mlp = MLP(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, …, S, C). Returns the same shape."""
        x = x + self.drop_path(attend(self.attn, self.ln_1(x)))
        return x + self.drop_path(self.mlp(self.ln_2(x)))


def attend(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Self-attention over the second-to-last dimension of x (…, S, C). The dimensions before it are the batch."""
    flat = x.flatten(0, -3)
    return attn(flat, flat, flat, need_weights=False)[0].view(x.shape)
