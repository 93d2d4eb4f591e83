"""The facts about a published data set: the readers of its files, and the sizes of its splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stgt.data.entries import Clip, Question

SPLITS = ("train", "val", "test")


class Size(NamedTuple):
    """One published size of a split."""

    name: str
    """Who published this size"""
    videos: int | None
    """Number of videos; None if it is not checked"""
    texts: int | None = None
    """Number of captions or questions; None if it is not checked"""

    def __str__(self) -> str:
        counts = ((self.videos, "videos"), (self.texts, "captions or questions"))
        return f"{' and '.join(f'{count} {what}' for count, what in counts if count is not None)} ({self.name})"

    def fits(self, entries: Sequence[Clip] | Sequence[Question]) -> bool:
        videos, texts = count(entries)
        return self.videos in (None, videos) and self.texts in (None, texts)


class DataSet(NamedTuple):
    """A published data set, as `stgt data convert` needs it."""

    read: Callable[[Path], dict[str, list[Clip]]] | Callable[[Path], dict[str, list[Question]]]
    """Reads the downloaded files in a folder; returns the clips or questions of each split.

    Raises ValueError, naming the file and the place, for files that are missing or malformed.
    """
    sizes: dict[str, tuple[Size, ...]] = {}
    """Every published size of each split; empty where everybody can fetch only some of the videos"""
    questions: bool = False
    """Whether it holds questions; otherwise it holds captions"""
    images: bool = False
    """Whether its files are images; for a set of videos, images beside them (thumbnails) are passed over"""


def count(entries: Sequence[Clip] | Sequence[Question]) -> tuple[int, int]:
    """The number of videos, and the number of captions or questions."""
    texts = sum(len(entry.captions) if isinstance(entry, Clip) else 1 for entry in entries)
    return len({entry.video for entry in entries}), texts
