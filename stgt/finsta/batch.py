"""A batch of scene graphs as index tensors, as the Finsta model takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.holistic import Holistic, holistic_nodes
from stgt.finsta.batching.pairs import Pairs, pairs_of
from stgt.finsta.batching.texts import Texts, text_nodes
from stgt.finsta.batching.videos import Videos, video_nodes
from stgt.finsta.batching.words import Labels
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import ClipGraphs
from stgt_kernels import RaggedGraph


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """The graphs of B clips with T frames each. K is the most tracks that a clip has, and at least 1."""

    clips: int
    frames: int
    labels: tuple[str, ...]
    """n distinct texts. The model needs a vector for each of them"""
    texts: Texts
    videos: Videos
    holistic: Holistic
    pairs: Pairs
    candidate: Tensor
    """(B, K) int64, the tracks of each clip, or 0 where a clip has fewer"""
    there: Tensor
    """(B, K) bool, whether a clip has a track at this place"""
    alike: Tensor
    """(O, K) bool, whether an object of a text and a track of its clip have the same label and attributes"""
    complete: Tensor
    """(C,) int64, the clips that have nodes in the text and in the video"""

    @classmethod
    def of(cls, clips: Sequence[ClipGraphs], times: Tensor, offsets: Tensor, config: FinstaConfig) -> GraphBatch:
        """The batch of some clips, on the CPU.

        Each of the host's frames gets the graph of the clip's nearest frame in time. A clip may lack one of its
        graphs or both. `config` decides which nodes and edges there are, so the model has to have the same one.

        clips: B clips. times: (B, T), seconds of the host's frames. offsets: (B, L, 2), the characters [start, end)
        of the clip's text that each word of the host stands for, as in `HostStates`.
        Raises ValueError if times or offsets have another shape.
        """
        B = len(clips)
        if times.ndim != 2 or len(times) != B or not times.shape[1]:
            raise ValueError(f"times is {tuple(times.shape)}, expected (B, T) with B={B} clips and at least 1 frame")
        if offsets.ndim != 3 or len(offsets) != B or offsets.shape[2] != 2:
            raise ValueError(f"offsets is {tuple(offsets.shape)}, expected (B, L, 2) with B={B} clips")
        labels, T = Labels(), times.shape[1]
        texts = text_nodes([clip.tsg for clip in clips], offsets.cpu().numpy(), labels, config.hops, config.adverbs)
        videos = video_nodes([clip.dsg for clip in clips], times.cpu().numpy(), labels, config)
        of_clip: list[list[int]] = [[] for _ in range(B)]
        for track, clip in enumerate(videos.track_clip.tolist()):
            of_clip[clip].append(track)
        K = max(map(len, of_clip), default=0) or 1
        candidate, there = np.zeros((B, K), np.int64), np.zeros((B, K), bool)
        for clip, tracks in enumerate(of_clip):
            candidate[clip, : len(tracks)], there[clip, : len(tracks)] = tracks, True
        alike = np.zeros((len(texts.phrases), K), bool)
        for number, clip in enumerate(texts.clip[texts.object].tolist()):
            for k, track in enumerate(of_clip[clip]):
                alike[number, k] = texts.phrases[number] == videos.phrases[track]
        text_nodes_of = torch.bincount(texts.clip, minlength=B)
        video_nodes_of = torch.bincount(videos.frame // T, minlength=B)
        return cls(
            clips=B,
            frames=T,
            labels=labels.texts,
            texts=texts,
            videos=videos,
            holistic=holistic_nodes(texts, videos, B, T, K, config.crossmodal_coref),
            pairs=pairs_of(videos, T, config.pairs),
            candidate=torch.from_numpy(candidate),
            there=torch.from_numpy(there),
            alike=torch.from_numpy(alike),
            complete=((text_nodes_of > 0) & (video_nodes_of > 0)).nonzero()[:, 0],
        )

    def to(self, device: torch.device | str) -> GraphBatch:
        """The batch with its tensors on another device."""
        return _moved(self, device)


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor | RaggedGraph):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value
