"""One autograd function for all kernels of graph-masked attention."""

import torch
from torch import Tensor


def implementation(backend: str):
    """The module of kernels, imported when first used; torch.compile can follow an import statement, not a call."""
    if backend == "triton":
        from stgt_kernels.ops.graph_attention import triton_impl as kernels
    else:
        from stgt_kernels.ops.graph_attention import native_impl as kernels
    return kernels


class GraphAttentionFunction(torch.autograd.Function):
    """(q, k, v, weight) -> (out, lse); the backward pass recomputes the probabilities from lse."""

    @staticmethod
    def forward(ctx, q, k, v, weight, live, seed, scale, dropout_p, backend):
        kernels = implementation(backend)
        out, lse = kernels.forward(q, k, v, weight, live, seed, scale, dropout_p)
        ctx.save_for_backward(q, k, v, weight, live, seed, out, lse)
        ctx.kernels, ctx.scale, ctx.dropout_p = kernels, scale, dropout_p
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout: Tensor | None, dlse: Tensor | None):
        q, k, v, weight, live, seed, out, lse = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(out)
        dq, dk, dv, dweight = ctx.kernels.backward(
            dout, q, k, v, weight, live, seed, out, lse, dlse, ctx.scale, ctx.dropout_p, ctx.needs_input_grad[3]
        )
        return dq, dk, dv, dweight, None, None, None, None, None
