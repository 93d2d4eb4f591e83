"""Text, JSON and videos as people have them. Whatever is wrong with a file is a ValueError that names it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from stgt.data.folders import find_files

logger = logging.getLogger(__name__)

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VIDEOS = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm",
    ".wmv", ".wtv", ".y4m",
)  # fmt: skip
# Some names in DiDeMo end with a dot, after which the ending was lost.
_ENDING = re.compile(f"({'|'.join(map(re.escape, (*VIDEOS, *IMAGES, '.')))})$", re.IGNORECASE)


def name_of(video: str) -> str:
    """A video's or image's name without folder and ending; LSMDC's names have dots of their own."""
    return _ENDING.sub("", video.rpartition("/")[2])


def is_image(video: str) -> bool:
    """Whether a file is a picture by its ending; CC3M's have none where the usual downloader saved them."""
    return Path(video).suffix.lower() in (*IMAGES, "")


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text in UTF-8, each with its end."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}: line {number} is not UTF-8 ({error}), expected text in UTF-8") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, expected a file") from None


def nameable_files(folder: Path, endings: Sequence[str], *, without_ending: bool = False) -> list[str]:
    """The files that `find_files` finds and an annotation, which is text in UTF-8, can name; the log lists others."""
    found = find_files(folder, endings, without_ending=without_ending)
    for path, cause in found.faults.items():
        logger.warning("left out, %s: %s", folder / path, cause)
    nameable = [path for path in found.files if path == path.encode("utf-8", "replace").decode()]
    for path in sorted(set(found.files) - set(nameable)):
        logger.warning("left out, %s: the name is not UTF-8, expected one that an annotation can hold", folder / path)
    return nameable


class VideoFolder:
    """Which file a data set's video or image is, in whatever subfolder and container it was saved."""

    def __init__(self, root: str | Path, *, images: bool = False) -> None:
        """images: whether the data set is one of images; those of another, such as thumbnails, are no videos.

        Raises ValueError if `root` is no folder.
        """
        self.root, self.images = Path(root), images
        if not self.root.is_dir():
            raise ValueError(f"{root}: no such folder, expected one that holds the {'images' if images else 'videos'}")

    def find(self, video: str) -> str | None:
        """The path below the folder: `video` itself, else the one file of that name; None if there is none.

        DiDeMo's own downloader adds an ending to the whole name, so that a.mov may be the file a.mov.mp4.
        Raises ValueError if different files have the name.
        """
        if os.path.isfile(self.root / video):
            return video
        found = self._named.get(video.rpartition("/")[2]) or self._named.get(name_of(video), [])
        if len({os.path.realpath(self.root / path) for path in found}) > 1:
            raise ValueError(f"{self.root} holds {found[0]} and {found[1]} for {video}, expected one of them")
        return found[0] if found else None

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = {}
        for path in nameable_files(self.root, IMAGES if self.images else VIDEOS, without_ending=self.images):
            named.setdefault(name_of(path), []).append(path)
        return named
