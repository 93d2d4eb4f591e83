"""One autograd function for all kernels that build the graph."""

import torch
from torch import Tensor


def implementation(backend: str):
    """The module of kernels, imported when first used; torch.compile can follow an import statement, not a call."""
    if backend == "triton":
        from stgt_kernels.ops.spatio_temporal_graph import triton_impl as kernels
    else:
        from stgt_kernels.ops.spatio_temporal_graph import native_impl as kernels
    return kernels


class SpatioTemporalGraphFunction(torch.autograd.Function):
    """x -> (weight, live); gradients reach x through the kept edges, from both of an edge's ends."""

    @staticmethod
    def forward(ctx, x, threshold, window, differentiable, backend):
        kernels = implementation(backend)
        # -inf keeps every similarity that is a number.
        threshold = float("-inf") if threshold is None else threshold
        weight, live, inv_norm = kernels.forward(x, threshold, window, differentiable)
        ctx.save_for_backward(x, weight, inv_norm)
        ctx.kernels = kernels
        ctx.mark_non_differentiable(live)
        return weight, live

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dweight: Tensor, _):
        x, weight, inv_norm = ctx.saved_tensors
        return ctx.kernels.backward(dweight, x, weight, inv_norm), None, None, None, None
