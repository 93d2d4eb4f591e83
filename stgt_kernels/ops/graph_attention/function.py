"""One autograd function for all kernels of graph-masked attention."""

import torch
from torch import Tensor

from stgt_kernels.ops.autograd import KernelFunction, differentiable_once


def implementation(backend: str):
    """The module of kernels, imported when it is first used. An import statement is what torch.compile can trace."""
    if backend == "triton":
        from stgt_kernels.ops.graph_attention import triton_impl as kernels
    else:
        from stgt_kernels.ops.graph_attention import native_impl as kernels
    return kernels


class GraphAttentionFunction(KernelFunction):
    """(q, k, v, weight, …) -> (out, lse); the backward pass recomputes the probabilities from lse."""

    @staticmethod
    def forward(q, k, v, weight, live, seed, scale, dropout_p, backend):
        return implementation(backend).forward(q, k, v, weight, live, seed, scale, dropout_p)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.scale, ctx.dropout_p, ctx.backend = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dout: Tensor | None, dlse: Tensor | None):
        q, k, v, weight, live, seed, out, lse = ctx.saved_tensors
        with torch.no_grad():
            gradients = implementation(ctx.backend).backward(
                torch.zeros_like(out) if dout is None else dout,
                *(q, k, v, weight, live, seed, out, lse, dlse),
                *(ctx.scale, ctx.dropout_p, ctx.needs_input_grad[3]),
            )
        gradients = differentiable_once("graph_attention", gradients, dout, dlse, q, k, v, weight)
        return *gradients, None, None, None, None, None
