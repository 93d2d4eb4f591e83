"""Launches of the Triton kernels that build the graph (triton_kernels.py), as leaf operators of torch."""

import torch
import triton
from torch import Tensor

from stgt_kernels.graph import TILE
from stgt_kernels.ops.layout import last_contiguous, vector_strides
from stgt_kernels.ops.spatio_temporal_graph.outputs import outputs
from stgt_kernels.ops.spatio_temporal_graph.triton_kernels import (
    inv_norm_kernel,
    rescue_kernel,
    spatio_temporal_graph_bwd_kernel,
    spatio_temporal_graph_fwd_kernel,
)
from stgt_kernels.ops.vmap import fold_into_batch


def launch_config(kernel: str, dtype: torch.dtype, P: int) -> dict[str, int]:
    """Blocks, warps and pipeline stages. They are the largest that spill no registers and take at most 99 KB of shared
    memory.
    """
    if dtype == torch.float32:
        blocks = dict(BM=64, BK=32) if kernel == "fwd" else dict(BM=64, BN=32, BK=64)
        return dict(**blocks, num_warps=8, num_stages=2)
    rows = dict(BM=64, num_warps=4) if P <= TILE else dict(BM=128, num_warps=8)
    return dict(**rows, BK=64, num_stages=3) if kernel == "fwd" else dict(**rows, BN=64, BK=128, num_stages=2)


@torch.library.custom_op("stgt_kernels::spatio_temporal_graph_fwd_triton", mutates_args=())
def forward(x: Tensor, threshold: float, window: int, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, P, C) -> weight (B, T, P, O, P), live (B, T, n, O, n), and 1/|x| (B, T, P) float32."""
    x = last_contiguous(x)
    vec, strides = vector_strides(x)
    B, T, P, C = x.shape
    precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    weight, live, inv_norm = outputs(x, window, differentiable)
    config = launch_config("fwd", x.dtype, P)
    blocks = triton.cdiv(P, config["BM"])
    with torch.cuda.device_of(x):
        inv_norm_kernel[(B * T * triton.cdiv(P, 4),)](x, inv_norm, *strides, T, P, C, vec, BM=4, BK=512)
        spatio_temporal_graph_fwd_kernel[(B * T * (window + 1) * blocks * blocks,)](
            x, inv_norm, weight, live, *strides, T, weight.shape[3], threshold, P, C, vec, TILE, precision, **config
        )
        if x.dtype != torch.float16:  # all squares of float16 numbers lie within float32
            rescue_kernel[(B * T * P,)](
                x, inv_norm, weight, live, *strides, T, weight.shape[3], threshold, P, C, vec, TILE,
                BM=1, BC=triton.next_power_of_2(C), num_warps=8,
            )  # fmt: skip
    return weight, live, inv_norm


@forward.register_fake
def _(x, threshold, window, differentiable):
    return outputs(x, window, differentiable)


@torch.library.custom_op("stgt_kernels::spatio_temporal_graph_bwd_triton", mutates_args=())
def backward(dweight: Tensor, x: Tensor, weight: Tensor, inv_norm: Tensor) -> Tensor:
    """dweight, weight (B, T, P, O, P), x (B, T, P, C), inv_norm (B, T, P) -> dx, contiguous."""
    x = last_contiguous(x)
    vec, strides = vector_strides(x)
    dweight, weight, inv_norm = (t.contiguous() for t in (dweight, weight, inv_norm))
    B, T, P, C = x.shape
    dx = x.new_empty(x.shape)
    largest = dweight.abs().amax().view(1) if x.dtype != torch.float32 else None
    config = launch_config("bwd", x.dtype, P)
    programs = B * T * triton.cdiv(P, config["BM"]) * triton.cdiv(C, config["BK"])
    with torch.cuda.device_of(x):
        spatio_temporal_graph_bwd_kernel[(programs,)](
            dweight, largest, x, weight, inv_norm, dx, *strides, T, weight.shape[3], P, C, vec, **config
        )
    return dx


@backward.register_fake
def _(dweight, x, weight, inv_norm):
    return x.new_empty(x.shape)


for op in (forward, backward):
    op.register_vmap(fold_into_batch(op))
