"""Rows of a tensor by number, with a gradient that has the same bits in every run."""

from __future__ import annotations

from torch import Tensor


def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """`x[index]` along the first dimension; the gradients of a row that was taken twice are added in a fixed order.

    x: (N, …), index: int64 (n,). Returns (n, …). On a CPU the backward pass of `x[index]` adds with atomics, so that
    its rounding depends on how the threads happen to run, while that of `index_select` goes through the rows one after
    the other. On a GPU it is the other way round: the backward pass of `x[index]` sorts, and that of `index_select`
    adds with atomics.
    """
    return x.index_select(0, index) if x.device.type == "cpu" else x[index]
