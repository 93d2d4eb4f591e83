"""Edges at the threshold, which float32 may round to either side of it, decided as float64 decides them.

The edges of every recording are those of float64. One of them lies 7e-7 below the threshold, and other processors, or
PyTorch's other instruction sets, find it above.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.graph import live_tiles
from stgt_kernels.testing import THRESHOLD_BAND

Graph = SpatioTemporalGraph | Tensor
MOST = 4  # An edge between two tokens is two entries of a graph.


def settled(build_graph: Callable[..., Graph], exact: SpatioTemporalGraph, threshold: float) -> Callable[..., Graph]:
    """``build_graph`` with exact's edges, for graphs banded or dense; away from the threshold they must agree."""

    def build(*args) -> Graph:
        graph = build_graph(*args)
        weight = graph if isinstance(graph, Tensor) else graph.weight
        expected = (exact.to_dense() if isinstance(graph, Tensor) else exact.weight).to(weight)
        flipped = (weight != 0) != (expected != 0)
        distance = ((weight + expected)[flipped] - threshold).abs()
        assert len(distance) <= MOST and bool((distance < THRESHOLD_BAND[torch.float32]).all())
        weight = torch.where(flipped, expected, weight)
        return weight if isinstance(graph, Tensor) else SpatioTemporalGraph(weight, live_tiles(weight))

    return build
