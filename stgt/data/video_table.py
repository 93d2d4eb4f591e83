"""The table of the videos of a feature cache and their rows. Its file is mapped into memory and has 24 bytes a video.

A video is known by its place: the name of its file or, in a tar shard, the shard with the offset and size of its bytes.
The table holds a digest of each place and is sorted by it, so no process that reads has to hold ten million names.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from stgt.files import atomic_file

_WIDTH = 16  # bytes of a digest; two of 10^7 places agree with a probability of 10^-25
_PART = 1 << 16  # places that are in memory at a time


class VideoTable:
    """The digests of places with the row of each (`columns`). It is sent to other processes as a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped: np.ndarray | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_mapped": None}

    def __len__(self) -> int:
        return self.contents.size // (_WIDTH + 8)

    @property
    def contents(self) -> np.ndarray:
        """The bytes of the table, uint8 (n,), as `distinct` makes them."""
        if self._mapped is None:
            self._mapped = np.asarray(np.load(self.path, mmap_mode="r"))
        return self._mapped

    def find(self, digests: np.ndarray) -> np.ndarray:
        """The rows of videos with these digests, S16 (n,) → int64 (n,), −1 for a video that the table lacks."""
        known, rows = columns(self.contents)
        at = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        return np.where(known[at] == digests, rows[at], -1)

    def row(self, place: str) -> int:
        """The row of a video, or −1 if the table lacks it."""
        return int(self.find(digests_of([place]))[0])

    def first_absent(self, places: Iterable[str]) -> int | None:
        """The number of the first place that the table lacks, or None. Only a part of the places is in memory."""
        start = 0
        for digests in _parts(places):
            absent = np.flatnonzero(self.find(digests) < 0)
            if absent.size:
                return start + int(absent[0])
            start += len(digests)
        return None


def columns(contents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a table's bytes: digests in ascending order, S16 (videos,), and their rows, int64 (videos,)."""
    end = contents.size // (_WIDTH + 8) * _WIDTH
    return contents[:end].view(f"S{_WIDTH}"), contents[end:].view("<i8")


def distinct(places: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The places without repetitions, in the order in which they first appear.

    Returns the bytes of a table, uint8 (n,), and the number of the first place of each of its rows, int64 (videos,).
    """
    digests = np.concatenate([*_parts(places)])
    digests, first = np.unique(digests, return_index=True)
    chosen = np.sort(first)
    rows = np.searchsorted(chosen, first).astype("<i8")
    return np.concatenate([digests.view(np.uint8), rows.view(np.uint8)]), chosen


def write_table(path: Path, contents: np.ndarray) -> None:
    """Write what `distinct` returned, completely or not at all."""
    with atomic_file(path) as partial:
        np.save(partial, contents)


def _parts(places: Iterable[str]) -> Iterator[np.ndarray]:
    rest = iter(places)
    while part := list(itertools.islice(rest, _PART)):
        yield digests_of(part)


def digests_of(places: Iterable[str]) -> np.ndarray:
    """The digest of each text: S16 (n,)."""
    hashes = (hashlib.blake2b(place.encode("utf-8", "surrogateescape"), digest_size=_WIDTH) for place in places)
    return np.frombuffer(b"".join(each.digest() for each in hashes), f"S{_WIDTH}")
