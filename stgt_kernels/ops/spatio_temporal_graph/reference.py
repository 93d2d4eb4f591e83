"""Token similarity, frame mask and threshold in plain PyTorch: the definition that every kernel is tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels.graph import SpatioTemporalGraph, storage_dtype


def scaled_tokens(token: Tensor) -> Tensor:
    """Tokens (..., C) times powers of two, so that the largest channel is between 1/2 and 1 and no square overflows."""
    _, exponent = torch.frexp(token.detach().abs().amax(-1, keepdim=True))
    half = exponent // 2  # the power as a whole may not be representable
    one = torch.ones_like(exponent, dtype=token.dtype)
    return token * torch.ldexp(one, -half) * torch.ldexp(one, half - exponent)


def spatio_temporal_graph_dense(x: Tensor, threshold: float | None, window: int) -> Tensor:
    """W_ij = S_ij if S_ij >= threshold and |frame_i - frame_j| <= window else 0, with S the cosine similarity.

    This is Eq. 6-7 of the paper.

    x: (B, T, P, C). threshold None keeps every pair of the band. Returns (B, T*P, T*P), in x's dtype, differentiable.
    """
    B, T, P, C = x.shape
    token = x.reshape(B, T * P, C)
    # A token that is not finite counts as zero, because 0 * NaN would send NaN to the gradients of others.
    scaled = scaled_tokens(token.masked_fill(~token.isfinite().all(-1, keepdim=True), 0))
    unit = F.normalize(scaled, dim=-1)
    if x.requires_grad:  # gradients of tokens of denormal numbers would not be finite
        constant = token.detach().abs().amax(-1, keepdim=True) < torch.finfo(x.dtype).smallest_normal
        unit = torch.where(constant, unit.detach(), unit)
    similarity = unit @ unit.transpose(1, 2)
    frame = torch.arange(T, device=x.device).repeat_interleave(P)
    keep = ((frame[:, None] - frame[None, :]).abs() <= window) & (similarity != 0)
    if threshold is not None:
        compared = similarity
        if threshold > 1 - 2 * C * torch.finfo(torch.float32).eps:
            # In float32, the sums that some processors' libraries make of equal channels have larger errors than
            # stgt_kernels.rounding.similarity_error allows.
            wide = F.normalize(scaled.detach().double(), dim=-1)
            compared = wide @ wide.transpose(1, 2)
        keep = keep & (compared >= threshold)
    return torch.where(keep, similarity, 0)


def spatio_temporal_graph(
    x: Tensor, threshold: float | None, window: int, differentiable: bool = False
) -> SpatioTemporalGraph:
    """The graph that ``spatio_temporal_graph_dense`` defines, in banded storage. x: (B, T, P, C).

    Half precision is computed in float32, so similarities are compared with the threshold before they are rounded.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    graph = SpatioTemporalGraph.from_dense(spatio_temporal_graph_dense(wide, threshold, window), x.shape[1], window)
    return SpatioTemporalGraph(graph.weight.to(storage_dtype(x.dtype, differentiable)))
