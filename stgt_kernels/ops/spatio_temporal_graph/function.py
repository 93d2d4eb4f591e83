"""One autograd function for all kernels that build the graph."""

import importlib

import torch
from torch import Tensor

IMPLEMENTATIONS = {"cpu": "native_impl", "cuda": "native_impl", "triton": "triton_impl"}


class SpatioTemporalGraphFunction(torch.autograd.Function):
    """x -> (weight, live); gradients reach x through the kept edges, from both of an edge's ends."""

    @staticmethod
    def forward(ctx, x, threshold, window, backend):
        kernels = importlib.import_module(f"{__package__}.{IMPLEMENTATIONS[backend]}")
        # -inf keeps every similarity that is a number.
        weight, live, inv_norm = kernels.forward(x, float("-inf") if threshold is None else threshold, window)
        ctx.save_for_backward(x, weight, inv_norm)
        ctx.kernels = kernels
        ctx.mark_non_differentiable(live)
        return weight, live

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dweight: Tensor, _):
        x, weight, inv_norm = ctx.saved_tensors
        return ctx.kernels.backward(dweight, x, weight, inv_norm), None, None, None
