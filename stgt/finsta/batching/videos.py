"""The dynamic scene graphs of a batch (DSG) as index tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.bags import Bags
from stgt.finsta.batching.edges import TYPES, as_edges, both_ways, neighbourhoods, ragged, with_inverses
from stgt.finsta.batching.space import Space, space_of
from stgt.finsta.batching.words import Labels
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import KINDS, Frame, VideoGraph
from stgt_kernels import RaggedGraph

_OBJECT, _ATTRIBUTE, _PREDICATE = (KINDS.index(kind) for kind in ("object", "attribute", "predicate"))


@dataclass(frozen=True, eq=False)
class Videos:
    """N nodes of B clips' videos with T frames, frame after frame; S of them are sightings of R tracks."""

    frame: Tensor
    """(N,) int64, clip · T + frame"""
    kind: Tensor
    """(N,) int64, places in KINDS"""
    label: Tensor
    """(N,) int64, the number of the node's words"""
    box: Tensor
    """(N, 4) float32: x0, y0, x1, y1 from 0 to 1. A relation has the smallest box around its one or two objects"""
    slot: Tensor
    """(N,) int64, the place of each node among B · T frames with `most` nodes"""
    most: int
    graph: RaggedGraph
    read_out: Bags
    """(B), the mean over frames of the mean of the frame's nodes"""
    sighting: Tensor
    """(S,) int64, nodes"""
    track: Tensor
    """(S,) int64, places among the R tracks"""
    region: Bags
    """(S), the mean of the nodes around each object, in its frame"""
    space: Space
    """How the sightings lie and move"""
    phrase: Bags
    """(R), the mean of the labels and attributes that a track has most often"""
    track_clip: Tensor
    """(R,) int64"""
    track_place: Tensor
    """(R,) int64, the place of each track among its clip's tracks"""
    number: tuple[int, ...]
    """R numbers that tracks have in their own graphs"""
    phrases: tuple[frozenset[int], ...]
    """R sets of labels, as in `phrase`"""
    relations: np.ndarray
    """(3, P) node, and its subject and object as places among the tracks, or -1"""


@dataclass
class _Draft:
    """Lists that grow from frame to frame."""

    kind: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    box: list[tuple[float, ...]] = field(default_factory=list)
    edges: list[tuple[int, int, int]] = field(default_factory=list)
    sighting: list[int] = field(default_factory=list)
    track: list[int] = field(default_factory=list)
    relations: list[tuple[int, int, int]] = field(default_factory=list)

    def node(self, kind: int, label: int, box: tuple[float, ...]) -> int:
        self.kind.append(kind)
        self.label.append(label)
        self.box.append(box)
        return len(self.kind) - 1


def video_nodes(graphs: Sequence[VideoGraph | None], times: np.ndarray, labels: Labels, config: FinstaConfig) -> Videos:
    """The index tensors of the videos' graphs, of which some may be missing (None).

    times: (B, T) seconds of the host's frames. Each gets the graph of the nearest frame in time.
    """
    draft, T = _Draft(), times.shape[1]
    sizes, around = np.zeros(times.size, np.int64), []
    tracks: list[tuple[int, int, int]] = []
    phrases: list[list[int]] = []
    for clip, graph in enumerate(graphs):
        if graph is None or not graph.frames:
            continue
        moments = np.array([frame.t for frame in graph.frames])
        chosen = np.abs(moments - times[clip, :, None]).argmin(1)
        frames = [graph.frames[number] for number in chosen.tolist()]
        place = {track: len(tracks) + k for k, track in enumerate(sorted({o.track for f in frames for o in f.objects}))}
        tracks += [(clip, number, k) for k, number in enumerate(place)]
        phrases += _phrases(frames, place, labels)
        begun, kept, known = len(draft.kind), len(draft.edges), len(draft.sighting)
        for t, frame in enumerate(frames):
            first = len(draft.kind)
            _add(draft, frame, place, labels)
            sizes[clip * T + t] = len(draft.kind) - first
        local = as_edges(draft.edges[kept:])
        local[:2] -= begun
        own = np.repeat(np.arange(T), sizes[clip * T : clip * T + T])
        centres = np.array(draft.sighting[known:], np.int64) - begun
        row, weight, centre = neighbourhoods(local, own, centres, config.hops)
        around.append(np.stack([row + begun, weight, centre + known]))
    frame = np.repeat(np.arange(len(sizes)), sizes)
    first, most = np.cumsum(sizes) - sizes, int(sizes.max(initial=1))
    row, weight, bag = np.concatenate([np.zeros((3, 0)), *around], axis=1)
    sighting, box = np.array(draft.sighting, np.int64), np.array(draft.box, np.float64).reshape(-1, 4)
    track = np.array(draft.track, np.int64)
    space = space_of(box[sighting], frame[sighting], track, T, config)
    edges = with_inverses(as_edges(draft.edges), len(frame))
    if config.temporal_coref:
        again = np.flatnonzero(space.previous.numpy() != np.arange(len(sighting)))
        before = sighting[space.previous.numpy()[again]]
        edges = np.concatenate([edges, both_ways(before, sighting[again], "next", "previous")], axis=1)
    clip = frame // T
    filled = np.bincount(np.flatnonzero(sizes) // T, minlength=len(times))
    whole = torch.from_numpy
    return Videos(
        frame=whole(frame),
        kind=torch.tensor(draft.kind, dtype=torch.int64),
        label=torch.tensor(draft.label, dtype=torch.int64),
        box=whole(box.astype(np.float32)),
        slot=whole(frame * most + np.arange(len(frame)) - first[frame]),
        most=most,
        graph=ragged(edges, clip),
        read_out=Bags.of(np.arange(len(frame)), 1.0 / (sizes[frame] * filled[clip]), clip, len(times)),
        sighting=whole(sighting),
        track=whole(track),
        region=Bags.of(row, weight, bag.astype(np.int64), len(sighting)),
        space=space,
        phrase=Bags.means(phrases),
        track_clip=torch.tensor([clip for clip, _, _ in tracks], dtype=torch.int64),
        track_place=torch.tensor([place for _, _, place in tracks], dtype=torch.int64),
        number=tuple(number for _, number, _ in tracks),
        phrases=tuple(map(frozenset, phrases)),
        relations=np.array(draft.relations, np.int64).reshape(-1, 3).T,
    )


def _phrases(frames: list[Frame], place: dict[int, int], labels: Labels) -> list[list[int]]:
    """The labels of each track: of its sightings, the words that are found most often, or first among equals."""
    said: dict[int, Counter[tuple[str, ...]]] = {track: Counter() for track in place}
    for frame in frames:
        for one in frame.objects:
            said[one.track][(one.label, *sorted(one.attributes))] += 1
    return [[labels.number(text) for text in dict.fromkeys(words.most_common(1)[0][0])] for words in said.values()]


def _add(draft: _Draft, frame: Frame, place: dict[int, int], labels: Labels) -> None:
    """Add the nodes and edges of a frame."""
    there: dict[int, int] = {}
    boxes = {one.track: one.box for one in frame.objects}
    for one in frame.objects:
        node = there[one.track] = draft.node(_OBJECT, labels.number(one.label), one.box)
        draft.sighting.append(node)
        draft.track.append(place[one.track])
        for attribute in one.attributes:
            draft.edges.append((node, draft.node(_ATTRIBUTE, labels.number(attribute), one.box), TYPES["attribute"]))
    for subject, predicate, other, _ in frame.relations:
        box = boxes[subject] if other is None else _around(boxes[subject], boxes[other])
        node = draft.node(_PREDICATE, labels.number(predicate), box)
        draft.edges.append((node, there[subject], TYPES["subject"]))
        if other is not None:
            draft.edges.append((node, there[other], TYPES["object"]))
        draft.relations.append((node, place[subject], -1 if other is None else place[other]))


def _around(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))
