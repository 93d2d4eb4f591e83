"""Finds the file of a data set's video in a folder, in any subfolder and container."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from stgt.data.folders import find_files
from stgt.data.names import IMAGES, VIDEOS, name_of

logger = logging.getLogger(__name__)


def nameable_files(folder: Path, endings: Sequence[str], *, without_ending: bool = False) -> list[str]:
    """The files that `find_files` finds and that an annotation, a text in UTF-8, can name. The log lists the others."""
    found = find_files(folder, endings, without_ending=without_ending)
    for path, cause in found.faults.items():
        logger.warning("left out, %s: %s", folder / path, cause)
    nameable = [path for path in found.files if path == path.encode("utf-8", "replace").decode()]
    for path in sorted(set(found.files) - set(nameable)):
        logger.warning("left out, %s: the name is not UTF-8, expected one that an annotation can hold", folder / path)
    return nameable


class VideoFolder:
    """A folder in which videos or images are looked up by their names."""

    def __init__(self, root: str | Path, *, images: bool = False) -> None:
        """images: whether images are looked up; otherwise only videos are, and thumbnails beside them do no harm.

        Raises ValueError if `root` is no folder.
        """
        self.root, self.images = Path(root), images
        if not self.root.is_dir():
            raise ValueError(f"{root}: no such folder, expected one that holds the {'images' if images else 'videos'}")

    def find(self, video: str) -> str | None:
        """The path below the folder: `video` itself, or else the one file of that name; None if there is none.

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
