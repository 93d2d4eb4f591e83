"""Position embeddings of tokens: spatial and temporal (paper Eq. 1-3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.weights.resize import nearest


def sincos_2d(grid: int, width: int) -> Tensor:
    """2-D sine/cosine table: half of the channels for x, half for y, each [sin | cos] of position · 10000^(-4k/width).

    Returns float32 (1 + grid², width): a zero row for [CLS], and then the patches in raster order.
    """
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], 1)  # (grid, width/2)
    x = line[None, :, :].expand(grid, grid, -1)
    y = line[:, None, :].expand(grid, grid, -1)
    return F.pad(torch.cat([x, y], -1).flatten(0, 1), (0, 0, 1, 0)).float()


class Position(nn.Module):
    """Adds a fixed spatial embedding to each token and a learned temporal embedding to each frame.

    width: C, a multiple of 4 for "sincos"; grid: patches along one side of a frame; frames: T, for which there are
    learned embeddings.
    pos2d: "sincos" for a sine/cosine table; "random" for a frozen draw of standard deviation 0.02 as in the released
    model; "load" for zeros until a checkpoint is loaded. Our checkpoints always contain the spatial embedding.
    """

    def __init__(self, width: int, grid: int, frames: int, pos2d: Literal["sincos", "random", "load"]) -> None:
        super().__init__()
        if pos2d == "sincos":
            spatial = sincos_2d(grid, width)
        else:
            spatial = torch.zeros(1 + grid**2, width)
            if pos2d == "random":
                nn.init.trunc_normal_(spatial, std=0.02)
        self.register_buffer("spatial", spatial)
        self.temporal = nn.Parameter(nn.init.trunc_normal_(torch.empty(frames, width), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, 1+P, C). Returns the same shape. If T is not the model's, temporal embeddings are resized."""
        return x + (self.spatial + nearest(self.temporal, x.shape[1])[:, None])
