"""Fused kernels for spatio-temporal graph attention: similarity, frame mask with threshold, graph-masked softmax."""

from stgt_kernels import dispatch
from stgt_kernels.dispatch import ReferenceWarning
from stgt_kernels.functional import (
    edge_attention,
    graph_attention,
    linear,
    packed_attention,
    spatio_temporal_graph,
    token_similarity,
)
from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.modules import GraphAttention
from stgt_kernels.ragged_graph import RaggedGraph

__version__ = "0.1.0"
__all__ = [
    "GraphAttention",
    "RaggedGraph",
    "ReferenceWarning",
    "SpatioTemporalGraph",
    "dispatch",
    "edge_attention",
    "graph_attention",
    "linear",
    "packed_attention",
    "spatio_temporal_graph",
    "token_similarity",
]
