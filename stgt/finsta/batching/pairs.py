"""The tracks that predicates may be about: one track, or a subject and an object, in each frame that shows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.bags import Bags
from stgt.finsta.batching.videos import Videos


@dataclass(frozen=True, eq=False)
class Pairs:
    """Q pairs of tracks: each track alone, and the two ways round of any two tracks that have a relation."""

    clip: Tensor
    """(Q,) int64"""
    subject: Tensor
    """(Q,) int64, the place of the subject's track among its clip's tracks"""
    target: Tensor
    """(Q,) int64, the place of the object's track among its clip's tracks, or -1 if the pair is a track alone"""
    node: Bags
    """(Q · T), the nodes of a pair in a frame: places in the sightings as subjects, followed by the sightings as
    objects, followed by the relations. Empty where the pair is not seen"""
    count: Tensor
    """(Q, T) float32, the nodes of a pair in a frame"""
    relation: Tensor
    """(P,) int64, the nodes of relations"""


def pairs_of(videos: Videos, T: int, most: int) -> Pairs:
    """The pairs of a batch of clips with T frames. most: the most pairs of a clip; those that are seen in most
    frames are kept.
    """
    sighting, track = videos.sighting.numpy(), videos.track.numpy()
    frame = videos.frame.numpy()
    at: dict[int, dict[int, int]] = {}
    for number, (node, own) in enumerate(zip(sighting.tolist(), track.tolist(), strict=True)):
        at.setdefault(own, {})[int(frame[node])] = number
    related = {(s, o) for _, s, o in videos.relations.T.tolist() if o >= 0 and s != o}
    joined = related | {(o, s) for s, o in related}
    together = {(own, -1): sorted(frames) for own, frames in at.items()}
    for s, o in joined:
        if shared := sorted(at[s].keys() & at[o].keys()):
            together[s, o] = shared
    clip_of = videos.track_clip.tolist()
    order = sorted(together, key=lambda pair: (clip_of[pair[0]], -len(together[pair]), pair))
    taken: Counter[int] = Counter()
    kept = []
    for pair in order:
        clip = clip_of[pair[0]]
        if taken[clip] < most:
            taken[clip] += 1
            kept.append(pair)
    S = len(sighting)
    place = {pair: number for number, pair in enumerate(kept)}
    row, bag = [], []
    for number, (s, o) in enumerate(kept):
        for f in together[s, o]:
            row.append(at[s][f])
            bag.append(number * T + f % T)
            if o >= 0:
                row.append(S + at[o][f])
                bag.append(number * T + f % T)
    for number, (node, s, o) in enumerate(videos.relations.T.tolist()):
        for pair in ((s, o), (o, s)) if o >= 0 else ((s, -1),):
            if pair in place:
                row.append(2 * S + number)
                bag.append(place[pair] * T + int(frame[node]) % T)
    count = np.bincount(np.array(bag, np.int64), minlength=len(kept) * T)
    local = [*videos.track_place.tolist(), -1]
    return Pairs(
        clip=torch.tensor([clip_of[s] for s, _ in kept], dtype=torch.int64),
        subject=torch.tensor([local[s] for s, _ in kept], dtype=torch.int64),
        target=torch.tensor([local[o] for _, o in kept], dtype=torch.int64),
        node=Bags.of(np.array(row, np.int64), np.ones(len(row)), np.array(bag, np.int64), len(kept) * T),
        count=torch.from_numpy(count.astype(np.float32)).view(len(kept), T),
        relation=torch.from_numpy(videos.relations[0].copy()),
    )
