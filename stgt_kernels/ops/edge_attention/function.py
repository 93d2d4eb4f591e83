"""One autograd function for all kernels of edge attention."""

import torch
from torch import Tensor

from stgt_kernels.ops.autograd import KernelFunction, differentiable_once


def implementation(backend: str):
    """The module of kernels, imported when it is first used. An import statement is what torch.compile can trace."""
    if backend == "triton":
        from stgt_kernels.ops.edge_attention import triton_impl as kernels
    else:
        from stgt_kernels.ops.edge_attention import native_impl as kernels
    return kernels


class EdgeAttentionFunction(KernelFunction):
    """(q, k, v, edge_scale, edge_bias, …) -> (out, scores, softmax).

    softmax (N, H, 2) holds each row's maximum and 1 / sum. With it the backward pass computes the probabilities from
    the scores. row_ptr to col_edge are those of the graph. scale_type and bias_type are the edge types for edge_scale
    and for edge_bias, each None where that has a row for each edge.
    """

    @staticmethod
    def forward(
        q, k, v, edge_scale, edge_bias,
        row_ptr, source, row_edge, col_ptr, target, col_edge, scale_type, bias_type,
        seed, clamp, scale, dropout_p, backend,
    ):  # fmt: skip
        return implementation(backend).forward(
            q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type,
            seed, clamp, scale, dropout_p,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.clamp, ctx.scale, ctx.dropout_p, ctx.backend = inputs
        _, scores, softmax = output
        ctx.mark_non_differentiable(softmax)
        ctx.save_for_backward(*tensors, scores, softmax)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dout: Tensor | None, dscores: Tensor | None, _):
        tensors = ctx.saved_tensors
        q, k, v, edge_scale, edge_bias = tensors[:5]
        with torch.no_grad():
            gradients = implementation(ctx.backend).backward(
                torch.zeros_like(q) if dout is None else dout,
                *(dscores, *tensors, ctx.clamp, ctx.scale, ctx.dropout_p),
                *ctx.needs_input_grad[3:5],
            )
        gradients = differentiable_once("edge_attention", gradients, dout, dscores, q, k, v, edge_scale, edge_bias)
        return *gradients, *(None,) * 13
