"""Aligns the objects of a text with tracks of the video, and its predicates with parts of those tracks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.finsta import losses
from stgt.finsta.batch import GraphBatch
from stgt.finsta.batching.bags import rows
from stgt.finsta.config import FinstaConfig
from stgt.finsta.losses import wide
from stgt_kernels.dispatch import without_autocast


@torch.no_grad()
def same_things(graphs: GraphBatch, labels: Tensor, config: FinstaConfig) -> Tensor:
    """Whether an object of a text and a track of its clip are taken for the same thing: (O, K) bool.

    They are if the cosine of their phrases is above rho. With `crossmodal_coref`, only the two best tracks can be.
    Equal phrases always count as 1. A phrase is the mean of the vectors of the label and the attributes. The mean of
    the batch's labels is taken off first, since the texts of one host point in similar directions.

    labels: (n, w).
    """
    labels = wide(labels)
    labels = labels - labels.mean(0, keepdim=True) if len(labels) else labels
    texts, videos = graphs.texts, graphs.videos
    said = F.normalize(texts.phrase.sums(labels), dim=-1)
    seen = F.normalize(videos.phrase.sums(labels), dim=-1)
    clip = texts.clip[texts.object]
    there = graphs.there[clip]
    if not len(seen) or not len(said):
        return there
    found = (said[:, None] * rows(seen, graphs.candidate[clip])).sum(-1)
    found = found.masked_fill(graphs.alike, 1.0).masked_fill(~there, -2.0)
    same = found > config.rho
    if config.crossmodal_coref and found.shape[1] > 2:
        same &= found >= found.topk(2, dim=1).values[:, 1:]
    return same & there


def shown(graphs: GraphBatch, same: Tensor) -> Tensor:
    """Whether a sighting shows an object of a text, (O, S) bool. same: (O, K), from `same_things`."""
    texts, videos = graphs.texts, graphs.videos
    clip = texts.clip[texts.object]
    of = videos.track_clip[videos.track]
    return same[:, videos.track_place[videos.track]] & (clip[:, None] == of)


class Candidates(NamedTuple):
    """Regions that Q predicates may be about: P pairs of tracks in I intervals of frames."""

    score: Tensor
    """(Q, P, I), the cosine of predicate and region"""
    own: Tensor
    """(Q, P, I) bool, whether the predicate may be about the region"""
    others: Tensor
    """(Q, P, I) bool, whether the region belongs to a clip whose text has no predicate with these words and adverbs"""
    rivals: Tensor
    """(Q, Q) bool, whether two predicates belong to one clip and have different words or adverbs"""
    start: Tensor
    """(I,) int64, frames"""
    end: Tensor
    """(I,) int64, frames; the interval is [start, end)"""


class PredicateRegions(nn.Module):
    """Compares predicates with regions: the nodes of a pair of tracks and of their relations over an interval."""

    def __init__(self, config: FinstaConfig) -> None:
        super().__init__()
        d = config.width
        self.said = nn.Linear(d, d)
        self.subject, self.target, self.relation = (nn.Linear(d, d) for _ in range(3))

    def forward(self, text: Tensor, sighting: Tensor, relation: Tensor, graphs: GraphBatch, same: Tensor) -> Candidates:
        """text: (Q, d) states of predicates; sighting: (S, d); relation: (R, d); same: (O, K), from `same_things`."""
        pairs, T = graphs.pairs, graphs.frames
        table = torch.cat([self.subject(sighting), self.target(sighting), self.relation(relation)])
        frames = pairs.node.sums(wide(table)).view(-1, T, table.shape[1])
        start, end = torch.triu_indices(T, T, device=table.device)
        end = end + 1
        region = _between(frames, start, end)
        score = losses.cosines(self.said(text), region.flatten(0, 1)).unflatten(1, region.shape[:2])
        filled = _between(pairs.count[..., None], start, end)[..., 0] > 0.5
        return Candidates(score, *_belonging(graphs, same, filled), start, end)


def _between(values: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The sums of values (P, T, d) over intervals of frames, (P, I, d), as differences of running sums.

    The running sums are a product with a triangle of ones, since torch.cumsum may give other bits each time on a GPU.
    """
    T = values.shape[1]
    with without_autocast(values.device):
        running = torch.ones(T + 1, T, dtype=values.dtype, device=values.device).tril(-1) @ values
    return running[:, end] - running[:, start]


@torch.no_grad()
def _belonging(graphs: GraphBatch, same: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`own`, `others` and `rivals` of `Candidates`. filled: (P, I), whether a region has any node."""
    texts, pairs = graphs.texts, graphs.pairs
    clip = texts.clip[texts.predicate]
    ours = clip[:, None] == pairs.clip
    fits = ours & (texts.targeted[:, None] == (pairs.target >= 0))
    fits &= _argument(same, texts.subject, pairs.subject)
    fits &= _argument(same, texts.target, pairs.target)
    alike = texts.saying[:, None] == texts.saying
    neighbours = clip[:, None] == clip
    of_clip = clip[:, None] == torch.arange(graphs.clips, device=clip.device)
    says = (alike[:, :, None] & of_clip).any(1)
    foreign = ~says[:, pairs.clip]
    return fits[..., None] & filled, foreign[..., None] & filled, neighbours & ~alike


def _argument(same: Tensor, thing: Tensor, track: Tensor) -> Tensor:
    """Whether a track may be the argument of a predicate, (Q, P) bool.

    same: (O, K); thing: (Q,) the object of the text, or -1; track: (P,) place in the clip. A predicate whose argument
    is unknown, or is no track's, may be about any track.
    """
    if not len(same):
        return torch.ones(len(thing), len(track), dtype=torch.bool, device=thing.device)
    known = same[thing.clamp(min=0)] & (thing >= 0)[:, None]
    known |= ~known.any(1, keepdim=True)
    return known[:, track.clamp(min=0)]
