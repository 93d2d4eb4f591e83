"""Inputs with the edge density of real video: patch tokens of a real clip, tiled to size."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

TOKENS = Path(__file__).parent.parent / "tests" / "assets" / "real_tokens.safetensors"
PAPER = {"P": 256, "C": 1408, "H": 16, "D": 88}
THRESHOLD = 0.5


def real_tokens(B: int, T: int, P: int = PAPER["P"], C: int = PAPER["C"], dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, T, P, C): the clips' 8 frames played back and forth, the first P patches, channels repeated up to C.

    Repeating channels keeps every cosine similarity nearly as it is, hence the density.
    """
    clips = torch.stack(list(load_file(TOKENS).values())).float()
    sample = clips[torch.arange(B) % len(clips)]
    there_and_back = torch.cat([sample, sample.flip(1)], 1)
    frames = there_and_back[:, torch.arange(T) % there_and_back.shape[1], :P]
    return frames.repeat(1, 1, 1, -(-C // frames.shape[-1]))[..., :C].to(dtype).contiguous()


def heads(B: int, N: int, H: int = PAPER["H"], D: int = PAPER["D"], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v and an output gradient, (B, H, N, D) as a projection leaves them: views of (B, N, H, D)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, N, H, D, generator=generator).to(dtype).transpose(1, 2) for _ in range(4)]


def band_flops(B: int, T: int, window: int, P: int, H: int, D: int) -> float:
    """Multiplications and additions of attention's two products over the band's pairs."""
    pairs = sum(T - abs(o) for o in range(-window, window + 1)) * P * P
    return 4.0 * B * H * D * pairs
