"""The settings of the Finsta model, as a dataclass that refuses values which make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stgt.fields import DEEPEST, LONGEST, WIDEST, require, require_counts, require_range, require_types

WIDEST_HEAD = 128
"""Channels that a head of `stgt_kernels.edge_attention` may have"""


@dataclass(frozen=True)
class FinstaConfig:
    """The sizes of the graph transformers, the constants of the equations, and a switch for each part."""

    width: int = 128
    """Channels of the states of nodes"""
    heads: int = 4
    """Number of attention heads; it divides the width"""
    layers: int = 2
    """Layers of each of the three graph transformers: of texts, of videos, and of both together"""
    dropout: float = 0.1
    """Dropout rate"""
    clamp: float | None = 5.0
    """The largest size of an attention score before the softmax; None for no limit"""
    edge_stream: bool = False
    """Whether each edge has a state of its own, which every layer changes. Otherwise an edge has only its type"""
    cells: int = 4
    """Memory cells of the recurrent graph transformer"""
    hops: int = 2
    """Edges that a node of a region may be away from the region's object"""
    pairs: int = 64
    """The most pairs of tracks of a clip that predicates are compared with. Pairs that are seen longest come first"""
    tau: float = 0.07
    """Temperature that similarities are divided by in the losses"""
    rho: float = 0.8
    """Cosine above which an object of the text and a track are taken for the same thing"""
    sigma_s: float = 0.25
    """Distance at which two objects are near each other, as a part of the frame's width or height"""
    sigma_t: float = 0.05
    """Change of a box between two sightings that counts as a motion"""
    labels: bool = True
    """Whether the nodes of videos know the words of their labels. Otherwise they only know the host's states, their
    boxes and their kinds, so what the words are about has to be seen"""
    osc: bool = True
    """Object-centred spatial contrast"""
    ptc: bool = True
    """Predicate-centred temporal contrast"""
    stgd: bool = True
    """The layers whose attention depends on distances between objects and on how they change"""
    temporal_coref: bool = True
    """Edges between the sightings of a track in different frames"""
    adverbs: bool = True
    """Nodes for the adverbs of a text"""
    crossmodal_coref: bool = True
    """Edges between the objects of a text and the tracks that they are about"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, width=WIDEST, heads=WIDEST, layers=DEEPEST, cells=LONGEST, hops=DEEPEST, pairs=LONGEST)
        require(self, "width", self.width % self.heads == 0, f"a multiple of heads={self.heads}")
        widest = WIDEST_HEAD * self.heads
        require(self, "width", self.width <= widest, f"at most {WIDEST_HEAD} · heads = {widest}")
        require(self, "dropout", 0.0 <= self.dropout < 1.0, "a number in [0, 1)")
        require(self, "clamp", self.clamp is None or 0.0 < self.clamp < math.inf, "a positive number or None")
        require_range(self, -1.0, 1.0, "rho")
        for name in ("tau", "sigma_s", "sigma_t"):
            require(self, name, 0.0 < getattr(self, name) < math.inf, "a positive number")


def shapes() -> FinstaConfig:
    """The sizes for simulated clips."""
    return FinstaConfig()


def base() -> FinstaConfig:
    """The sizes for hosts with 768 channels, such as CLIP, X-CLIP and BLIP-2."""
    return FinstaConfig(width=768, heads=8, layers=3, cells=8)
