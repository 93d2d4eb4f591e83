"""The rate and the size of a video's frames, for annotations that leave them out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stgt.data.video import MAX_PIXELS, read_clip
from stgt.data.video_file import VideoFile


class Facts(NamedTuple):
    """Properties of a video as it is shown."""

    rate: float
    """Frames per second"""
    width: int
    height: int


def facts_of(video: str, videos: Path | None, missing: str, where: str) -> Facts:
    """The facts about a video in the folder `videos`.

    missing: the name of the fact that the annotations leave out, for the error. Raises ValueError that begins with
    `where` if there is no folder, and VideoError for a file that cannot be read.
    """
    if videos is None:
        raise ValueError(f"{where}: {missing} of {video} is not in it, expected the folder of the videos (--videos)")
    path = videos / video
    with VideoFile(path, max_pixels=MAX_PIXELS, deadline=None) as file:
        rate = file.rate
    if not rate:
        raise ValueError(f"{path}: its frame rate is unknown, expected a video with one")
    height, width = read_clip(path, 1).frames.shape[1:3]
    return Facts(rate, width, height)
