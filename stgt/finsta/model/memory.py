"""The memory of the recurrent graph transformer (R-GTrm): cells that are updated from frame to frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.finsta.config import FinstaConfig
from stgt.models.dropout import Dropout

_NEVER = -1e4
"""The score of a node that is not there. Softmax of it is exactly 0 beside any other score, also in half precision"""


class Memory(nn.Module):
    """M cells per clip, and the attention of the nodes of each frame to the cells of the frame before.

    With the nodes X of frame t: H = gelu(W X); X' = norm(X + O Attention(H, [M; H])); S = Attention(M, H);
    C = tanh(W_mc M + W_sc S); Z = σ(W_mz M + W_sz S); M' = (1 - Z) ⊙ C + Z ⊙ M. A frame without nodes leaves the cells
    as they are. The first cells are the mean of the values of the first frame's nodes plus a learned offset for each
    cell, mapped and normalised. Both attentions have the same keys and values for a node.
    """

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        d, self.heads = config.width, config.heads
        self.offset = nn.Parameter(torch.randn(config.cells, d))
        self.first = nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d))
        self.node = nn.Linear(d, d)
        self.query, self.keys = nn.Linear(d, d), nn.Linear(d, 2 * d)
        self.old, self.new = nn.Linear(d, 3 * d), nn.Linear(d, 2 * d, bias=False)
        self.out, self.norm, self.dropout = nn.Linear(d, d), nn.LayerNorm(d), Dropout(config.dropout)

    def forward(self, x: Tensor, slot: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The new states of nodes, (N, d).

        x: (N, d); slot: (N,) int64, the place of each node in a table of the given shape: clips, frames, and the most
        nodes of a frame.
        """
        B, T, P = shape

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(B * T * P, values.shape[1]).index_copy(0, slot, values).view(B, T, P, -1)

        h = F.gelu(self.node(x))
        there = torch.zeros(B * T * P, dtype=torch.bool, device=x.device).index_fill(0, slot, True).view(B, T, P)
        keys = spread(self.keys(h))
        before = self.cells(keys, there)
        keys = torch.cat([self.keys(before), keys], dim=2).flatten(0, 1)
        seen = torch.cat([there.new_ones(B, T, before.shape[2]), there], dim=2).flatten(0, 1)
        found = self.attend(spread(self.query(h)).flatten(0, 1), keys, seen)
        return self.norm(x + self.dropout(self.out(found.flatten(0, 1).index_select(0, slot))))

    def cells(self, keys: Tensor, there: Tensor) -> Tensor:
        """The cells before each frame, (B, T, M, d). keys: (B, T, P, 2d), keys and values; there: (B, T, P) bool."""
        d, before = keys.shape[-1] // 2, []
        frames, known = keys.unbind(1), there.unbind(1)
        mean = frames[0][..., d:].sum(1) / known[0].sum(1, keepdim=True).clamp(min=1)
        memory = self.first(mean[:, None] + self.offset)
        for frame, own in zip(frames, known, strict=True):
            before.append(memory)
            query, old = self.old(memory).split([d, 2 * d], dim=-1)
            candidate, keep = (old + self.new(self.attend(query, frame, own))).chunk(2, dim=-1)
            changed = torch.lerp(torch.tanh(candidate), memory.to(candidate.dtype), torch.sigmoid(keep))
            memory = torch.where(own.any(1)[:, None, None], changed, memory)
        return torch.stack(before, dim=1)

    def attend(self, q: Tensor, keys: Tensor, there: Tensor) -> Tensor:
        """Attention of queries (n, m, d) to those of the keys and values (n, P, 2d) that are there: (n, m, d)."""
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in keys.chunk(2, dim=-1))
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~there[:, None, None], _NEVER).softmax(-1).to(v.dtype)
        return (weights @ v).transpose(1, 2).flatten(2)
