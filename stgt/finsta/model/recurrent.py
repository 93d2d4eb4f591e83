"""The recurrent graph transformer (R-GTrm) of graphs that have frames: DSG and HSG."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stgt.finsta.batching.space import Space
from stgt.finsta.config import FinstaConfig
from stgt.finsta.model.memory import Memory
from stgt.finsta.model.motion import MotionLayer
from stgt.finsta.model.transformer import EdgeStates, graph_layers
from stgt_kernels import RaggedGraph


class Frames(NamedTuple):
    """A graph of N nodes in the frames of all clips."""

    graph: RaggedGraph
    slot: Tensor
    """(N,) int64, the place of each node in a table of `shape`"""
    shape: tuple[int, int, int]
    """Clips, frames, and the most nodes of a frame"""
    sighting: Tensor
    """(S,) int64, the nodes that are sightings of objects"""
    space: Space


class RecurrentTransformer(nn.Module):
    """Blocks of a graph layer over all frames of all clips, a motion layer over the objects, and a memory."""

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        self.edges, self.stream = EdgeStates(config), config.edge_stream
        self.layers = graph_layers(config)
        self.motions = nn.ModuleList(MotionLayer(config) for _ in range(config.layers) if config.stgd)
        self.memories = nn.ModuleList(Memory(config) for _ in range(config.layers))

    def forward(self, x: Tensor, frames: Frames, bias: Tensor | None = None) -> Tensor:
        """x: (N, d); bias: (E, H), added to the scores of the graph layers. Returns (N, d)."""
        edges = self.edges(frames.graph)
        for number, (layer, memory) in enumerate(zip(self.layers, self.memories, strict=True)):
            x, edges = layer(x, edges, frames.graph, bias, self.stream)
            if self.motions:
                seen = self.motions[number](x.index_select(0, frames.sighting), self.edges.types.weight, frames.space)
                x = x.index_copy(0, frames.sighting, seen.to(x.dtype))
            x = memory(x, frames.slot, frames.shape)
        return x
