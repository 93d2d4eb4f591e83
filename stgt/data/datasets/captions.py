"""Clips from pairs of a video and a caption, as the readers of data sets collect them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from stgt.data.entries import Clip
from stgt.data.lines import read_lines
from stgt.data.names import name_of

logger = logging.getLogger(__name__)

# A part of a path that is empty, or that is an ending alone.
_NAMELESS = re.compile(r"(^|/)\s*(/|$|\.\w*$)")


def group(path: Path, pairs: Iterable[tuple[str, str]]) -> list[Clip]:
    """The clips of (video, caption) pairs, in the order in which the videos first occur.

    Raises ValueError, naming `path` and the video, for an empty caption, and for a video without a name or in a folder
    without one.
    """
    captions: dict[str, list[str]] = {}
    for video, caption in pairs:
        if _NAMELESS.search(video):
            raise ValueError(f"{path}: a video is {video!r}, expected names for it and for its folders")
        if not caption.strip():
            raise ValueError(f"{path}: {video} has an empty caption, expected a text")
        captions.setdefault(video, []).append(caption.strip())
    return [Clip(video, tuple(texts)) for video, texts in captions.items()]


def without_empty(path: Path, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The pairs whose caption is not empty; the log tells how many are left out."""
    empty = 0
    for video, caption in pairs:
        if caption.strip():
            yield video, caption
        else:
            empty += 1
    if empty:
        logger.warning("%s: %d captions are empty and were left out", path, empty)


def listed(path: Path, clips: list[Clip]) -> list[Clip]:
    """The clips that a text file names, one a line, in its order.

    A line is a clip's exact name, or its name without the ending. Raises ValueError, naming the file and the line, for
    a name that occurs twice, has no caption or fits several clips.
    """
    exact = {clip.video: clip for clip in clips}
    named: dict[str, list[Clip]] = {}
    for clip in clips:
        named.setdefault(name_of(clip.video), []).append(clip)
    found: dict[str, Clip] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not (name := name_of(line.strip())):
            continue
        fitting = [exact[line.strip()]] if line.strip() in exact else named.get(name, [])
        if name in found or len(fitting) != 1:
            if name in found:
                fault = "is there twice"
            else:
                fault = f"is {' or '.join(clip.video for clip in fitting)}" if fitting else "has no caption"
            raise ValueError(f"{path}: {name} in line {number} {fault}, expected each captioned video once")
        found[name] = fitting[0]
    return list(found.values())
