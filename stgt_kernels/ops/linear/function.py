"""The autograd function of linear layers. Its kernels run on CPUs."""

import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels.ops.autograd import KernelFunction


class LinearFunction(KernelFunction):
    """(x (…, K), weight (N, K), bias (N) or None) -> (…, N).

    As in PyTorch, x is only kept if weight needs a gradient, and weight only if x needs one.
    """

    @staticmethod
    def forward(x, weight, bias):
        out = torch.ops.stgt_kernels.linear_fwd(x.reshape(-1, x.shape[-1]), weight, bias)
        # A view of it could not be changed in place.
        return torch.ops.aten._unsafe_view(out, (*x.shape[:-1], len(weight)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        need_dx, need_dweight, _ = ctx.needs_input_grad
        ctx.shape = x.shape
        ctx.save_for_backward(x if need_dweight else None, weight if need_dx else None)

    @staticmethod
    def backward(ctx, dout: Tensor):
        x, weight = ctx.saved_tensors
        need_dx, need_dweight, need_dbias = ctx.needs_input_grad
        dout = dout.reshape(-1, dout.shape[-1])
        rows = x.reshape(-1, x.shape[-1]) if need_dweight else None
        if torch.is_grad_enabled():  # for a second derivative
            dx = dout @ weight if need_dx else None
            dweight = dout.t() @ rows if need_dweight else None
            dbias = dout.sum(0) if need_dbias else None
        elif need_dx or need_dweight:
            dx, dweight, dbias = torch.ops.stgt_kernels.linear_bwd(dout, rows, weight)
            if need_dbias and not need_dweight:
                dbias = dout.sum(0)
        else:
            dx, dweight, dbias = None, None, dout.sum(0)
        return (
            dx.reshape(ctx.shape) if need_dx else None,
            dweight if need_dweight else None,
            dbias if need_dbias else None,
        )
