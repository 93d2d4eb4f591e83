"""The layouts in memory of the tensors that kernels read and write."""

import math

from torch import Tensor


def last_contiguous(x: Tensor) -> Tensor:
    """x with a contiguous last dimension, which the Triton kernels need. They read any other strides."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def vector_strides(*tensors: Tensor) -> tuple[int, list[int]]:
    """VEC, and the strides of all dimensions of tensors but their last in units of VEC elements.

    VEC is the widest vector, of at most 16 bytes, that divides all of them, so that Triton's compiler knows how far it
    may vectorise. Strides of dimensions of size 1 do not count.
    """
    strides = [s if size > 1 else 0 for t in tensors for s, size in zip(t.stride()[:-1], t.shape[:-1], strict=True)]
    vec = math.gcd(16 // tensors[0].element_size(), *strides)
    return vec, [stride // vec for stride in strides]


def heads_last(like: Tensor) -> Tensor:
    """An empty tensor (B, H, N, D) whose memory is (B, N, H, D), so that merging the heads copies nothing."""
    return like.new_empty(like.transpose(1, 2).shape).transpose(1, 2)
