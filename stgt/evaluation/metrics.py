"""Recall figures from scores. In a tie, the right item counts as the last one."""

from __future__ import annotations

import torch


def shortlist(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """The `k` best columns of each row, the best one first, or all columns if there are fewer.

    similarity (Q, G) → int64 (Q, min(k, G)). Equal columns keep their order, so the choice is the same on any machine.
    """
    return similarity.sort(dim=1, descending=True, stable=True).indices[:, :k]


def said_of(owner: torch.Tensor, wording: torch.Tensor, videos: int) -> torch.Tensor:
    """Whether a video has a text with a wording, which decides what is relevant in both directions.

    owner, wording: int64 (M,), the video and the wording of each text. Returns bool (videos, W).
    """
    said = torch.zeros(videos, int(wording.max()) + 1, dtype=torch.bool)
    said[owner, wording] = True
    return said


def ranks(scores: torch.Tensor, relevant: torch.Tensor, tier: torch.Tensor | None = None) -> torch.Tensor:
    """The rank of each query's best relevant item: 1 + the number of irrelevant items with a score at least as high.

    A tie therefore counts against the model. A model that gives all items the same score gets the worst rank.

    Args:
        scores: (Q, G), finite. A higher score is better.
        relevant: (Q, G) bool, with at least one relevant item in each row.
        tier: (Q, G) integers. Items of a higher tier come first, whatever their scores are; re-ranked items do.

    Returns:
        int64 (Q,).

    Raises:
        ValueError: for NaN or infinite scores, or a query without a relevant item.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores: NaN or infinite, expected finite numbers")
    if not relevant.any(dim=1).all():
        raise ValueError("relevant: a query without a relevant item, expected at least one in every row")
    tier = torch.zeros_like(scores, dtype=torch.int64) if tier is None else tier
    lowest = torch.iinfo(tier.dtype).min
    best_tier = tier.masked_fill(~relevant, lowest).amax(dim=1, keepdim=True)
    contender = relevant & (tier == best_tier)
    best = scores.masked_fill(~contender, -torch.inf).amax(dim=1, keepdim=True)
    ahead = (tier > best_tier) | ((tier == best_tier) & (scores >= best))
    return 1 + (ahead & ~relevant).sum(dim=1)


def recall_figures(rank: torch.Tensor) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, their mean, and the median and mean rank, of int64 (Q,) ranks from 1."""
    figures = {f"R@{k}": 100.0 * (rank <= k).double().mean().item() for k in (1, 5, 10)}
    figures["mean"] = sum(figures.values()) / 3
    # torch.median would take the lower of the two middle ranks.
    figures["MedR"] = rank.double().quantile(0.5).item()
    figures["MeanR"] = rank.double().mean().item()
    return figures
