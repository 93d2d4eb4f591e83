"""Graph-masked attention in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor

from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention import philox


def graph_attention_dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    *,
    scale: float,
    keep: Tensor | None = None,
    keep_prob: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The softmax over edges of scale * (q . k) * W, times v (paper Eq. 8-12), for a dense weight matrix.

    q, k, v: (B, H, N, D). weight: (B, N, N), 0 where there is no edge, in q's dtype or a wider one; the scores get the
    weights' dtype. keep: the dropout mask, (B, H, N, N) bool, or None without dropout. Probabilities that are kept are
    divided by keep_prob.
    Returns the output (B, H, N, D) and the log-sum-exp (B, H, N). A row without edges gives 0 and -inf.
    """
    weight = weight[:, None]
    score = (q @ k.transpose(-1, -2)) * scale * weight
    score = score.masked_fill(weight == 0, float("-inf"))
    lse = torch.logsumexp(score, -1)
    empty = torch.isneginf(lse.detach())[..., None]
    # exp(score - lse) would send NaN gradients through rows without edges, even if a later mask removed its values.
    probability = torch.softmax(score.masked_fill(empty, 0), -1).masked_fill(empty, 0)
    if keep is not None:
        probability = probability * keep / keep_prob
    return probability.to(v.dtype) @ v, lse


def graph_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: SpatioTemporalGraph, scale: float, dropout_p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Graph attention, as ``graph_attention_dense`` defines it, along a graph in banded storage.

    q, k, v: (B, H, N, D). seed: int64, one element; None without dropout. Returns the output (B, H, N, D) in v's dtype,
    and the log-sum-exp (B, H, N) in float32, or in float64 for float64.
    """
    keep, keep_prob = None, 1.0
    if dropout_p > 0:
        keep, keep_prob = philox.keep_mask(seed, q.shape[0], q.shape[1], graph.frames, graph.patches, dropout_p)
    weight = graph.to_dense()
    weight = weight if weight.dtype == torch.float32 else weight.to(q.dtype)
    out, lse = graph_attention_dense(q, k, v, weight, scale=scale, keep=keep, keep_prob=keep_prob)
    out = out.transpose(1, 2).contiguous().transpose(1, 2)  # every backend lays it out in memory as (B, N, H, D)
    return out, lse if lse.dtype == torch.float64 else lse.float()
