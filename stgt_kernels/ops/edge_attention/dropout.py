"""The dropout mask that every backend draws: a pure function of (seed, edge, head).

Philox4x32-7, as in graph attention. One call yields eight 16-bit lanes, for eight heads of one edge:
    key     = (seed & 0xffffffff, seed >> 32)
    counter = (h // 8, e, 0, 0)               e: the edge's number, in the order in which the graph was given
    lane    = h % 8                           lane l: half l % 2 (low first) of output word l // 2
A probability is dropped if its lane is below round(65536 * p), which is at most 65535. Kept probabilities are divided
by the exact share that is kept.
"""

import torch
from torch import Tensor

from stgt_kernels.ops.graph_attention.philox import MASK32, drop_threshold, keep_prob, philox


def keep_mask(seed: Tensor, edges: int, H: int, p: float) -> tuple[Tensor, float]:
    """The mask (E, H) of kept probabilities, and the probability of keeping one. seed: int64, one element."""
    head, edge = torch.arange(H, device=seed.device), torch.arange(edges, device=seed.device)
    key = (seed & MASK32, (seed >> 32) & MASK32)
    zero = torch.zeros_like(seed)
    words = torch.stack(torch.broadcast_tensors(*philox(key, (head[None] // 8, edge[:, None], zero, zero))))
    word = torch.gather(words, 0, (head % 8 // 2).expand(1, edges, H))[0]
    bits = (word >> (16 * (head % 2))) & 0xFFFF
    return bits >= drop_threshold(p), keep_prob(p)
