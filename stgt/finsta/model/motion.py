"""The spatio-temporal Gaussian differential layer (STGD), by an equation of our own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgt.finsta.batching.bags import rows
from stgt.finsta.batching.space import Space
from stgt.finsta.config import FinstaConfig
from stgt.finsta.model.transformer import GraphLayer


class MotionLayer(nn.Module):
    """A layer of a graph transformer over the sightings of objects, whose attention knows how they lie and move.

    The bias of an edge is α_h log(g_ij + ε) + β_h |δ_ij| with the nearness g and its change δ of `Space`; α and β are
    learned for each head and begin at 0. Then h_i += W [m_i; Σ_j |δ_ij| (h_i - h_i'); h_i - h_i'] with the motion m_i
    and the state h_i' of the sighting before.
    """

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        self.layer = GraphLayer(config)
        self.near, self.change = (nn.Parameter(torch.zeros(config.heads)) for _ in range(2))
        self.motion = nn.Linear(1 + 2 * config.width, config.width)

    def forward(self, x: Tensor, types: Tensor, space: Space) -> Tensor:
        """x: (S, d) states of sightings; types: (types, d) states of the types of edges. Returns (S, d)."""
        bias = self.near * space.log_near + self.change * space.change
        x, _ = self.layer(x, types, space.graph, bias)
        step = x - rows(x, space.previous)
        moved = torch.cat([space.motion.to(x.dtype), space.stir.to(x.dtype) * step, step], dim=1)
        return x + self.motion(moved)
