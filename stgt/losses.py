"""The training objectives of STGT (paper Eq. 16-21) as pure functions. Each computes in float32, even under autocast.

n is the number of pairs of this process, N that of the global batch, and `offset` the place of this process's first
row in the global batch (in a single process, offset = 0 and n = N). Every loss is this process's share: the mean over
processes is the loss of the global batch.

`same`, bool (n, N), says which pairs are positives for each other: those with the same video or the same text, and each
row's own pair. None means that each pair is a positive for itself only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Softmax of this value is exactly 0, since it is far below every logit. It is finite, so no row can turn into NaN.
_MASKED = -100.0


def _in_float32(function: Callable) -> Callable:
    """Run a function outside autocast, with its half-precision arguments converted to float32."""

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
    """Video-text contrastive loss (Eq. 17): the mean of the cross-entropies of both directions against the true pairs.

    v2t: (n, N) logits of this process's videos against all texts; t2v: (n, N) logits of its texts against all videos.
    The target of row i is column offset + i. With `same`, all columns of its positives are targets in equal parts.
    Returns a scalar.
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

    V is the cosine of the videos' renormalised mean query features, and Tt that of the texts. Pairs that cannot be
    a target have S = -100: those with S < 0.05 (mask "release") or with V and Tt both at most 0 ("paper"). Pairs in
    `same` have S = 1, like each pair with itself.
    video: (n, Q, E), text: (n, E), unit vectors of this process; all_video: (N, Q, E), all_text: (N, E), those of the
    global batch. Returns (n, N). S is symmetric, so both directions have the same targets. Gradients reach the inputs.
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
    """Cross-similarity alignment loss (Eq. 20): the mean cross-entropy of both directions against soft targets.

    v2t, t2v: (n, N) logits as in `vtc_loss`; targets: (n, N). Returns a scalar. Gradients reach the targets too, unless
    they are detached.
    """
    both = [F.cross_entropy(logits, targets, label_smoothing=smoothing) for logits in (v2t, t2v)]
    return sum(both) / 2


@_in_float32
@torch.no_grad()
def hard_negatives(logits: Tensor, uniform: Tensor, *, offset: int = 0, same: Tensor | None = None) -> Tensor:
    """Draw one wrong partner per row with probability softmax(logits), leaving out the true partners.

    logits: (n, N). The true partner of row i is column offset + i, or with `same` all columns of its positives.
    uniform: (n,) numbers in [0, 1), which alone decide the draw, by the inverse of the cumulative distribution.
    Returns (n,) int64 columns. Raises ValueError if a row has no wrong partner.
    """
    n, N = logits.shape
    if N < 2:
        raise ValueError(f"logits is {n} by {N}: a hard negative needs a batch of at least 2 pairs")
    if same is None:
        same = torch.arange(N, device=logits.device) == offset + torch.arange(n, device=logits.device)[:, None]
    elif same.all(1).any():
        raise ValueError(
            f"same: a pair has the same video or the same text as all {N} pairs of the batch, so matching has no wrong "
            "partner for it: expected larger batches, loss.multi_positive=False, or loss.vtm_weight=0"
        )
    # Probabilities become whole numbers with exact running sums. So the order of addition does not change the draw,
    # the share of a true partner is exactly 0, and u·total is below the total for every u < 1.
    probability = logits.double().masked_fill(same, float("-inf")).softmax(-1)
    cumulative = (probability * 2.0**52).long().cumsum(-1)
    draw = (uniform.double()[:, None] * cumulative[:, -1:]).long()
    # Only non-finite logits can point beyond the last column, and then the loss is not finite either.
    return torch.searchsorted(cumulative, draw, right=True).squeeze(1).clamp(max=N - 1)


@_in_float32
def vtm_loss(logits: Tensor, matched: int) -> Tensor:
    """Video-text matching loss: the two-class cross-entropy, averaged over pairs.

    logits: (M, 2). The first `matched` rows are true pairs (class 1), and the others are not. Returns a scalar.
    """
    target = (torch.arange(len(logits), device=logits.device) < matched).long()
    return F.cross_entropy(logits, target)


@_in_float32
def vtg_loss(logits: Tensor, target: Tensor, words: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Video-grounded text generation loss: the cross-entropy of the next word, averaged over words without padding.

    logits: (W, V), of the words that are predicted; target: their ids, (W,); words: the divisor, which is the mean of
    `predicted_words` over processes. Returns a scalar.
    """
    return F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum") / words


def predicted_words(attention_mask: Tensor) -> Tensor:
    """The number of words that `vtg_loss` averages over: all but the first of each text, as a float32 scalar."""
    return (attention_mask[:, 1:] != 0).sum().float()
