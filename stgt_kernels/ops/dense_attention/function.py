"""The autograd function of dense attention. Its kernels run on CPUs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.autograd import KernelFunction, differentiable_once


def unpacked(packed: tuple[Tensor, ...]) -> list[Tensor]:
    """q (B, H, M, D), k and v (B, H, N, D): the parts of packed tensors (B, L, parts, H, D), as views."""
    return [part.transpose(1, 2) for tensor in packed for part in tensor.unbind(2)]


class DenseAttentionFunction(KernelFunction):
    """(bias, scale, *packed) -> (out, stats). The gradients have the layout of the packed tensors."""

    @staticmethod
    def forward(bias, scale, *packed):
        return torch.ops.stgt_kernels.dense_attention_fwd(*unpacked(packed), bias, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        bias, ctx.scale, *packed = inputs
        ctx.save_for_backward(bias, *output, *packed)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dout: Tensor | None, _):
        bias, out, stats, *packed = ctx.saved_tensors
        if dout is None:
            return None, None, *(None for _ in packed)
        with torch.no_grad():
            gradients = tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in packed)
            torch.ops.stgt_kernels.dense_attention_bwd(
                dout, *unpacked(tuple(packed)), bias, out, stats, ctx.scale, *unpacked(gradients)
            )
        return None, None, *differentiable_once("packed_attention", gradients, dout, *packed)
