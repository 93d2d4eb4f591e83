"""Sets of rows of a table, whose sums and means are computed for all sets at once, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bags:
    """n sets of rows, each row with a weight."""

    row: Tensor
    """(M,) int64, the rows of all sets, set after set"""
    weight: Tensor
    """(M,) float32"""
    start: Tensor
    """(n,) int64, the place in `row` where each set begins"""

    @classmethod
    def of(cls, row: np.ndarray, weight: np.ndarray | None, bag: np.ndarray, bags: int) -> Bags:
        """row: (M,) in any order; weight: (M,), or None for the mean of each set; bag: (M,) the set of each row."""
        order = np.argsort(bag, kind="stable")
        sizes = np.bincount(bag, minlength=bags)
        if weight is None:
            weight = 1.0 / sizes[bag]
        start = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if bags else np.zeros(0, np.int64)
        return cls(
            torch.from_numpy(row[order].astype(np.int64)),
            torch.from_numpy(weight[order].astype(np.float32)),
            torch.from_numpy(start.astype(np.int64)),
        )

    @classmethod
    def means(cls, sets: Sequence[Sequence[int]]) -> Bags:
        """The mean of each of these sets."""
        row = np.array([row for rows in sets for row in rows], np.int64)
        bag = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
        return cls.of(row, None, bag, len(sets))

    def sums(self, table: Tensor) -> Tensor:
        """The weighted sum of each set's rows of a table (N, d): (n, d). An empty set gives 0."""
        if not len(self.start) or not len(self.row):
            return table.new_zeros(len(self.start), table.shape[1])
        weight = self.weight.to(table.dtype)
        return F.embedding_bag(self.row, table, self.start, mode="sum", per_sample_weights=weight)


def rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table (N, d), which may be repeated; index: any shape. The gradient is summed in a fixed order."""
    if not index.numel():
        return table.new_zeros(*index.shape, table.shape[1])
    return F.embedding(index, table)
