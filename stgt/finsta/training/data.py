"""The clips of a post-training: videos with their texts and scene graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.data.samples import PairDataset
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.graphs.lines import read_graphs
from stgt.structure import shown


class Clips(NamedTuple):
    """A batch of B clips, on the device that computes."""

    videos: Tensor
    """float32 (B, T, 3, S, S)"""
    times: Tensor
    """float64 (B, T), seconds"""
    numbers: Tensor
    """int64 (B,), a number for each video"""
    graphs: list[ClipGraphs]

    @property
    def texts(self) -> list[str]:
        return [clip.text for clip in self.graphs]


class GraphDataset(PairDataset):
    """Pairs of a video and its scene graphs; item i is a clip with "video", "times", "video_index" and "graphs".

    options: further arguments of PairDataset.
    """

    def __init__(self, file: Path, clips: Sequence[ClipGraphs], root: Path, **options: object) -> None:
        super().__init__(file, [(clip.video, [clip]) for clip in clips], root, train=True, **options)

    def said(self, text: ClipGraphs) -> dict:
        """The entry of an item that holds the clip's text and graphs."""
        return {"graphs": text}


def read_clips(file: Path) -> list[ClipGraphs]:
    """The clips of a file of scene graphs. Raises ValueError that names a clip without a text or one of its graphs."""
    clips = list(read_graphs(file))
    for number, clip in enumerate(clips, start=1):
        if missing := [name for name in ("text", "tsg", "dsg") if not getattr(clip, name)]:
            raise ValueError(
                f"{file}: clip {number} ({shown(clip.video)}) has no {missing[0]!r}, expected a text and both graphs, "
                "as `stgt finsta graphs captions` makes them with --parse and --detect"
            )
    if not clips:
        raise ValueError(f"{file}: there is no clip in it, expected at least one")
    return clips


def shuffled(clips: Sequence[ClipGraphs], seed: int) -> list[ClipGraphs]:
    """The clips, where each video has the graph of another video. Raises ValueError if there is only one video."""
    graphs = {clip.video: clip.dsg for clip in clips}
    names = list(graphs)
    if len(names) < 2:
        raise ValueError("the clips are about one video, expected at least two videos that can exchange their graphs")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    other = {names[a]: graphs[names[b]] for a, b in zip(order, order[1:] + order[:1], strict=True)}
    return [dataclasses.replace(clip, dsg=other[clip.video], grounding=()) for clip in clips]


def labels_of(clip: ClipGraphs) -> set[str]:
    """The labels and attributes of the objects that a clip shows."""
    things = [thing for frame in clip.dsg.frames for thing in frame.objects] if clip.dsg else []
    return {thing.label for thing in things} | {attribute for thing in things for attribute in thing.attributes}
