"""Temporal embeddings for another number of frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def nearest(embedding: Tensor, frames: int) -> Tensor:
    """Resize a temporal embedding (T_model, C) to (frames, C). Each frame takes the nearest row at or before it."""
    return F.interpolate(embedding.T[None], size=frames, mode="nearest")[0].T
