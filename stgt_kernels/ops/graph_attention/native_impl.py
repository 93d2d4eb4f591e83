"""Calls of the C++ and CUDA kernels (csrc), which share schemas, and the shapes that torch.compile needs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.layout import heads_last
from stgt_kernels.ops.vmap import fold_into_batch
from stgt_kernels.rounding import accumulator_dtype


@torch.library.register_fake("stgt_kernels::graph_attention_fwd")
def _(q, k, v, weight, live, seed, scale, dropout_p):
    return heads_last(q), q.new_empty(q.shape[:3], dtype=accumulator_dtype(q.dtype))


@torch.library.register_fake("stgt_kernels::graph_attention_bwd")
def _(dout, q, k, v, weight, live, seed, out, lse, dlse, scale, dropout_p, need_dweight):
    dweight = weight.new_empty(weight.shape if need_dweight else (0,))
    return heads_last(q), heads_last(q), heads_last(q), dweight


def forward(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, live: Tensor, seed: Tensor | None, scale: float, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """q, k, v (B, H, N, D), weight (B, T, P, O, P), live (B, T, n, O, n) -> out (B, H, N, D), lse (B, H, N)."""
    return torch.ops.stgt_kernels.graph_attention_fwd(q, k, v, weight, live, seed, scale, dropout_p)


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    live: Tensor,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dlse: Tensor | None,
    scale: float,
    dropout_p: float,
    need_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv (B, H, N, D), and the gradient of the weights, or None if it is not needed."""
    dq, dk, dv, dweight = torch.ops.stgt_kernels.graph_attention_bwd(
        dout, q, k, v, weight, live, seed, out, lse, dlse, scale, dropout_p, need_dweight
    )
    return dq, dk, dv, dweight if need_dweight else None


for op in ("graph_attention_fwd", "graph_attention_bwd"):
    torch.library.register_vmap(f"stgt_kernels::{op}", fold_into_batch(getattr(torch.ops.stgt_kernels, op)))
