"""The autograd function of dense attention. Its kernels run on CPUs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.autograd import KernelFunction


def unpacked(packed: Sequence[Tensor]) -> list[Tensor]:
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
        if torch.is_grad_enabled():  # for a second derivative
            return None, None, *plain_gradients(dout, packed, bias, ctx.scale)
        gradients = torch.ops.stgt_kernels.dense_attention_bwd(
            dout, *unpacked(packed), bias, out, stats, ctx.scale, len(packed)
        )
        return None, None, *gradients[: len(packed)]


def plain_gradients(dout: Tensor, packed: Sequence[Tensor], bias: Tensor | None, scale: float) -> list[Tensor]:
    """The gradients of the packed tensors in plain PyTorch, which can be differentiated again. dout: (B, H, M, D)."""
    q, k, v = unpacked(packed)
    z = q @ k.transpose(-2, -1) * scale
    z = z if bias is None else z + bias
    left_out = (z == float("-inf")).all(-1, keepdim=True)  # a row without pairs, whose softmax is NaN
    p = z.masked_fill(left_out, 0.0).softmax(-1).masked_fill(left_out, 0.0)
    dp = dout @ v.transpose(-2, -1)
    dz = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
    parts = [part.transpose(1, 2) for part in (dz @ k, dz.transpose(-2, -1) @ q, p.transpose(-2, -1) @ dout)]
    return [torch.stack([parts.pop(0) for _ in range(tensor.shape[2])], 2) for tensor in packed]
