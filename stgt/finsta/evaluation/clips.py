"""The clips that a host and Finsta are measured on, and their frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from stgt.data.loader import parts, read_batches
from stgt.data.samples import VideoDataset, collate
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.hosts.folders import HostFolder


def one_clip_per_video(graphs: Iterable[ClipGraphs]) -> list[ClipGraphs]:
    """The first clip of each video that has a text. Raises ValueError if there is none."""
    found: dict[str, ClipGraphs] = {}
    for clip in graphs:
        if clip.video and clip.text:
            found.setdefault(clip.video, clip)
    if not found:
        raise ValueError("the graphs hold no clip with a video and a text, expected at least one")
    return list(found.values())


class Frames:
    """The frames of clips as a host takes them: batches of (B, T, 3, S, S) float32, and of their times (B, T).

    They are decoded anew each time. An iteration raises VideoError for a video that cannot be read.
    """

    def __init__(self, host: HostFolder, clips: Sequence[ClipGraphs], videos: Path, batch_size: int) -> None:
        names, data = [clip.video for clip in clips], host.data
        self._clips = VideoDataset(names, videos, frames=data.frames, transform=host.transform, decoding=data.decoding)
        self._batches = parts(len(names), batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in read_batches(self._clips, self._batches, workers=0, collate=collate):
            yield batch["video"], batch["times"]
