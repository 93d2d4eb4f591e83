"""Graphs whose edges at the threshold are those of float64. Float32 may round such an edge to either side.

The edges of every recording are those of float64. One of them lies 7e-7 below the threshold, and other processors, or
PyTorch's other instruction sets, find it above.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers.released import CrossGraphTransformer
from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.integrations.released_stgt import accelerate
from stgt_kernels.rounding import similarity_error

Graph = SpatioTemporalGraph | Tensor
MOST = 4  # An edge between two tokens is two entries of a graph.


def settled(build_graph: Callable[..., Graph], exact: SpatioTemporalGraph, threshold: float) -> Callable[..., Graph]:
    """``build_graph`` with the edges of ``exact``, for banded and dense graphs.

    Edges that are not at the threshold must agree.
    """

    def build(*args) -> Graph:
        graph = build_graph(*args)
        weight = graph if isinstance(graph, Tensor) else graph.weight
        expected = (exact.to_dense() if isinstance(graph, Tensor) else exact.weight).to(weight)
        flipped = (weight != 0) != (expected != 0)
        distance = ((weight + expected)[flipped] - threshold).abs()
        assert len(distance) <= MOST and bool((distance < similarity_error(1, torch.float32)).all())
        weight = torch.where(flipped, expected, weight)
        return weight if isinstance(graph, Tensor) else SpatioTemporalGraph(weight)

    return build


def recorded_model(tensors: dict[str, Tensor], meta: dict[str, str]) -> CrossGraphTransformer:
    """The stand-in of the released model with a recording's weights."""
    sizes = (int(meta[name]) for name in ("width", "layers", "heads", "frames_model"))
    model = CrossGraphTransformer(*sizes, float(meta["threshold"])).eval()
    model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("param.")})
    return model


def exact_graphs(tensors: dict[str, Tensor], meta: dict[str, str]) -> list[SpatioTemporalGraph]:
    """The graphs of all blocks of a recorded model in float64."""
    model, graphs = recorded_model(tensors, meta).double(), []

    def keep(module, args, kwargs):
        graphs.append(kwargs["graph_mask"])

    for block in model.resblocks:
        block.graphattn.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad(), accelerate(model, backend="reference"):
        model(tensors["input"].double())
    return graphs
