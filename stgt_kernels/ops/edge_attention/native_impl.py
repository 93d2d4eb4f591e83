"""Calls of the C++ and CUDA kernels (csrc), which share schemas, and the shapes that torch.compile needs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.edge_attention.vmap import fold_into_heads
from stgt_kernels.rounding import accumulator_dtype


@torch.library.register_fake("stgt_kernels::edge_attention_fwd")
def _(
    q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed, clamp, scale, dropout_p
):  # fmt: skip
    (N, H, _), E = q.shape, source.shape[0]
    dtype = accumulator_dtype(q.dtype)
    return q.new_empty(q.shape), q.new_empty(E, H, dtype=dtype), q.new_empty(N, H, 2, dtype=dtype)


@torch.library.register_fake("stgt_kernels::edge_attention_bwd")
def _(
    dout, dscores, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, col_ptr, target, col_edge,
    scale_type, bias_type, seed, scores, softmax, clamp, scale, dropout_p, need_dscale, need_dbias,
):  # fmt: skip
    dscale = scores.new_empty(edge_scale.shape if need_dscale else (0,))
    dbias = scores.new_empty(edge_bias.shape if need_dbias else (0,))
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), dscale, dbias


def forward(*args) -> tuple[Tensor, Tensor, Tensor]:
    """out (N, H, D), scores (E, H) and softmax (N, H, 2). The arguments are those of the op's schema."""
    return torch.ops.stgt_kernels.edge_attention_fwd(*args)


def backward(*args) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv (N, H, D), and the gradients of edge_scale and edge_bias, each None if it is not needed."""
    dq, dk, dv, dscale, dbias = torch.ops.stgt_kernels.edge_attention_bwd(*args)
    need_dscale, need_dbias = args[-2:]
    return dq, dk, dv, dscale if need_dscale else None, dbias if need_dbias else None


for op in ("edge_attention_fwd", "edge_attention_bwd"):
    torch.library.register_vmap(f"stgt_kernels::{op}", fold_into_heads(getattr(torch.ops.stgt_kernels, op)))
