"""Text-to-video and video-to-text retrieval: similarity for all pairs, and then the matching head on the best pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from stgt.config import Rerank
from stgt.evaluation.metrics import ranks, recall_figures, said_of, shortlist
from stgt.models.stgt import STGT

Figures = dict[str, float]
"""R@1, R@5, R@10, mean, MedR, MeanR"""
RECALLS = ("R@1", "R@5", "R@10")

# The number of queries that are ranked at a time. Ranking takes several times the memory of the similarities.
_ROWS = 1024


def matching_scores(logits: Tensor, kind: Rerank, temperature: float) -> Tensor:
    """The scores that re-ranking adds to similarity.

    "softmax" is the matching probability, as in the released model, and "logit" the raw logit, as in LAVIS. Neither
    has the unit of the similarity, so a matching head that has learned little makes the order worse.

    "odds" is the temperature times the log-odds of a match. The matching head learns from negatives that are drawn with
    probabilities softmax(similarity / temperature), so its log-odds say how much likelier a pair is than its similarity
    alone suggests: log p(video | text) = similarity / temperature + log-odds + constant. The sum of the similarity and
    this score therefore orders videos by their probability. A head that has learned nothing does not change the order.

    logits: (n, 2). temperature: the one that the model has learned for similarities. Returns (n,).
    """
    if kind == "odds":
        return temperature * (logits[:, 1] - logits[:, 0])
    return (logits.softmax(-1) if kind == "softmax" else logits)[:, 1]


def own_scores(model: STGT, logits: Tensor) -> Tensor:
    """The `matching_scores` of the kind that the model was made for. logits: (n, 2). Returns (n,)."""
    return matching_scores(logits, model.config.qformer.rerank, model.temp.item())


def retrieval_figures(
    similarity: Tensor,
    owner: Sequence[int],
    match: Callable[[Tensor], Tensor],
    candidates: Sequence[int],
    wording: Sequence[int] | None = None,
) -> dict[int, dict[str, Figures]]:
    """Recall figures of both directions for each number of re-ranked candidates. 0 means similarity alone.

    The candidates of a query are its most similar videos or captions. Their matching score is added to the similarity,
    and all other items keep their order behind them. Every pair is matched once for all directions and numbers.
    A text's right answers are the videos that have this text, word for word. A video's right answers are all texts that
    are equal to one of its own, also those that belong to other videos. The right answer that is ranked best counts.

    similarity: (V, M).
    owner: the video of each text.
    wording: a number for each text, equal for texts that are equal word for word (`stgt.data.text.wordings`). With
        None, all texts count as different.
    match: a function that is called once, with distinct pairs of a video and a text, int64 (n, 2) in ascending order.
        It returns float32 (n,).
    candidates: numbers of candidates. A number above the number of items means all of them.
    Raises ValueError for an owner or a wording that does not fit, and for candidates below 0.
    """
    V, M = similarity.shape
    if len(owner) != M:
        raise ValueError(f"owner has {len(owner)} entries, expected one for each of {M} texts")
    if wording is not None and len(wording) != M:
        raise ValueError(f"wording has {len(wording)} entries, expected one for each of {M} texts")
    if min(candidates) < 0:
        raise ValueError(f"candidates holds {min(candidates)}, expected numbers of at least 0")
    videos, texts, owner = torch.arange(V)[:, None], torch.arange(M)[:, None], torch.tensor(owner)
    if len(missing := torch.arange(V)[~torch.isin(videos[:, 0], owner)]):
        raise ValueError(f"owner: no text belongs to videos {missing[:10].tolist()}, expected at least one each")

    wording = torch.arange(M) if wording is None else torch.tensor(wording)
    said = said_of(owner, wording, V)

    by_text, by_video = similarity.T, similarity
    best_videos, best_texts = (_shortlist(scores, max(candidates)) for scores in (by_text, by_video))
    # Each pair is one number, so that sorted pairs are in the order of videos.
    t2v, v2t = best_videos * M + texts, videos * M + best_texts
    pairs = torch.cat([t2v.flatten(), v2t.flatten()]).unique()
    matched = match(torch.stack([pairs // M, pairs % M], dim=1)) if len(pairs) else similarity.new_empty(0)
    added_t2v, added_v2t = (matched[torch.searchsorted(pairs, wanted)] for wanted in (t2v, v2t))
    return {
        count: {
            "text_to_video": _figures(by_text, lambda rows: said[:, wording[rows]].T, best_videos, added_t2v, count),
            "video_to_text": _figures(by_video, lambda rows: said[rows][:, wording], best_texts, added_v2t, count),
        }
        for count in candidates
    }


def dual_softmax_figures(
    similarity: Tensor, temperature: float, owner: Sequence[int], wording: Sequence[int] | None = None
) -> dict[str, Figures]:
    """Recall figures of both directions with dual softmax (CAMoE, arXiv 2109.04290).

    Each similarity is multiplied by the softmax of its item over all queries, so an item that is similar to many
    queries counts less for each of them. The figures are transductive: a query's result depends on the other queries
    of the test set. They must not be compared with figures that look at one query at a time.

    similarity: (V, M). temperature: the one that the model has learned for similarities. owner and wording: as for
    `retrieval_figures`.
    """
    V, M = similarity.shape
    wording = torch.arange(M) if wording is None else torch.tensor(wording)
    said = said_of(torch.tensor(owner), wording, V)

    def scores(dim: int) -> Tensor:
        # With a low temperature, products would be 0 in float32, and equal.
        return (similarity.double() / temperature).softmax(dim).mul_(similarity)

    # The scores of one direction take twice the memory of the similarities, so they are gone before the others come.
    none = [torch.empty(size, 0, dtype=torch.int64) for size in (M, V)]
    by_text = _figures(scores(1).T, lambda rows: said[:, wording[rows]].T, none[0], none[0], 0)
    by_video = _figures(scores(0), lambda rows: said[rows][:, wording], none[1], none[1], 0)
    return {"text_to_video": by_text, "video_to_text": by_video}


def _shortlist(scores: Tensor, count: int) -> Tensor:
    return torch.cat([shortlist(rows, count) for rows in scores.split(_ROWS)])


def _figures(scores: Tensor, relevant: Callable[[Tensor], Tensor], best: Tensor, added: Tensor, count: int) -> Figures:
    """Figures of one direction if the first `count` items of `best` are re-ranked.

    relevant: a function from int64 (n,), numbers of queries, to bool (n, items).
    """
    queries = torch.arange(len(scores))
    tables = (table.split(_ROWS) for table in (queries, scores, best[:, :count], added[:, :count]))
    found = []
    for numbers, rows, places, more in zip(*tables, strict=True):
        tier = torch.zeros_like(rows, dtype=torch.int64).scatter_(1, places, 1)
        reranked = rows + torch.zeros_like(rows).scatter_(1, places, more.to(rows.dtype))
        found.append(ranks(reranked, relevant(numbers), tier))
    return recall_figures(torch.cat(found))


def format_figures(figures: dict[str, dict[str, Figures]]) -> str:
    """The figures of each direction and kind, e.g. figures["text_to_video"]["vtc"], as a small table."""
    names = list(next(iter(figures["text_to_video"].values())))
    lines = [f"{'':28}" + "".join(f"{name:>8}" for name in names)]
    for direction, kinds in figures.items():
        for kind, values in kinds.items():
            label = f"{direction.replace('_', ' ')}, {kind}"
            lines.append(f"{label:28}" + "".join(f"{values[name]:8.1f}" for name in names))
    return "\n".join(lines)


def format_candidates(figures: Mapping[str, Mapping[str, Figures]]) -> str:
    """The recalls of both directions as a small table, with a line for each number of candidates."""
    lines = [f"{'':10}{'text to video':>24}{'video to text':>24}", f"{'candidates':10}" + (" " + "{:>7}{:>8}{:>8}") * 2]
    lines[1] = lines[1].format(*RECALLS * 2)
    for count, ways in figures.items():
        values = "".join(f"{ways[way][name]:8.1f}" for way in ("text_to_video", "video_to_text") for name in RECALLS)
        lines.append(f"{count:>10}{values}")
    return "\n".join(lines) + "\n"
