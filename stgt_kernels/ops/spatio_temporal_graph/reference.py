"""Token similarity, frame mask and threshold in plain PyTorch: the definition that every kernel is tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels.graph import SpatioTemporalGraph


def spatio_temporal_graph_dense(x: Tensor, threshold: float | None, window: int) -> Tensor:
    """W_ij = S_ij if S_ij >= threshold and |frame_i - frame_j| <= window else 0, with S the cosine similarity.

    x: (B, T, P, C). threshold None keeps every pair of the band. Returns (B, T*P, T*P), in x's dtype, differentiable.
    """
    B, T, P, C = x.shape
    token = x.reshape(B, T * P, C)
    # A token that is not finite counts as zero, for 0 * NaN would send NaN to the others' gradients.
    unit = F.normalize(token.masked_fill(~token.isfinite().all(-1, keepdim=True), 0), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    frame = torch.arange(T, device=x.device).repeat_interleave(P)
    keep = ((frame[:, None] - frame[None, :]).abs() <= window) & (similarity != 0)
    if threshold is not None:
        keep = keep & (similarity >= threshold)
    return torch.where(keep, similarity, 0)


def spatio_temporal_graph(x: Tensor, threshold: float | None, window: int) -> SpatioTemporalGraph:
    """The same in banded storage; half precision is computed in float32, so that the threshold sees no rounding."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    graph = SpatioTemporalGraph.from_dense(spatio_temporal_graph_dense(wide, threshold, window), x.shape[1], window)
    return graph.to(torch.float16) if wide is not x else graph
