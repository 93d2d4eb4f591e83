"""What the kernels are compared with: each provider computes the same thing, and is checked to before it is timed."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128


def frame_mask(T: int, P: int, window: int) -> Tensor:
    frame = torch.arange(T).repeat_interleave(P)
    return (frame[:, None] - frame[None, :]).abs() <= window


def dense_graph(x: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """The graph as the released model builds it: normalise, all pairs, threshold and mask. mask: made once."""
    unit = F.normalize(x.flatten(1, 2), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    return torch.where((similarity >= threshold) & mask, similarity, 0)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Graph attention as the released model computes it, on all pairs of tokens."""
    weight = weight[:, None]
    score = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 * weight
    return torch.softmax(score.masked_fill(weight == 0, float("-inf")), -1) @ v


class CompiledFlexAttention:
    """FlexAttention, compiled, with a score_mod that reads the weights and a BlockMask of the band."""

    def __init__(self, weight: Tensor, T: int, P: int, window: int):
        self.weight, self.mask = weight, band_mask(T, P, window)
        self.compiled = torch.compile(flex_attention, dynamic=False)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = self.weight

        def score_mod(score, b, h, i, j):
            w = weight[b, i, j]
            return torch.where(w != 0, score * w, float("-inf"))

        with torch.no_grad():
            return self.compiled(q, k, v, score_mod=score_mod, block_mask=self.mask)


def band_mask(T: int, P: int, window: int) -> BlockMask:
    """The band as whole blocks; P is a multiple of the block size."""
    rows = T * P // BLOCK
    frame = torch.arange(rows) // (P // BLOCK)
    live = (frame[:, None] - frame[None, :]).abs() <= window
    count = live.sum(1).int()
    columns = torch.argsort(live.int(), dim=1, descending=True, stable=True).int()
    empty = torch.zeros(1, 1, rows, dtype=torch.int32), torch.zeros(1, 1, rows, rows, dtype=torch.int32)
    return BlockMask.from_kv_blocks(*empty, count[None, None], columns[None, None], BLOCK_SIZE=BLOCK)
