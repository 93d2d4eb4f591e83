"""The training objectives of STGT (paper Eq. 16-21) as pure functions; each computes in float32 whatever autocast says.

n is the batch of this process, N the global batch, `offset` where this process's rows begin in it (0 and n = N in one
process). Every loss is this process's share: the mean over processes is the loss of the global batch.

`same` tells which pairs are right for each other, bool (n, N): those of one video or with one text, each row's own pair
among them. None means that each pair is right for itself only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Far enough below every logit that softmax gives exactly 0, and finite, so that no row can turn into NaN.
_MASKED = -100.0


def _in_float32(function: Callable) -> Callable:
    """Leave autocast and widen every half-precision argument."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        half = (torch.bfloat16, torch.float16)
        args = [a.float() if isinstance(a, Tensor) and a.dtype in half else a for a in args]
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped


@_in_float32
def similarity(video: Tensor, text: Tensor) -> Tensor:
    """S(v, t) = max over queries of cos(v_q, t), Eq. 16.

    video: (Bv, Q, E) unit vectors, text: (Bt, E) unit vectors. Returns (Bv, Bt) float32 in [-1, 1].
    """
    return torch.einsum("vqe,te->vtq", video, text).amax(-1)


@_in_float32
def vtc_loss(
    v2t: Tensor, t2v: Tensor, *, smoothing: float = 0.1, offset: int = 0, same: Tensor | None = None
) -> Tensor:
    """Video-text contrastive loss: cross-entropy of both directions against the true pairs, mean of the two, Eq. 17.

    v2t: (n, N) logits of this process's videos against all texts, t2v: (n, N) of its texts against all videos; row i
    belongs to column offset + i, and with `same` to each of its columns there in equal parts. Returns a scalar.
    """
    if same is None:
        target = offset + torch.arange(len(v2t), device=v2t.device)
    else:
        target = same.to(v2t.dtype) / same.sum(1, keepdim=True)
    both = [F.cross_entropy(logits, target, label_smoothing=smoothing) for logits in (v2t, t2v)]
    return sum(both) / 2


@_in_float32
def csal_targets(
    video: Tensor,
    text: Tensor,
    all_video: Tensor,
    all_text: Tensor,
    *,
    gamma: float = 5.0,
    mask: Literal["release", "paper"] = "release",
    same: Tensor | None = None,
) -> Tensor:
    """Soft targets of cross-similarity alignment: softmax over j of γ·S_ij with S = relu(V)·relu(Tt), Eq. 18-19.

    V is the cosine of videos' renormalised mean query features, Tt the cosine of texts. Pairs that cannot be a target
    have S = -100: those with S < 0.05 (mask "release") or with V and Tt both at most 0 ("paper"). Pairs in `same` have
    S = 1, as each pair has with itself.
    video: (n, Q, E), text: (n, E), unit vectors of this process; all_video: (N, Q, E), all_text: (N, E), those of the
    global batch. Returns (n, N); S is symmetric, so that the same targets serve both directions. Differentiable.
    """
    V = F.relu(_mean_direction(video) @ _mean_direction(all_video).T)
    Tt = F.relu(text @ all_text.T)
    S = V * Tt
    never = S < 0.05 if mask == "release" else (V <= 0) & (Tt <= 0)
    S = S.masked_fill(never, _MASKED)
    return torch.softmax(gamma * (S if same is None else S.masked_fill(same, 1.0)), -1)


def _mean_direction(video: Tensor) -> Tensor:
    return F.normalize(video.mean(1), dim=-1)


@_in_float32
def csal_loss(v2t: Tensor, t2v: Tensor, targets: Tensor, *, smoothing: float = 0.01) -> Tensor:
    """Cross-similarity alignment loss: cross-entropy of VTC's logits against soft targets, both directions, Eq. 20.

    v2t, t2v, targets: (n, N). Returns a scalar; gradients reach the targets too, unless they are detached.
    """
    both = [F.cross_entropy(logits, targets, label_smoothing=smoothing) for logits in (v2t, t2v)]
    return sum(both) / 2


@_in_float32
@torch.no_grad()
def hard_negatives(logits: Tensor, uniform: Tensor, *, offset: int = 0, same: Tensor | None = None) -> Tensor:
    """Draw one wrong partner per row with probability softmax(logits), the true partner excluded.

    logits: (n, N), row i's true partner is column offset + i, and all columns of its row in `same`.
    uniform: (n,) numbers in [0, 1) that decide the draw (inverse of the cumulative distribution: the result depends on
    nothing else). Returns (n,) int64 columns.
    Raises ValueError if there is nothing to choose from.
    """
    n, N = logits.shape
    if N < 2:
        raise ValueError(f"logits is {n} by {N}: a hard negative needs a batch of at least 2 pairs")
    if same is None:
        same = torch.arange(N, device=logits.device) == offset + torch.arange(n, device=logits.device)[:, None]
    elif same.all(1).any():
        raise ValueError(f"same: a row has no wrong partner among {N} pairs, expected a batch of at least 2 videos")
    # Whole numbers, because their running sums are exact: no order of addition changes the draw, a true partner's
    # share is exactly 0, and u·total stays below the total for every u < 1.
    probability = logits.double().masked_fill(same, float("-inf")).softmax(-1)
    cumulative = (probability * 2.0**52).long().cumsum(-1)
    draw = (uniform.double()[:, None] * cumulative[:, -1:]).long()
    # Only non-finite logits could point beyond the last column; the loss is then not finite either.
    return torch.searchsorted(cumulative, draw, right=True).squeeze(1).clamp(max=N - 1)


@_in_float32
def vtm_loss(logits: Tensor, matched: int) -> Tensor:
    """Video-text matching loss: two-class cross-entropy, mean over pairs.

    logits: (M, 2), of which the first `matched` rows are true pairs (class 1) and the rest are not. Returns a scalar.
    """
    target = (torch.arange(len(logits), device=logits.device) < matched).long()
    return F.cross_entropy(logits, target)


@_in_float32
def vtg_loss(
    logits: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    smoothing: float = 0.1,
    words: Tensor | None = None,
) -> Tensor:
    """Video-grounded text generation loss: cross-entropy of the next word, mean over words, padding ignored.

    logits: (n, L, V), position i predicts word i+1. input_ids, attention_mask: (n, L). words: what to divide by, the
    mean over processes of their number of predicted words; None counts those given. Returns a scalar.
    """
    target = input_ids.masked_fill(attention_mask == 0, -100)[:, 1:]
    total = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), target.flatten(), ignore_index=-100, label_smoothing=smoothing, reduction="sum"
    )
    return total / (words if words is not None else predicted_words(attention_mask))


def predicted_words(attention_mask: Tensor) -> Tensor:
    """How many words `vtg_loss` averages over: all but the first of each text, a float32 scalar."""
    return (attention_mask[:, 1:] != 0).sum().float()
