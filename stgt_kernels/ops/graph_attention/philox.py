"""The dropout mask that every backend draws. It is a function of (seed, sample, head, row, column) alone.

The random numbers are Philox4x32-7 (Salmon et al. 2011). One call yields eight 16-bit lanes, for eight columns of one
row:
    key     = (seed & 0xffffffff, seed >> 32)
    counter = (call, row, column's frame, b * H + h)       row is numbered within the clip, column within its frame
    call    = 4 * (column // 32) + (column % 8) // 2
    lane    = 2 * ((column // 8) % 4) + column % 2          lane l: half l % 2 (low first) of output word l // 2
With this order, each of the four threads that share a row of a tensor-core accumulator finds all its columns in one
call. An edge is dropped if its lane is below round(65536 * p), which is at most 65535. Kept probabilities are divided
by the exact share that is kept.
"""

import torch
from torch import Tensor

ROUNDS = 7
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK32 = 0xFFFFFFFF


def drop_threshold(p: float) -> int:
    """The number below which a lane means that the edge is dropped."""
    return min(round(p * 65536), 65535)


def keep_prob(p: float) -> float:
    """The exact probability with which a lane is kept."""
    return 1 - drop_threshold(p) / 65536


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-7 of int64 tensors that hold 32-bit words and are broadcast together."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK32) ^ c1 ^ k0,
            p1 & MASK32,
            ((p0 >> 32) & MASK32) ^ c3 ^ k1,
            p0 & MASK32,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK32, (k1 + KEY_STEPS[1]) & MASK32
    return c0, c1, c2, c3


def keep_mask(seed: Tensor, B: int, H: int, frames: int, patches: int, p: float) -> tuple[Tensor, float]:
    """The dense mask (B, H, N, N) of kept edges, and the probability that one is kept. seed: int64, one element."""
    N, device = frames * patches, seed.device
    column = torch.arange(patches, device=device)
    call = 4 * (column // 32) + (column % 8) // 2
    lane = 2 * ((column // 8) % 4) + column % 2
    key = (seed & MASK32, (seed >> 32) & MASK32)
    counter = (
        call.view(1, 1, 1, -1),
        torch.arange(N, device=device).view(1, -1, 1, 1),
        torch.arange(frames, device=device).view(1, 1, -1, 1),
        torch.arange(B * H, device=device).view(-1, 1, 1, 1),
    )
    words = torch.stack(torch.broadcast_tensors(*philox(key, counter)))
    word = torch.gather(words, 0, (lane // 2).expand(1, *words.shape[1:]))[0]
    bits = (word >> (16 * (lane % 2))) & 0xFFFF
    return (bits >= drop_threshold(p)).view(B, H, N, N), keep_prob(p)
