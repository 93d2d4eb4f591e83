"""CLIP's transformer block, from which the graph transformer and the cross-frame baseline are built."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stgt_kernels import linear, packed_attention
from stgt_kernels.plain import is_plain, project


class LayerNorm(nn.LayerNorm):
    """Layer norm that computes in float32 and returns the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, C). Returns the same shape and dtype."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


_STEEPNESS = 1.702
"""The factor in CLIP's QuickGELU x·σ(1.702x)"""


class MLP(nn.Module):
    """Two linear layers with a hidden width of 4·width, and CLIP's QuickGELU x·σ(1.702x) between them.

    QuickGELU is silu(1.702x) / 1.702. The weights take both factors, because they are smaller than the hidden layer.
    So the activation is one pass over the hidden layer, and training stores no tensor for it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, width). Returns the same shape."""
        if not is_plain(self.c_fc, self.c_proj):
            return self.c_proj(F.silu(self.c_fc(x) * _STEEPNESS) / _STEEPNESS)
        hidden = F.silu(linear(x, self.c_fc.weight * _STEEPNESS, self.c_fc.bias * _STEEPNESS))
        return linear(hidden, self.c_proj.weight / _STEEPNESS, self.c_proj.bias)


class DropPath(nn.Module):
    """Stochastic depth: in training, sets a sample's whole branch to 0 with probability p and scales the others up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, …), the result of the branch. Returns the same shape."""
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
    """Self-attention over the second-to-last dimension of x (…, S, C). The dimensions before it are the batch.

    The result is that of `attn`, but queries, keys and values are parts of one product, where `attn` makes copies.
    """
    flat = x.flatten(0, -3)
    found = self_attention(attn, flat) if is_plain(attn) else attn(flat, flat, flat, need_weights=False)[0]
    return found.view(x.shape)


def self_attention(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Computes self-attention with the weights of `attn`, without dropout. x: (B, S, C). Returns (B, S, C)."""
    qkv = linear(x, attn.in_proj_weight, attn.in_proj_bias)
    heads = packed_attention(qkv.unflatten(-1, (3, attn.num_heads, -1)))
    return project(attn.out_proj, heads.flatten(2))
