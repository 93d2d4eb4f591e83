"""Calls of the C++ and CUDA kernels (csrc), which share schemas, and the shapes that torch.compile needs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.spatio_temporal_graph.outputs import outputs
from stgt_kernels.ops.vmap import fold_into_batch


@torch.library.register_fake("stgt_kernels::spatio_temporal_graph_fwd")
def _(x, threshold, window, differentiable):
    return outputs(x, window, differentiable)


@torch.library.register_fake("stgt_kernels::spatio_temporal_graph_bwd")
def _(dweight, x, weight, inv_norm):
    return x.new_empty(x.shape)


def forward(x: Tensor, threshold: float, window: int, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, P, C) -> weight, live, and 1/|x| (B, T, P); the weights of a differentiable graph are not float16."""
    return torch.ops.stgt_kernels.spatio_temporal_graph_fwd(x, threshold, window, differentiable)


def backward(dweight: Tensor, x: Tensor, weight: Tensor, inv_norm: Tensor) -> Tensor:
    """dweight, weight (B, T, P, O, P), x (B, T, P, C), inv_norm (B, T, P) -> dx (B, T, P, C)."""
    return torch.ops.stgt_kernels.spatio_temporal_graph_bwd(dweight, x, weight, inv_norm)


for op in ("spatio_temporal_graph_fwd", "spatio_temporal_graph_bwd"):
    torch.library.register_vmap(f"stgt_kernels::{op}", fold_into_batch(getattr(torch.ops.stgt_kernels, op)))
