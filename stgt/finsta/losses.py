"""The losses of Finsta as pure functions, by equations of our own, which docs/finsta_model.md gives.

Similarities are cosines divided by the temperature, in float32 or float64. A loss without any positive is 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels.dispatch import without_autocast

_NEVER = -1e9
"""The logarithm of nothing. It is finite, so no gradient turns into NaN"""


def node_contrast(similarity: Tensor, positive: Tensor) -> Tensor:
    """The mean over rows i of -log e^{s_ip} / (e^{s_ip} + Σ_{negatives n of row i} e^{s_in}), where (i, p) is positive.

    Each row counts by the mean over its positives. Its other positives are left out of the denominator. Rows without
    a positive do not count. similarity: (n, m); positive: (n, m) bool. Returns a scalar.
    """
    negatives = torch.logsumexp(_only(similarity, ~positive), dim=1, keepdim=True)
    each = F.softplus(negatives - similarity).masked_fill(~positive, 0.0)
    return _mean(each.sum(1) / positive.sum(1).clamp(min=1), positive.any(1))


def osc(similarity: Tensor, positive: Tensor) -> Tensor:
    """Object-centred spatial contrast: `node_contrast` from objects of texts to sightings, and back.

    similarity: (objects, sightings) of the whole batch; positive: whether the sighting shows the object.
    """
    return (node_contrast(similarity, positive) + node_contrast(similarity.T, positive.T)) / 2


def ptc(scores: Tensor, own: Tensor, others: Tensor, rivals: Tensor) -> Tensor:
    """Predicate-centred temporal contrast: -log Σ_own e^s / (Σ_own e^s + Σ_others e^s + Σ_rivals e^s).

    The sum over a predicate's own candidates means that at least one of them has to fit (multiple-instance learning).

    scores: (Q, C) of predicates and candidates, which are pairs of tracks with an interval. own, others: (Q, C) bool,
    the candidates that the predicate may be about, and those that it cannot be about. rivals: (Q, Q) bool, the
    predicates whose best candidate this predicate is not about. Returns the mean over predicates with candidates.
    """
    if not scores.shape[1]:
        return scores.sum()
    valid = own.any(1)
    mine = torch.logsumexp(_only(scores, own), dim=1)
    best = _only(scores.detach(), own).argmax(1)
    taken = _only(scores[:, best], rivals & valid)
    foreign = torch.logsumexp(torch.cat([_only(scores, others), taken], dim=1), dim=1)
    return _mean(F.softplus(foreign - mine), valid)


def vtc(one: Tensor, other: Tensor, tau: float) -> Tensor:
    """The contrast of two read-outs (C, d) of the graphs of C clips, in both directions. tau: the temperature.

    Returns a scalar, which is 0 without clips.
    """
    if not len(one):
        return one.sum() * 0 + other.sum() * 0
    similarity = cosines(one, other) / tau
    target = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def distillation(host: Tensor, nodes: Tensor, known: Tensor | None = None) -> Tensor:
    """The mean of 1 - cos(host, node) over nodes, which get no gradient. Returns a scalar.

    host, nodes: (N, d). known: (N,) bool, which nodes count, by default all.
    """
    each = 1 - F.cosine_similarity(wide(host), wide(nodes.detach()), dim=-1)
    return _mean(each, each.new_ones(each.shape, dtype=torch.bool) if known is None else known)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of each row of `one` (n, d) and each row of `other` (m, d): (n, m)."""
    with without_autocast(one.device):
        return F.normalize(wide(one), dim=-1) @ F.normalize(wide(other), dim=-1).T


def wide(values: Tensor) -> Tensor:
    """Values in float32, or as they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _only(values: Tensor, keep: Tensor) -> Tensor:
    return values.masked_fill(~keep, _NEVER)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid rows, or 0."""
    return values.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)
