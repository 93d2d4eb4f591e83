"""Selects rows of a tensor, with gradients that have the same bits in every run."""

from __future__ import annotations

from torch import Tensor


def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """`x[index]` along the first dimension. If a row is selected twice, its gradients are added in a fixed order.

    x: (N, …), index: int64 (n,). Returns (n, …). On a CPU the backward pass of `x[index]` adds with atomics, so its
    rounding depends on the order of the threads, while that of `index_select` adds row after row. On a GPU the backward
    pass of `x[index]` sorts first, while that of `index_select` adds with atomics.
    """
    return x.index_select(0, index) if x.device.type == "cpu" else x[index]


def select_places(x: Tensor, places: Tensor) -> Tensor:
    """`x.flatten(0, 1)[places]`, without the copy. No place may be there twice. x: (B, L, …). Returns (W, …)."""
    return x[places // x.shape[1], places % x.shape[1]]
