"""The motion of what a patch shows, measured along the edges of the graph.

The edges of a patch lead to the patches that look like it. Where these are the patches of one object, the places of the
edges in each frame follow the object.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.plain import project

PRIOR = 0.01
"""The weight, relative to that of all edges, of the assumption that nothing moves. It keeps a patch that has hardly any
edges to other frames from having a large velocity"""

GAIN = 30
"""The factor by which new weights of `EdgeMotion` are larger than those of another linear layer. An object moves by
some tenths of a patch per frame. With small weights, the other channels hide this, and training does not find it"""


def edge_motion(graph: SpatioTemporalGraph) -> Tensor:
    """The velocity and the growth of the neighbours of each patch. It has gradients where the edge weights have some.

    For patch i, edge j leads to the place x_j, o_j frames later, with the weight w_j, or 0 if w_j is negative. The
    velocity is the slope of the line through all x_j over o_j that weighted least squares gives, made smaller by PRIOR.
    The growth is the slope of the line through the frames' sums of weights, divided by the mean of these sums.

    graph: of B clips of T frames with P patches, in a square grid. Returns float32 (B, T, P, 3): the velocity to the
    right and down, in patches per frame, and the growth per frame, as a fraction. All three are 0 for images.
    """
    window, places = graph.window, _places(graph)
    with torch.autocast(graph.device.type, enabled=False):
        parts = [graph.weight[:, :, :, o].float().clamp_min(0) @ places for o in range(2 * window + 1)]
    mass, moment = torch.stack(parts, -2).split([1, 2], -1)  # of each frame of the window: (B, T, P, 2w+1, 1 and 2)
    frame = torch.arange(-window, window + 1.0, device=graph.device)[:, None]
    place = torch.arange(graph.frames, device=graph.device)[:, None, None, None] + frame
    inside = ((place >= 0) & (place < graph.frames)).float()  # (T, 1, 2w+1, 1)

    total = mass.sum(-2, keepdim=True)
    known = total.clamp_min(torch.finfo(torch.float32).tiny)
    late = frame - (mass * frame).sum(-2, keepdim=True) / known
    spread = (mass * late**2).sum(-2) / known[..., 0, :]
    velocity = (late * moment).sum(-2) / known[..., 0, :] / (spread + PRIOR)

    count = inside.sum(-2, keepdim=True)
    middle = inside * (frame - (inside * frame).sum(-2, keepdim=True) / count)
    growth = (middle * mass).sum(-2) * count[..., 0, :] / known[..., 0, :] / (middle**2).sum(-2).clamp_min(0.5)
    return torch.cat([velocity, growth], -1)


def _places(graph: SpatioTemporalGraph) -> Tensor:
    """float32 (P, 3): 1, and the column and the row of each patch, counted from the middle of the grid."""
    side = round(graph.patches**0.5)
    line = torch.arange(side, dtype=torch.float32, device=graph.device) - (side - 1) / 2
    row, column = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.ones_like(row), column, row], -1).flatten(0, 1)


class EdgeMotion(nn.Module):
    """Maps the motion along the edges of each patch to its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(3, width)
        with torch.no_grad():
            self.proj.weight *= GAIN

    def forward(self, graph: SpatioTemporalGraph) -> Tensor:
        """graph: of B clips of T frames with P patches, in a square grid. Returns (B, T, P, C)."""
        return project(self.proj, edge_motion(graph))
