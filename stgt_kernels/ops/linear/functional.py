"""Linear layers. The docstring of `linear` is the contract."""

import functools
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels.ops.tensors import eager_on_cpu

LEAST_WORK = 1 << 21
"""The multiply-adds from which on the kernels win more than the call costs"""


@functools.cache
def most_weights() -> int:
    """The largest weight for which the kernels are faster than PyTorch's own product on this machine's CPU.

    PyTorch's builds for x86 multiply with MKL, which knows Intel's CPUs better than AMD's. On Intel's, the kernels are
    meant for weights whose packing takes MKL as long as the product. On all other CPUs, such as ARM's, where only the
    portable kernels run, it is 0.
    """
    from stgt_kernels import _C

    return {"AuthenticAMD": sys.maxsize, "GenuineIntel": 1 << 17}.get(_C.build_info()["cpu_vendor"], 0)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias``, as ``torch.nn.functional.linear``, and faster on x86 CPUs.

    The kernels compute float32: on CPUs of AMD weights of any size, and on CPUs of Intel up to 131072 of them, such as
    256 by 512. They add the bias in the cache, and sum up its gradient while they compute that of the weight. In all
    other cases PyTorch's function is called: on GPUs, in other dtypes, for sparse and nested tensors, under autocast,
    torch.compile, torch.jit.trace, torch.func and dispatch modes, for small calls, and for one row.

    Args:
        x: (…, K), any strides.
        weight: (N, K).
        bias: (N), or None.

    Returns:
        (…, N). It can be differentiated any number of times.

    Raises:
        RuntimeError, TypeError: shapes, dtypes or devices do not fit, or an argument is no tensor, as in PyTorch, whose
            errors call x ``input``.
    """
    if not _on_kernels(x, weight, bias):
        return F.linear(x, weight, bias)
    from stgt_kernels.ops.linear.function import LinearFunction

    return LinearFunction.apply(x, weight, bias)


def _on_kernels(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not eager_on_cpu(*tensors, dtypes=(torch.float32,)):
        return False
    if x.ndim == 0 or weight.ndim != 2 or weight.numel() > most_weights() or x.numel() * len(weight) < LEAST_WORK:
        return False
    if x.numel() == x.shape[-1]:  # one row uses each weight once, so there is nothing to keep in a cache
        return False
    # PyTorch's error says what does not fit.
    return x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
