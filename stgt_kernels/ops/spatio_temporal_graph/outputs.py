"""The tensors that the kernels which build the graph write."""

import torch
from torch import Tensor

from stgt_kernels.graph import TILE, storage_dtype
from stgt_kernels.rounding import accumulator_dtype


def outputs(x: Tensor, window: int, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty tensors for weight (B, T, P, O, P), live (B, T, n, O, n) and 1/|x| (B, T, P)."""
    B, T, P, _ = x.shape
    O, n = 2 * window + 1, -(-P // TILE)
    weight = x.new_empty(B, T, P, O, P, dtype=storage_dtype(x.dtype, differentiable))
    live = x.new_empty(B, T, n, O, n, dtype=torch.bool)
    return weight, live, x.new_empty(B, T, P, dtype=accumulator_dtype(x.dtype))
