"""The outputs of the Finsta model: its losses, and the parts of the video that it finds for the words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt.finsta.batch import GraphBatch
from stgt.finsta.model.alignment import Candidates


@dataclass(frozen=True, eq=False)
class PredicateGrounding:
    """Where and when a predicate is true.

    The tracks are those of the region that fits the predicate best. The interval is the one over which the cosines of
    single frames exceed their mean over the clip by the largest sum.
    """

    tracks: tuple[int, ...]
    """The track of the subject and, if the predicate has one, that of the object"""
    start: int
    end: int
    """Frames of the host; the interval is [start, end)"""
    score: float
    """Cosine of the predicate and the region of these tracks over the interval"""


@dataclass(frozen=True, eq=False)
class ClipGrounding:
    """The parts of the video that belong to the words of one clip. Nodes are given by their ids in the text's graph."""

    tracks: tuple[int, ...]
    """K numbers of tracks, in the order of the rows of `objects`"""
    objects: dict[int, Tensor]
    """{object of the text: (K, T) float32, the cosine of the object and each track in each frame of the host; NaN where
    the track is not seen}, on the CPU"""
    predicates: dict[int, PredicateGrounding]
    """{predicate of the text: its best region}. A predicate is left out if there is no region that it may be about"""


@dataclass(eq=False)
class FinstaOutput:
    """The results of the model for a batch."""

    losses: dict[str, Tensor]
    """Scalars by name: "osc" and "ptc" where they are switched on, and "vtc", the contrast of the graphs' read-outs"""
    distillation: Tensor
    """The scalar by which the host's own states come closer to the nodes; nodes get no gradient from it"""
    object_nodes: Tensor
    """(S, d), the states of the sightings of objects in the video's graph"""
    graphs: GraphBatch = field(repr=False)
    similarity: Tensor = field(repr=False)
    """(O, S), the cosines of objects of texts and sightings, without a gradient"""
    candidates: Candidates = field(repr=False)
    """The regions that predicates were compared with, without a gradient"""

    @cached_property
    def object_index(self) -> Tensor:
        """(S, 3) int64 on the CPU: clip, number of the track, frame. Reading it waits for the device."""
        videos, T = self.graphs.videos, self.graphs.frames
        frame = videos.frame[videos.sighting].cpu()
        number = torch.tensor(videos.number, dtype=torch.int64)[videos.track.cpu()]
        return torch.stack([frame // T, number, frame % T], dim=1)

    @cached_property
    def grounding(self) -> tuple[ClipGrounding, ...]:
        """One for each clip. It is computed when it is first asked for, which waits for the device."""
        return ground(self.graphs, self.similarity, self.candidates)


@torch.no_grad()
def ground(graphs: GraphBatch, similarity: Tensor, candidates: Candidates) -> tuple[ClipGrounding, ...]:
    """The groundings of each clip. similarity: (O, S), the cosines of objects of texts and sightings."""
    graphs, similarity = graphs.to("cpu"), similarity.float().cpu()
    texts, videos, T = graphs.texts, graphs.videos, graphs.frames
    K, frame = graphs.there.shape[1], videos.frame[videos.sighting]
    of, place = videos.track_clip[videos.track], videos.track_place[videos.track]
    table = torch.full((len(texts.object), K, T), torch.nan)
    clip = texts.clip[texts.object]
    for number in range(len(clip)):
        mine = of == clip[number]
        table[number, place[mine], frame[mine] % T] = similarity[number, mine]
    tracks = [
        tuple(videos.number[track] for track in own[there].tolist())
        for own, there in zip(graphs.candidate, graphs.there, strict=True)
    ]
    objects: list[dict[int, Tensor]] = [{} for _ in tracks]
    for number, node in enumerate(texts.object.tolist()):
        own = int(clip[number])
        objects[own][texts.id[node]] = table[number, : len(tracks[own])]
    predicates: list[dict[int, PredicateGrounding]] = [{} for _ in tracks]
    score = candidates.score.float().cpu().masked_fill(~candidates.own.cpu(), -torch.inf)
    start, end = candidates.start.cpu(), candidates.end.cpu()
    for number, node in enumerate(texts.predicate.tolist()):
        if not score[number].isfinite().any():
            continue
        pair = int(score[number].amax(1).argmax())
        interval = best_interval(score[number, pair], start, end)
        own = int(texts.clip[node])
        places = (int(graphs.pairs.subject[pair]), int(graphs.pairs.target[pair]))
        about = tuple(tracks[own][k] for k in places if k >= 0)
        value = float(score[number, pair, interval])
        predicates[own][texts.id[node]] = PredicateGrounding(about, int(start[interval]), int(end[interval]), value)
    return tuple(map(ClipGrounding, tracks, objects, predicates))


def best_interval(score: Tensor, start: Tensor, end: Tensor) -> int:
    """The interval over which the scores of single frames exceed their mean by the largest sum, as a place in `start`.

    score: (I,) of the intervals [start, end) of frames, -inf where there is no region. A frame without one counts like
    the lowest frame, and no interval begins or ends with it.
    """
    frames = score[end - start == 1]
    seen = frames.isfinite()
    frames = frames.where(seen, frames[seen].min())
    running = F.pad((frames - frames[seen].mean()).cumsum(0), (1, 0))
    return int((running[end] - running[start]).where(seen[start] & seen[end - 1], -torch.inf).argmax())
