"""Linear layers with narrow weights. Its docstring is the contract."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels.ops.tensors import eager_on_cpu

MOST_WEIGHTS = 1 << 17
"""A thread's copy of so many weights fits the second-level cache. Larger layers are as fast in PyTorch."""
LEAST_WORK = 1 << 21
"""The multiply-adds from which on the kernels win more than the call costs"""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight^T + bias``, as ``torch.nn.functional.linear``, and faster on CPUs where the weight is narrow.

    The kernels compute float32 on the CPU, with up to 131072 weights, such as 256 by 512. They transpose the weight
    once, add the bias in the cache, and sum up its gradient while they compute that of the weight. In all other cases
    PyTorch's function is called: on GPUs, in other dtypes, for sparse and nested tensors, under autocast,
    torch.compile, torch.jit.trace and torch.func, and for small calls.

    Args:
        x: (…, K), any strides.
        weight: (N, K).
        bias: (N), or None.

    Returns:
        (…, N). It can be differentiated any number of times.

    Raises:
        RuntimeError: shapes or dtypes do not fit, as in PyTorch.
    """
    if not _on_kernels(x, weight, bias):
        return F.linear(x, weight, bias)
    from stgt_kernels.ops.linear.function import LinearFunction

    return LinearFunction.apply(x, weight, bias)


def _on_kernels(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if not eager_on_cpu(*tensors, dtypes=(torch.float32,)):
        return False
    if weight.ndim != 2 or weight.numel() > MOST_WEIGHTS or x.numel() * len(weight) < LEAST_WORK:
        return False
    # PyTorch's error says what does not fit.
    return x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
