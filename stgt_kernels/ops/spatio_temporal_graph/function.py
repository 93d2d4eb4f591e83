"""One autograd function for all kernels that build the graph."""

import torch
from torch import Tensor

from stgt_kernels.ops.autograd import KernelFunction, differentiable_once


def implementation(backend: str):
    """The module of kernels, imported when it is first used. An import statement is what torch.compile can trace."""
    if backend == "triton":
        from stgt_kernels.ops.spatio_temporal_graph import triton_impl as kernels
    else:
        from stgt_kernels.ops.spatio_temporal_graph import native_impl as kernels
    return kernels


class SpatioTemporalGraphFunction(KernelFunction):
    """x -> (weight, live, 1/|x|); gradients reach x through the kept edges, from both of an edge's ends."""

    @staticmethod
    def forward(x, threshold, window, differentiable, backend):
        # -inf keeps every similarity that is a number.
        threshold = float("-inf") if threshold is None else threshold
        return implementation(backend).forward(x, threshold, window, differentiable)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, _, ctx.backend = inputs
        weight, live, inv_norm = output
        ctx.save_for_backward(x, weight, inv_norm)
        ctx.mark_non_differentiable(live, inv_norm)

    @staticmethod
    def backward(ctx, dweight: Tensor, *_):
        x, weight, inv_norm = ctx.saved_tensors
        with torch.no_grad():
            dx = implementation(ctx.backend).backward(dweight, x, weight, inv_norm)
        return *differentiable_once("spatio_temporal_graph", (dx,), dweight, x), None, None, None, None
