"""Dense attention of packed tensors. The docstring of `packed_attention` is the contract."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels import dispatch
from stgt_kernels.ops.tensors import check_dense, check_dtype, eager_on_cpu

MOST_KEYS = 4096
"""PyTorch's attention reads longer sequences in blocks, while these kernels keep the scores of whole rows in a cache"""


def packed_attention(*packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of all pairs: ``softmax(q k^T / sqrt(D) + bias) v``. It equals PyTorch's
    ``scaled_dot_product_attention``, and is faster on CPUs.

    Queries, keys and values lie in one tensor, as a projection to all three makes them, or in two or three. The kernels
    read them in place and write their gradients in the same layout, so nothing is copied or concatenated. They compute
    float32 and float64 on the CPU, with up to 4096 keys. In all other cases PyTorch's function is called: on GPUs, in
    half precision, under autocast, torch.compile, torch.jit.trace, torch.func and dispatch modes, and for a bias that
    is boolean or needs a gradient.

    Args:
        packed: ``qkv`` (B, N, 3, H, D); or ``q`` (B, M, 1, H, D) and ``kv`` (B, N, 2, H, D); or three tensors with one
            part each. Floating point, any strides.
        bias: (B or 1, H or 1, M, N) in the dtype of the others, which is added to the scaled scores. -infinity leaves
            a pair out; a row without pairs has output 0 and gradients 0 in the kernels. Or boolean, as PyTorch's
            ``attn_mask``.

    Returns:
        (B, M, H, D) in the dtype of the arguments. The kernels' result can be differentiated any number of times, and
        ``flatten(2)`` merges its heads without a copy.

    Raises:
        ValueError: an argument is no dense tensor, the tensors do not have three parts, or their shapes, dtypes or
            devices, or those of the bias, do not fit.
    """
    _check(packed, bias)
    if _on_kernels(packed, bias):
        from stgt_kernels.ops.dense_attention.function import DenseAttentionFunction

        packed = tuple(t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous() for t in packed)
        if bias is not None:
            B, M, _, H, _ = packed[0].shape
            bias = bias if bias.stride(-1) == 1 or bias.shape[-1] == 1 else bias.contiguous()
            bias = bias.expand(B, H, M, packed[-1].shape[1])
        return DenseAttentionFunction.apply(bias, packed[0].shape[-1] ** -0.5, *packed)[0].transpose(1, 2)
    q, k, v = (part.transpose(1, 2) for tensor in packed for part in tensor.unbind(2))
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def _on_kernels(packed: tuple[Tensor, ...], bias: Tensor | None) -> bool:
    tensors = packed if bias is None else (*packed, bias)
    if not eager_on_cpu(*tensors, dtypes=(torch.float32, torch.float64)):
        return False
    if bias is not None and bias.requires_grad:
        return False
    return packed[-1].shape[1] <= MOST_KEYS and all(t.numel() > 0 for t in packed)


def _check(packed: tuple[Tensor, ...], bias: Tensor | None) -> None:
    given = packed if bias is None else (*packed, bias)
    if wrong := [type(t).__name__ for t in given if not isinstance(t, Tensor)]:
        raise ValueError(f"packed_attention: packed must be tensors, and bias a tensor or None, got {wrong[0]}")
    for number, tensor in enumerate(packed):
        check_dense("packed_attention", f"packed[{number}]", tensor)
    shapes = [tuple(t.shape) for t in packed]
    parts = [shape[2] if len(shape) == 5 else 0 for shape in shapes]
    if parts not in ([3], [1, 2], [1, 1, 1]):
        raise ValueError(
            "packed_attention: packed must be qkv (B, N, 3, H, D), or q (B, M, 1, H, D) and kv (B, N, 2, H, D), or "
            f"q, k and v with one part each, got {', '.join(map(str, shapes)) or 'nothing'}"
        )
    check_dtype("packed_attention", "packed", packed[0])
    B, M, _, H, D = shapes[0]
    N = shapes[-1][1]
    for tensor, shape in zip(packed[1:], shapes[1:], strict=True):
        if (shape[0], shape[1], *shape[3:]) != (B, N, H, D):
            raise ValueError(
                f"packed_attention: q is {shapes[0]}, so k and v must have B={B}, H={H}, D={D} and one N, got {shape}"
            )
        if tensor.dtype != packed[0].dtype or tensor.device != packed[0].device:
            raise ValueError(
                f"packed_attention: k and v must have q's dtype and device, {packed[0].dtype} on {packed[0].device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    if bias is None:
        return
    check_dense("packed_attention", "bias", bias)
    if bias.device != packed[0].device:
        raise ValueError(f"packed_attention: bias must be on q's device {packed[0].device}, got {bias.device}")
    converted = bias.is_floating_point() and dispatch.autocast_dtype(bias.device) is not None
    if bias.dtype not in (torch.bool, torch.float32, packed[0].dtype) and not converted:
        raise ValueError(f"packed_attention: bias must be bool or have q's dtype {packed[0].dtype}, got {bias.dtype}")
    if tuple(bias.shape[2:]) != (M, N) or bias.shape[0] not in (1, B) or bias.shape[1] not in (1, H):
        raise ValueError(f"packed_attention: bias must be ({B} or 1, {H} or 1, {M}, {N}), got {tuple(bias.shape)}")
