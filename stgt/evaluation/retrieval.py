"""Text-to-video and video-to-text retrieval: similarity for all pairs, then the matching head on the best ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stgt.evaluation.metrics import ranks, recall_figures, shortlist

Match = Literal["softmax", "logit"]


class Videos(NamedTuple):
    """Encoded videos, on the CPU."""

    embeds: Tensor
    """(V, S, C), what the matching head reads"""
    queries: Tensor
    """(V, Q, E) unit vectors"""


class Texts(NamedTuple):
    """Encoded captions, on the CPU."""

    input_ids: Tensor
    attention_mask: Tensor
    features: Tensor
    """(M, E) unit vectors"""


@torch.inference_mode()
def encode_videos(model: nn.Module, batches: Iterable[dict]) -> Videos:
    """Encode batches of clips: dicts with video (B, T, 3, S, S), or tokens (B, T, 1+P, C) of a frozen tower."""
    device = next(model.parameters()).device
    embeds, queries = [], []
    for batch in batches:
        inputs = {name: batch[name].to(device) for name in ("video", "tokens") if name in batch}
        features = model.encode_video(**inputs)
        embeds.append(features.embeds.cpu())
        queries.append(features.queries.cpu())
    return Videos(torch.cat(embeds), torch.cat(queries))


@torch.inference_mode()
def encode_texts(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, *, batch_size: int = 64) -> Texts:
    """Encode captions given as token ids and masks, both int64 (M, L)."""
    device = next(model.parameters()).device
    parts = zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
    features = [model.encode_text(ids.to(device), mask.to(device)).cpu() for ids, mask in parts]
    return Texts(input_ids, attention_mask, torch.cat(features))


@torch.inference_mode()
def match_scores(
    model: nn.Module, videos: Videos, texts: Texts, pairs: Tensor, *, kind: Match = "softmax", batch_size: int = 128
) -> Tensor:
    """How well (video, text) pairs match: softmax(VTM)[matched] or, as LAVIS has it, the raw logit.

    pairs: int64 (n, 2), indices into `videos` and `texts` → float32 (n,).
    """
    device = next(model.parameters()).device
    scores = []
    for part in pairs.split(batch_size):
        v, t = part.unbind(1)
        chosen = (videos.embeds[v], texts.input_ids[t], texts.attention_mask[t])
        logits = model.match(*(tensor.to(device) for tensor in chosen)).float()
        scores.append((logits.softmax(-1) if kind == "softmax" else logits)[:, 1].cpu())
    return torch.cat(scores)


def rerank(similarity: Tensor, k: int, match: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Add matching scores to each query's `k` best; the rest keep their order behind them.

    similarity: (Q, G); `match` takes int64 (n, 2) pairs of a query and an item, and returns (n,) scores. Returns scores
    (Q, G) and tiers (Q, G) as `ranks` takes them: 1 for what was matched, 0 behind.
    """
    best = shortlist(similarity, k)
    queries = torch.arange(len(best))[:, None].expand_as(best)
    pairs = torch.stack([queries.flatten(), best.flatten()], dim=1)
    tier = torch.zeros_like(similarity, dtype=torch.int64).scatter_(1, best, 1)
    added = torch.zeros_like(similarity).scatter_(1, best, match(pairs).view(best.shape).to(similarity.dtype))
    return similarity + added, tier


def retrieval_figures(
    model: nn.Module,
    videos: Videos,
    texts: Texts,
    owner: Sequence[int],
    *,
    k_test: int = 32,
    kind: Match = "softmax",
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall figures of both directions, by similarity alone ("vtc") and with the `k_test` best re-ranked ("reranked").

    owner: the video of each text. A text's one answer is its video; a video's answers are all of its texts, and its
    best ranked one counts. k_test = 0 leaves re-ranking out; more than the gallery has re-ranks all of it.
    """
    if len(owner) != len(texts.features):
        raise ValueError(f"owner has {len(owner)} entries, expected one for each of {len(texts.features)} texts")
    if k_test < 0:
        raise ValueError(f"k_test is {k_test}, expected at least 0")
    relevant = torch.tensor(owner)[:, None] == torch.arange(len(videos.queries))
    if not relevant.any(0).all():
        missing = (~relevant.any(0)).nonzero().flatten().tolist()
        raise ValueError(f"owner: no text belongs to videos {missing[:10]}, expected at least one each")
    similarity = model.similarity(videos.queries, texts.features).detach()

    figures = {}
    for name, scores, answers, to_video_text in (
        ("text_to_video", similarity.T.contiguous(), relevant, lambda pairs: pairs.flip(1)),
        ("video_to_text", similarity, relevant.T, lambda pairs: pairs),
    ):
        figures[name] = {"vtc": recall_figures(ranks(scores, answers))}
        if k_test:

            def match(pairs: Tensor, order: Callable[[Tensor], Tensor] = to_video_text) -> Tensor:
                return match_scores(model, videos, texts, order(pairs), kind=kind)

            reranked, tier = rerank(scores, k_test, match)
            figures[name]["reranked"] = recall_figures(ranks(reranked, answers, tier))
    return figures


def format_figures(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as a small table."""
    names = list(figures["text_to_video"]["vtc"])
    lines = [f"{'':26}" + "".join(f"{name:>8}" for name in names)]
    for direction, kinds in figures.items():
        for kind, values in kinds.items():
            label = f"{direction.replace('_', ' ')}, {kind}"
            lines.append(f"{label:26}" + "".join(f"{values[name]:8.1f}" for name in names))
    return "\n".join(lines)
