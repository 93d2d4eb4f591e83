"""Names of video and image files: their endings, and their names without folder and ending."""

from __future__ import annotations

import os
import re
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Endings of numbers alone, such as .264 and .265, are left out: the names of LSMDC's clips end with milliseconds.
VIDEOS = (
    ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc",
    ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
)  # fmt: skip
# Some names in DiDeMo end with a dot, after which the ending was lost.
_ENDING = re.compile(f"({'|'.join(map(re.escape, (*VIDEOS, *IMAGES, '.')))})$", re.IGNORECASE)


def name_of(video: str) -> str:
    """A file's name without folder and ending, see `without_ending`."""
    return without_ending(video.rpartition("/")[2])


def without_ending(video: str) -> str:
    """A file's path without its ending. Only known endings are cut off: LSMDC's names have dots of their own."""
    return _ENDING.sub("", video)


def plain(video: str) -> str:
    """The path by which names are compared: ./a.mp4, b/../a.mp4 and .//a.mp4 all name a.mp4."""
    return os.path.normpath(video)


def is_image(video: str) -> bool:
    """Whether a name is that of an image. One without an ending is, because the usual downloader of CC3M gives none."""
    return Path(video).suffix.lower() in (*IMAGES, "")
