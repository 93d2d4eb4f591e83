"""Scores windows exactly, and chooses the best ones that do not overlap.

A window has Q vectors, and a query has one or more. The score of a window is the largest cosine between its vectors and
the vector of the query (Eq. 16 of arXiv 2407.11677). For a query of several vectors, such as a clip, it is the mean of
these largest cosines over the vectors of the query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def scores(vectors: Tensor, query: Tensor) -> Tensor:
    """The scores of all windows. vectors: float16 (N, Q, E), query: float32 (K, E). Returns float32 (N,).

    The vectors stay in half precision, because reading them from memory takes most of the time. The products are summed
    in float32, and the result is rounded to float16.
    """
    windows, queries, width = vectors.shape
    flat = vectors.reshape(windows * queries, width)
    total = torch.zeros(windows)
    for vector in query.to(vectors.dtype):
        total += (flat @ vector).view(windows, queries).amax(1).float()
    return total / len(query)


def exact_scores(vectors: Tensor, query: Tensor) -> Tensor:
    """The scores of a few windows, computed in float64 and rounded to float32.

    vectors: (n, Q, E), a row for each window; query: float32 (k, E). Returns float32 (n,): the mean over the query's
    vectors of the largest cosine with a vector of the window. Equal windows have equal scores: sums in float32 would
    depend on the place of a window among the others.
    """
    return torch.einsum("nqe,ke->nkq", vectors.double(), query.double()).amax(2).mean(1).float()


def best_rows(found: Tensor, count: int) -> Tensor:
    """The `count` rows with the highest scores, of equal ones the first: int64 (count,), in ascending order.

    found: float32 (N,), the scores of all rows; count: at most N. `Tensor.topk` chooses any of equal ones.
    """
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    least = found.topk(count).values[-1]
    better = (found > least).nonzero()[:, 0]
    equal = (found == least).nonzero()[:, 0]
    return torch.cat([better, equal[: count - len(better)]]).sort().values


def best_apart(order: Sequence[int], top: int, place: Callable[[int], tuple[object, float, float]]) -> list[int]:
    """The first `top` windows of an order that overlap no earlier one of them.

    place: gives a window's file, its start and its end. Windows that only touch do not overlap.
    """
    chosen: list[int] = []
    taken: dict[object, list[tuple[float, float]]] = {}
    for row in order:
        film, start, end = place(row)
        others = taken.setdefault(film, [])
        if any(start < other_end and other_start < end for other_start, other_end in others):
            continue
        if start == end and (start, end) in others:
            continue
        others.append((start, end))
        chosen.append(row)
        if len(chosen) == top:
            break
    return chosen
