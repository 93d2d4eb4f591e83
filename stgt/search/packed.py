"""The vectors of an index in one safetensors file that is memory-mapped, so that opening it costs no time.

An index is a folder with a manifest and the file of vectors that the manifest names. A change writes a new file of
vectors first and then replaces the manifest, so that each reader sees the old index or the new one, complete.
"""

from __future__ import annotations

import json
import logging
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
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
from stgt.search.manifest import Film, Manifest

logger = logging.getLogger(__name__)

DTYPE = torch.float16
"""Vectors are stored with 11 bits; the largest error of a cosine is about 0.0005."""


class Rows(NamedTuple):
    """The windows of one file."""

    vectors: Tensor
    """float16 (W, Q, E), unit vectors"""
    times: Tensor
    """float64 (W, 2): start and end in seconds"""

    def sha256(self) -> str:
        """SHA-256 of both tensors."""
        return tensors_hash(self._asdict())


class Packed:
    """An index that is open for reading. It stays what it is when the index is changed meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError if the folder is no index, and DamagedError if a file of it is damaged."""
        while True:
            self.manifest = Manifest.load(folder)
            self.path = folder / self.manifest.vectors
            try:
                with safe_open(self.path, "pt") as file:
                    self.vectors, self.times = file.get_tensor("vectors"), file.get_tensor("times")
            except FileNotFoundError:
                if Manifest.load(folder).vectors == self.manifest.vectors:
                    raise DamagedError(f"{self.path}: no such file; remove {folder} and index again") from None
                continue  # another command has just replaced it
            except SafetensorError as error:
                raise DamagedError(f"{self.path}: {error}; remove {folder} and index again") from None
            break
        if len(self.vectors) != len(self.times) or len(self.times) != self.manifest.windows:
            raise DamagedError(f"{self.path}: holds {len(self.vectors)} windows, the manifest {self.manifest.windows}")
        self._firsts = [film.first for film in self.manifest.films]
        self._sound: set[str] = set()
        if self.manifest.groups:
            _ = self.groups  # it is opened at once, because a later update removes the file

    @cached_property
    def groups(self) -> Approximate | None:
        """The vectors in groups, for an index that is too large to be searched exactly."""
        name = self.manifest.groups
        return Approximate(self.path.with_name(name), self.vectors.shape[1]) if name else None

    def film_of(self, row: int) -> Film:
        """The file that a window belongs to."""
        return self.manifest.films[bisect_right(self._firsts, row) - 1]

    def rows(self, film: Film) -> Rows:
        """The windows of a file. Raises DamagedError if they have changed since they were written."""
        part = slice(film.first, film.first + film.windows)
        rows = Rows(self.vectors[part], self.times[part])
        if film.key not in self._sound:
            if rows.sha256() != film.sha256:
                raise DamagedError(
                    f"{self.path}: the windows of {film.path} were changed or damaged after they were written; "
                    f"`stgt index --out {self.path.parent}` computes them again"
                )
            self._sound.add(film.key)
        return rows


def write(folder: Path, manifest: Manifest, films: Iterable[tuple[Film, Callable[[], Rows]]]) -> Manifest:
    """Write the vectors of some files. Returns the manifest that lists them, which is still to be published.

    films: each file, with a function that gives its windows. Only one file's windows are in memory at a time.
    """
    films, first, placed = list(films), 0, []
    for film, _ in films:
        placed.append(replace(film, first=first))
        first += film.windows
    name = f"vectors-{tensors_hash({}, ' '.join(film.key + film.sha256 for film in placed))[:16]}.safetensors"
    with atomic_file(folder / name) as partial:
        _write_rows(partial, first, (read() for _, read in films))
    return replace(manifest, vectors=name, films=placed)


def publish(folder: Path, manifest: Manifest, exact_up_to: int) -> None:
    """Make the manifest that of the index, and remove the files of the one before.

    With more windows than `exact_up_to`, the vectors are grouped for faiss first. If faiss is not installed, a warning
    says that searches take longer.
    """
    groups = _group(folder, manifest) if manifest.windows > exact_up_to else ""
    replace(manifest, groups=groups).save(folder)
    for path in folder.glob("vectors-*"):
        if path.name not in (manifest.vectors, groups):
            path.unlink(missing_ok=True)


def _group(folder: Path, manifest: Manifest) -> str:
    """Write the groups of vectors if they are not there yet. Returns the name of the file, or "" if there are none."""
    name = f"{Path(manifest.vectors).stem}.faiss"
    if (folder / name).exists():
        return name
    with safe_open(folder / manifest.vectors, "pt") as file:
        vectors = file.get_tensor("vectors")
    if vectors.shape[0] * vectors.shape[1] < approximate.FEWEST:
        return ""
    try:
        approximate.build(folder / name, vectors)
    except ModuleNotFoundError as error:
        advice = missing_package(error)
        logger.warning("%s windows are searched one by one, which takes longer: %s", len(vectors), advice)
        return ""
    return name


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
