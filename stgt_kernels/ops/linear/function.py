"""The autograd function of linear layers. Its kernels run on CPUs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.autograd import KernelFunction


class LinearFunction(KernelFunction):
    """(x (…, K), weight (N, K), bias (N) or None) -> (…, N)."""

    @staticmethod
    def forward(x, weight, bias):
        out = torch.ops.stgt_kernels.linear_fwd(x.reshape(-1, x.shape[-1]), weight, bias)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, dout: Tensor):
        x, weight = ctx.saved_tensors
        need_dx, need_dweight, need_dbias = ctx.needs_input_grad
        rows, dout = x.reshape(-1, x.shape[-1]), dout.reshape(-1, dout.shape[-1])
        if torch.is_grad_enabled():  # for a second derivative
            dx, dweight, dbias = dout @ weight, dout.t() @ rows, dout.sum(0)
        else:
            dx, dweight, dbias = torch.ops.stgt_kernels.linear_bwd(
                dout, rows, weight, need_dx, need_dweight or need_dbias
            )
        return (
            dx.view_as(x) if need_dx else None,
            dweight if need_dweight else None,
            dbias if need_dbias else None,
        )
