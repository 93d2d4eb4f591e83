"""Launches of the Triton kernels of edge attention (triton_kernels.py), as leaf operators of torch."""

import torch
import triton
from torch import Tensor

from stgt_kernels.ops.edge_attention.triton_kernels import (
    edge_attention_bwd_columns_kernel,
    edge_attention_bwd_rows_kernel,
    edge_attention_bwd_types_kernel,
    edge_attention_fwd_kernel,
)
from stgt_kernels.ops.edge_attention.vmap import fold_into_heads
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.ops.layout import last_contiguous, vector_strides

TILE = 2048  # the most elements of a tile (BE, BH, BD), see blocks
REGISTERS = 128  # the most registers of a thread; without this limit, ptxas spills in order to take fewer than 80
LENGTH = 4096  # the edges whose gradients one program adds up for one type


def blocks(H: int, D: int) -> dict[str, int]:
    """The sizes of a tile (BE, BH, BD) of at most TILE elements: edges, heads, and the whole head dimension D.

    It has as many heads as leave room for 4 edges, and at most 32 edges.
    """
    BD = triton.next_power_of_2(D)
    BH = min(triton.next_power_of_2(H), max(TILE // (4 * BD), 1))
    return dict(BE=min(TILE // (BD * BH), 32), BH=BH, BD=BD)


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in contiguous memory. None stays None."""
    return [None if t is None else t.contiguous() for t in tensors]


def dropout_arguments(dropout_p: float) -> tuple[int, float]:
    """The number below which a lane drops a probability, and the factor of those that are kept."""
    return philox.drop_threshold(dropout_p), 1 / philox.keep_prob(dropout_p)


@torch.library.custom_op("stgt_kernels::edge_attention_fwd_triton", mutates_args=())
def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_scale: Tensor | None,
    edge_bias: Tensor | None,
    row_ptr: Tensor,
    source: Tensor,
    row_edge: Tensor,
    scale_type: Tensor | None,
    bias_type: Tensor | None,
    seed: Tensor | None,
    clamp: float,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (N, H, D) -> out (N, H, D), scores (E, H) and softmax (N, H, 2) in float32."""
    q, k, v = (last_contiguous(t) for t in (q, k, v))
    edge_scale, edge_bias = contiguous(edge_scale, edge_bias)
    (N, H, D), E = q.shape, source.shape[0]
    out, scores = q.new_empty(N, H, D), q.new_empty(E, H, dtype=torch.float32)
    softmax = q.new_empty(N, H, 2, dtype=torch.float32)
    size = blocks(H, D)
    vec, steps = vector_strides(q, k, v)
    with torch.cuda.device_of(q):
        if N:
            edge_attention_fwd_kernel[(N, triton.cdiv(H, size["BH"]))](
                q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed,
                out, scores, softmax, *steps, H, clamp, scale, *dropout_arguments(dropout_p),
                VEC=vec, D=D, DROPOUT=dropout_p > 0, maxnreg=REGISTERS, **size,
            )  # fmt: skip
    return out, scores, softmax


@forward.register_fake
def _(q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed, clamp, scale, dropout_p):
    (N, H, _), E = q.shape, source.shape[0]
    return q.new_empty(q.shape), q.new_empty(E, H, dtype=torch.float32), q.new_empty(N, H, 2, dtype=torch.float32)


@torch.library.custom_op("stgt_kernels::edge_attention_bwd_triton", mutates_args=())
def backward_op(
    dout: Tensor,
    dscores: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_scale: Tensor | None,
    edge_bias: Tensor | None,
    row_ptr: Tensor,
    source: Tensor,
    row_edge: Tensor,
    col_ptr: Tensor,
    target: Tensor,
    col_edge: Tensor,
    scale_type: Tensor | None,
    bias_type: Tensor | None,
    seed: Tensor | None,
    scores: Tensor,
    softmax: Tensor,
    clamp: float,
    scale: float,
    dropout_p: float,
    need_dscale: bool,
    need_dbias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dq, dk, dv (N, H, D), and the gradients of edge_scale and edge_bias, each empty if it is not needed."""
    dout, q, k, v = (last_contiguous(t) for t in (dout, q, k, v))
    dscores, edge_scale, edge_bias = contiguous(dscores, edge_scale, edge_bias)
    scores, softmax = scores.contiguous(), softmax.contiguous()
    N, H, D = q.shape
    dq, dk, dv = (q.new_empty(N, H, D) for _ in range(3))
    dproduct, probability = torch.empty_like(scores), torch.empty_like(scores)
    dscale, dbias = (torch.empty_like(scores) if needed else None for needed in (need_dscale, need_dbias))
    size = blocks(H, D)
    grid = (N, triton.cdiv(H, size["BH"]))
    vec, steps = vector_strides(dout, k, v, q)
    own, other, of_q = steps[:2], steps[2:6], steps[6:]
    with torch.cuda.device_of(q):
        if N:
            edge_attention_bwd_rows_kernel[grid](
                dout, dscores, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed,
                scores, softmax, dq, dproduct, probability, dscale, dbias, *own, *other, H,
                clamp, scale, *dropout_arguments(dropout_p),
                VEC=vec, D=D, DROPOUT=dropout_p > 0, maxnreg=REGISTERS, **size,
            )  # fmt: skip
            edge_attention_bwd_columns_kernel[grid](
                dout, q, col_ptr, target, col_edge, dproduct, probability, dk, dv, *own, *of_q, H,
                VEC=vec, D=D, maxnreg=REGISTERS, **size,
            )  # fmt: skip
        dscale, dbias = (
            scores.new_empty(0) if x is None else sum_types(x, values, types)
            for x, values, types in ((dscale, edge_scale, scale_type), (dbias, edge_bias, bias_type))
        )
    return dq, dk, dv, dscale, dbias


def sum_types(per_edge: Tensor, values: Tensor | None, types: Tensor | None) -> Tensor:
    """The gradient of edge_scale or edge_bias, (E or types, H), from the gradient for each edge, (E, H)."""
    if types is None or values is None:
        return per_edge
    E, H = per_edge.shape
    partial = per_edge.new_empty(triton.cdiv(E, LENGTH), values.shape[0], H)
    BH = min(triton.next_power_of_2(H), 16)
    if partial.numel():
        edge_attention_bwd_types_kernel[(*partial.shape[:2], triton.cdiv(H, BH))](
            per_edge, types, partial, E, H, LENGTH=LENGTH, BE=2048 // BH, BH=BH
        )
    return partial.sum(0)


@backward_op.register_fake
def _(
    dout, dscores, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, col_ptr, target, col_edge,
    scale_type, bias_type, seed, scores, softmax, clamp, scale, dropout_p, need_dscale, need_dbias,
):  # fmt: skip
    dscale = scores.new_empty(edge_scale.shape if need_dscale else (0,))
    dbias = scores.new_empty(edge_bias.shape if need_dbias else (0,))
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), dscale, dbias


def backward(*args) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv (N, H, D), and the gradients of edge_scale and edge_bias, each None if it is not needed."""
    dq, dk, dv, dscale, dbias = backward_op(*args)
    need_dscale, need_dbias = args[-2:]
    return dq, dk, dv, dscale if need_dscale else None, dbias if need_dbias else None


for op in (forward, backward_op):
    op.register_vmap(fold_into_heads(op))
