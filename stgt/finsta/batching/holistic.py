"""The holistic scene graphs of a batch (HSG) as index tensors: the text's nodes beside those of each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.bags import Bags
from stgt.finsta.batching.edges import both_ways, ragged
from stgt.finsta.batching.texts import Texts
from stgt.finsta.batching.videos import Videos
from stgt_kernels import RaggedGraph


@dataclass(frozen=True, eq=False)
class Holistic:
    """N nodes: for each frame of each clip, a copy of each node of the text, and then the nodes of the frame.

    Every object of a text has edges to all sightings in its clip and back. The model keeps those of the tracks that
    the object is about.
    """

    source: Tensor
    """(N,) int64, places in the nodes of all texts followed by those of all videos"""
    slot: Tensor
    """(N,) int64, the place of each node among B · T frames with `most` nodes"""
    most: int
    graph: RaggedGraph
    coreference: Tensor
    """(C,) int64, which pair of an object of a text and a track the last C edges belong to: object · most tracks +
    the track's place in its clip"""
    sighting: Tensor
    """(S,) int64, the nodes that are sightings"""
    text: Bags
    """The mean over the frames of each node of the texts"""
    read_out: Bags
    """(B), the mean of each clip's nodes"""


def holistic_nodes(texts: Texts, videos: Videos, clips: int, T: int, tracks: int, coreference: bool) -> Holistic:
    """The holistic graphs of a batch of `clips` clips with T frames.

    tracks: the most tracks of a clip. coreference: whether texts and videos are joined by edges.
    """
    clip, frame = texts.clip.numpy(), videos.frame.numpy()
    own = np.bincount(clip, minlength=clips)
    seen = np.bincount(frame, minlength=clips * T)
    sizes = np.repeat(own, T) + seen
    first = np.cumsum(sizes) - sizes
    rank = np.arange(len(clip)) - (np.cumsum(own) - own)[clip]
    copies = first.reshape(clips, T)[clip] + rank[:, None]  # (text nodes, T)
    place = first[frame] + own[frame // T] + np.arange(len(frame)) - (np.cumsum(seen) - seen)[frame]
    source = np.zeros(sizes.sum(), np.int64)
    source[copies] = np.arange(len(clip))[:, None]
    source[place] = len(clip) + np.arange(len(frame))
    edges = [_moved(texts.graph, copies), _moved(videos.graph, place[:, None])]
    pair = np.zeros(0, np.int64)
    sighting = place[videos.sighting.numpy()]
    if coreference:
        thing, seen_at = _candidates(texts, videos, T, clips)
        node, at = texts.object.numpy()[thing], frame[videos.sighting.numpy()][seen_at]
        edges.append(both_ways(copies[node, at % T], sighting[seen_at], "text to video", "video to text"))
        pair = np.tile(thing * tracks + videos.track_place.numpy()[videos.track.numpy()[seen_at]], 2)
    of_frame = np.repeat(np.arange(len(sizes)), sizes)
    most = int(sizes.max(initial=1))
    return Holistic(
        source=torch.from_numpy(source),
        slot=torch.from_numpy(of_frame * most + np.arange(len(source)) - first[of_frame]),
        most=most,
        graph=ragged(np.concatenate(edges, axis=1), of_frame // T),
        coreference=torch.from_numpy(pair),
        sighting=torch.from_numpy(sighting),
        text=Bags.of(copies.flatten(), None, np.repeat(np.arange(len(clip)), T), len(clip)),
        read_out=Bags.of(np.arange(len(source)), None, of_frame // T, clips),
    )


def _moved(graph: RaggedGraph, nodes: np.ndarray) -> np.ndarray:
    """The edges of a graph between other nodes; nodes: (N, copies), the nodes that each node of the graph becomes."""
    edges, kind = graph.to_edge_index().numpy(), graph.edge_type
    assert kind is not None
    source, target = nodes[edges[0]], nodes[edges[1]]
    kinds = np.broadcast_to(kind.numpy()[:, None], source.shape)
    return np.stack([source.flatten(), target.flatten(), kinds.flatten().astype(np.int64)])


def _candidates(texts: Texts, videos: Videos, T: int, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Every object of a text with every sighting in its clip: places in `texts.object` and `videos.sighting`."""
    clip = texts.clip.numpy()[texts.object.numpy()]
    seen = videos.frame.numpy()[videos.sighting.numpy()] // T
    count = np.bincount(seen, minlength=clips)
    each = count[clip]
    thing = np.repeat(np.arange(len(clip)), each)
    start = (np.cumsum(count) - count)[clip]
    within = np.arange(len(thing)) - np.repeat(np.cumsum(each) - each, each)
    return thing, np.repeat(start, each) + within
