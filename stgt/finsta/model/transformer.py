"""The graph transformer (GTrm): attention along edges that have types, and a feed-forward network."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from stgt.finsta.batching.bags import rows
from stgt.finsta.batching.edges import TYPES
from stgt.finsta.config import FinstaConfig
from stgt.models.dropout import Dropout
from stgt_kernels import RaggedGraph, edge_attention


class FeedForward(nn.Module):
    """d → 2d → d with ReLU, added to its input and normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, d). Returns (N, d)."""
        return self.norm(x + self.dropout(self.narrow(F.relu(self.wide(x)))))


class GraphLayer(nn.Module):
    """One layer of a graph transformer, by the equation of docs/finsta_model.md.

    Each head has the score clip((q_i · k_j / √D) w_ij, ±clamp), with w_ij = Σ_d (E e_ij)_d of the edge's state e_ij.
    """

    def __init__(self, config: FinstaConfig, changes_edges: bool = False) -> None:
        super().__init__()
        d, self.heads, self.clamp, self.rate = config.width, config.heads, config.clamp, config.dropout
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.edge = nn.Linear(d, d, bias=False)
        self.norm, self.dropout = nn.LayerNorm(d), Dropout(config.dropout)
        self.feed_forward = FeedForward(d, config.dropout)
        self.changes_edges = changes_edges
        if changes_edges:
            self.edge_out, self.edge_norm = nn.Linear(d, d), nn.LayerNorm(d)
            self.edge_feed_forward = FeedForward(d, config.dropout)

    def forward(
        self, x: Tensor, edges: Tensor, graph: RaggedGraph, bias: Tensor | None = None, stream: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The new states of nodes and edges.

        x: (N, d). edges: (types, d), or with `stream` (E, d) in the order of the graph's edges. bias: (E, H), added to
        the scores. The edges come back as they were unless the layer changes them, which needs `stream`.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        mapped = self.edge(edges).unflatten(-1, (self.heads, -1))
        scale, plain = mapped.sum(-1), graph
        if bias is not None or stream:  # a table with a row for each edge must not be taken for one of the types
            plain = dataclasses.replace(graph, edge_type=None, types=0)
            if not stream and graph.edge_type is not None:
                scale = rows(scale, graph.edge_type.long())
        rate = self.rate if self.training else 0.0
        found, scores = edge_attention(
            q,
            k,
            v,
            plain,
            edge_scale=scale,
            edge_bias=bias,
            clamp=self.clamp,
            dropout_p=rate,
            return_scores=True,
        )
        x = self.norm(x + self.dropout(self.out(found.flatten(1))))
        if self.changes_edges:
            change = (scores[..., None] * mapped).flatten(1).to(mapped.dtype)
            edges = self.edge_feed_forward(self.edge_norm(edges + self.dropout(self.edge_out(change))))
        return self.feed_forward(x), edges


class EdgeStates(nn.Module):
    """The first states of edges: an embedding of their types."""

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        self.types, self.stream = nn.Embedding(len(TYPES), config.width), config.edge_stream

    def forward(self, graph: RaggedGraph) -> Tensor:
        """(types, d), or (E, d) if each edge has a state of its own."""
        if not self.stream:
            return self.types.weight
        assert graph.edge_type is not None
        return self.types(graph.edge_type.long())


def graph_layers(config: FinstaConfig) -> nn.ModuleList:
    """The layers of a graph transformer. With an edge stream, all but the last change the states of edges."""
    last = config.layers - 1
    return nn.ModuleList(GraphLayer(config, config.edge_stream and k < last) for k in range(config.layers))


class GraphTransformer(nn.Module):
    """Layers of a graph transformer, for textual scene graphs."""

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        self.edges, self.stream = EdgeStates(config), config.edge_stream
        self.layers = graph_layers(config)

    def forward(self, x: Tensor, graph: RaggedGraph) -> Tensor:
        """x: (N, d). Returns (N, d)."""
        edges = self.edges(graph)
        for layer in self.layers:
            x, edges = layer(x, edges, graph, stream=self.stream)
        return x
