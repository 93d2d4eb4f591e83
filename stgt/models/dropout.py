"""Dropout that needs few random numbers on a CPU, and attention with such dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt_kernels import packed_attention

_VALUES = 1 << 16
"""The number of values of the random integers, each of which decides about one element"""


class Dropout(nn.Dropout):
    """torch.nn.Dropout, computed by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """input: a floating-point tensor of any shape. Returns the same shape; in evaluation mode the input itself."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Tensor, p: float) -> Tensor:
    """Sets each element to 0 with probability p, and multiplies the others by 1 / (1 - p), as F.dropout does.

    On a CPU, F.dropout draws one number after the other, which takes longer than all other work on x. There, one draw
    of PyTorch's generator decides about four elements, and p is rounded to a multiple of 1/65536.
    x: any floating-point tensor; p: 0 <= p < 1.
    """
    if not _fast(x, p):
        return F.dropout(x, p)
    dropped = min(round(p * _VALUES), _VALUES - 1)
    if dropped == 0:
        return x
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _VALUES // 2
    return x * kept.to(x.dtype).mul_(_VALUES / (_VALUES - dropped))


def attention(q: Tensor, kv: Tensor, bias: Tensor | None, p: float) -> Tensor:
    """Softmax attention with bias and dropout p, which has no fused form with dropout on a CPU.

    q: (B, S, 1, H, D); kv, keys and values: (B, N, 2, H, D); bias, which is added to the scores and is finite:
    (B, 1, S, N) or None. Returns (B, S, H, D).
    """
    if p == 0:
        return packed_attention(q, kv, bias=bias)
    queries, keys, values = (part.transpose(1, 2) for part in (q[:, :, 0], *kv.unbind(2)))
    if not _fast(q, p):
        return F.scaled_dot_product_attention(queries, keys, values, bias, p).transpose(1, 2)
    scores = (queries * q.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    heads = dropout((scores if bias is None else scores + bias).softmax(-1), p) @ values
    return heads.transpose(1, 2)


def _fast(x: Tensor, p: float) -> bool:
    """Whether our own dropout is used: with dropout, on a CPU, outside of compiled code, whose own form is fused."""
    return p > 0 and x.device.type == "cpu" and not torch.compiler.is_compiling()
