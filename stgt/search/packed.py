"""The vectors of an index in safetensors files that are memory-mapped, so that opening them costs no time.

An index is a folder with a manifest and the files of vectors, called segments, that the manifest names. A change writes
a new segment first and then replaces the manifest, so that each reader sees the old index or the new one, complete.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stgt.extras import missing_package
from stgt.files import atomic_file, tensors_hash
from stgt.integrity import DamagedError
from stgt.search import approximate
from stgt.search.approximate import Approximate
from stgt.search.manifest import Film, Manifest, Segment
from stgt.search.ranking import best_rows, exact_scores, scores

logger = logging.getLogger(__name__)

DTYPE = torch.float16
"""Vectors are stored with 11 bits; the largest error of a cosine is about 0.0005."""


_OWN_NAME = re.compile(r"vectors-[0-9a-f]{16}\.(safetensors|faiss)")


def is_own_name(name: str) -> bool:
    """Whether a name is one that `write` and `publish` give to the files of an index beside the manifest."""
    return _OWN_NAME.fullmatch(name) is not None


class Rows(NamedTuple):
    """The windows of one file."""

    vectors: Tensor
    """float16 (W, Q, E), unit vectors"""
    times: Tensor
    """float64 (W, 2): start and end in seconds"""

    def sha256(self) -> str:
        """SHA-256 of both tensors."""
        return tensors_hash(self._asdict())


class OpenSegment:
    """A segment that is open for reading."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        """Raises FileNotFoundError, which has the path as its `filename`, and DamagedError for a damaged file."""
        self.path = folder / segment.vectors
        for name in filter(None, (segment.vectors, segment.groups)):
            if not (folder / name).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / name))
        try:
            with safe_open(self.path, "pt") as file:
                self.vectors, self.times = file.get_tensor("vectors"), file.get_tensor("times")
        except SafetensorError as error:
            raise DamagedError(f"{self.path}: {error}; remove {folder} and index again") from None
        if not len(self.vectors) == len(self.times) == segment.windows:
            raise DamagedError(f"{self.path}: holds {len(self.vectors)} windows, the manifest {segment.windows}")
        # It is opened at once, because a later update removes the file.
        self._groups = None
        if segment.groups:
            try:
                self._groups = Approximate(folder / segment.groups, *self.vectors.shape[:2])
            except DamagedError as error:
                _warn_of_exact(len(self.vectors), f"{error}; `stgt index --out {folder}` writes it again")
            except ModuleNotFoundError as error:
                _warn_of_exact(len(self.vectors), missing_package(error))
        self._live = torch.zeros(segment.windows, dtype=torch.bool)
        for film in segment.films:
            self._live[film.first : film.first + film.windows] = True

    def candidates(self, query: Tensor, count: int) -> Tensor:
        """The `count` rows of films with the highest scores, or all: int64 (n,); with faiss, those that it finds.

        Of equal rows, the first ones are taken, except with faiss.
        """
        if self._groups is None:
            found = scores(self.vectors, query).masked_fill(~self._live, -math.inf)
            return best_rows(found, min(count, int(self._live.sum())))
        asked = count
        while True:
            rows = self._groups.candidates(query, asked)
            live = rows[self._live[rows]]
            if len(live) >= count or len(rows) < asked:
                return live
            asked *= 2


class Packed:
    """An index that is open for reading. It stays what it is when the index is changed meanwhile.

    Its windows have numbers: those of the rows of all segments, one after the other.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if the folder is no index, and DamagedError if a file of it is damaged."""
        self._folder = folder
        while True:
            self.manifest = Manifest.load(folder)
            try:
                self._segments = [OpenSegment(folder, segment) for segment in self.manifest.segments]
            except FileNotFoundError as error:
                if Manifest.load(folder) == self.manifest:
                    raise DamagedError(f"{error.filename}: no such file; remove {folder} and index again") from None
                continue  # another command has just replaced it
            break
        ends = itertools.accumulate((segment.windows for segment in self.manifest.segments), initial=0)
        self._starts = list(ends)
        self._films, self._place = [], {}
        for segment, start, known in zip(self._segments, self._starts, self.manifest.segments, strict=False):
            for film in known.films:
                self._films.append(film)
                self._place[film.key] = segment, start + film.first
        self._firsts = [self.number(film) for film in self._films]
        by_path = sorted(range(len(self._films)), key=lambda at: self._films[at].path)
        self._bounds, self._ranks = torch.tensor(self._firsts[1:]), torch.tensor(by_path).argsort()
        self._sound: set[str] = set()

    @property
    def width(self) -> int:
        """The number of entries of a vector."""
        return self._segments[0].vectors.shape[2]

    def number(self, film: Film, row: int = 0) -> int:
        """The number of a window of a file."""
        return self._place[film.key][1] + row

    def film_of(self, number: int) -> tuple[Film, int]:
        """The file that a window belongs to, and the window's place in it."""
        film = self._films[bisect_right(self._firsts, number) - 1]
        return film, number - self.number(film)

    def holds(self, number: int) -> bool:
        """Whether a window has this number. Those of files that are no longer in the index have none."""
        if number < 0 or not self._films:
            return False
        film, row = self.film_of(number)
        return 0 <= row < film.windows

    def window(self, number: int) -> tuple[str, float, float]:
        """The key of a window's file, and the window's start and end in seconds."""
        film, row = self.film_of(number)
        return film.key, *self._place[film.key][0].times[film.first + row].tolist()

    def rows(self, film: Film) -> Rows:
        """The windows of a file. Raises DamagedError if they have changed since they were written."""
        segment, _ = self._place[film.key]
        part = slice(film.first, film.first + film.windows)
        rows = Rows(segment.vectors[part], segment.times[part])
        if film.key not in self._sound:
            if rows.sha256() != film.sha256:
                raise DamagedError(
                    f"{segment.path}: the windows of {film.path} were changed or damaged after they were written; "
                    f"`stgt index --out {self._folder}` computes them again"
                )
            self._sound.add(film.key)
        return rows

    def candidates(self, query: Tensor, count: int) -> list[int]:
        """The numbers of the `count` windows with the highest scores, in order, or of all windows if there are fewer.

        Windows with equal scores are in the order of their paths and times. With faiss, they are the best of those that
        it finds.
        """
        numbers, found = [], []
        for segment, start in zip(self._segments, self._starts, strict=False):
            rows = segment.candidates(query, count)
            numbers.append(start + rows)
            found.append(exact_scores(segment.vectors[rows], query))
        number, score = torch.cat(numbers), torch.cat(found)
        films = torch.bucketize(number, self._bounds, right=True)
        alphabetical = (self._ranks[films] * (self._starts[-1] + 1) + number).argsort()
        # Beyond `count`, a window of one segment may be missing that is better than those of another one.
        order = alphabetical[score[alphabetical].sort(descending=True, stable=True).indices][:count]
        return number[order].tolist()


def write(folder: Path, films: Iterable[tuple[Film, Callable[[], Rows]]]) -> Segment:
    """Write a segment with the vectors of some files.

    films: each file, with a function that gives its windows. Only one file's windows are in memory at a time.
    """
    films, first, placed = list(films), 0, []
    for film, _ in films:
        placed.append(replace(film, first=first))
        first += film.windows
    name = f"vectors-{tensors_hash({}, ' '.join(film.key + film.sha256 for film in placed))[:16]}.safetensors"
    with atomic_file(folder / name) as partial:
        _write_rows(partial, first, (read() for _, read in films))
    return Segment(name, first, placed)


def publish(folder: Path, manifest: Manifest, exact_up_to: int) -> None:
    """Make the manifest that of the index, and remove the files of the one before that it does not name.

    With more windows than `exact_up_to`, the vectors are grouped for faiss first. If faiss is not installed, a warning
    says that searches take longer.
    """
    large = manifest.windows > exact_up_to
    segments = [replace(each, groups=_group(folder, each) if large else "") for each in manifest.segments]
    replace(manifest, segments=segments).save(folder)
    needed = {name for segment in segments for name in (segment.vectors, segment.groups)}
    for path in folder.iterdir():
        if is_own_name(path.name) and path.name not in needed:
            path.unlink(missing_ok=True)


def _group(folder: Path, segment: Segment) -> str:
    """Write the groups of vectors if they are not there yet, or cannot be read.

    Returns the name of the file, or "" if there are none.
    """
    name = f"{Path(segment.vectors).stem}.faiss"
    with safe_open(folder / segment.vectors, "pt") as file:
        vectors = file.get_tensor("vectors")
    if vectors.shape[0] * vectors.shape[1] < approximate.FEWEST:
        return ""
    try:
        if (folder / name).exists():
            with suppress(DamagedError):
                Approximate(folder / name, *vectors.shape[:2])
                return name
        approximate.build(folder / name, vectors)
    except ModuleNotFoundError as error:
        _warn_of_exact(len(vectors), missing_package(error))
        return ""
    return name


def _warn_of_exact(windows: int, cause: str) -> None:
    logger.warning("%s windows are searched one by one, which takes longer: %s", windows, cause)


def _write_rows(path: Path, count: int, parts: Iterable[Rows]) -> None:
    """Write all windows as a safetensors file, one file's windows after the other."""
    with open(path, "wb") as file:
        times, shape = [], None
        for rows in parts:
            if shape is None:
                shape = [count, *rows.vectors.shape[1:]]
                file.write(_header(shape))
            file.write(rows.vectors.contiguous().numpy().data)
            times.append(rows.times)
        file.write(torch.cat(times).numpy().data)


def _header(shape: list[int]) -> bytes:
    """The first bytes of a safetensors file of vectors (N, Q, E) and times (N, 2)."""
    middle = torch.tensor(shape).prod().item() * DTYPE.itemsize
    head = {
        "vectors": {"dtype": "F16", "shape": shape, "data_offsets": [0, middle]},
        "times": {"dtype": "F64", "shape": [shape[0], 2], "data_offsets": [middle, middle + 16 * shape[0]]},
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
