"""Fused kernels for spatio-temporal graph attention: similarity, frame mask with threshold, graph-masked softmax."""

from stgt_kernels import dispatch
from stgt_kernels.dispatch import ReferenceWarning
from stgt_kernels.functional import graph_attention, spatio_temporal_graph, token_similarity
from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.modules import GraphAttention

__version__ = "0.1.0"
__all__ = [
    "GraphAttention",
    "ReferenceWarning",
    "SpatioTemporalGraph",
    "dispatch",
    "graph_attention",
    "spatio_temporal_graph",
    "token_similarity",
]
