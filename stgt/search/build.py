"""Brings an index up to date with the folders of its videos. Only new and changed files are read and encoded.

Each encoded file is kept in the folder `parts` of the index until the new vectors are written, so that a killed command
goes on where it stopped.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.data.cuts import cut
from stgt.data.fingerprint import Fingerprint
from stgt.data.isolated import Failure, call_each
from stgt.data.on_ray import encode_on_ray
from stgt.data.store import Batches, Store
from stgt.data.windows import Chunk, Pixels, read_chunk
from stgt.integrity import DamagedError, require_finite_rows
from stgt.ownership import owned
from stgt.search import manifest, packed
from stgt.search.cutter import Cutter
from stgt.search.encoder import ChunkEncoder, Encoder
from stgt.search.films import find_videos, first_fault, moved, names_of
from stgt.search.manifest import Film, Manifest, Settings
from stgt.search.packed import Packed, Rows
from stgt.terminal import printable

logger = logging.getLogger(__name__)

PARTS = "parts"
CHUNK = 16
"""Windows that are read and encoded at a time"""


class Changes(NamedTuple):
    """The files that an update added and removed. A changed file is both in `added` and in `removed`."""

    added: list[Path]
    removed: list[Path]
    broken: dict[Path, str]
    """The files that could not be read, and why"""


def update(
    place: Path,
    encoder: Encoder,
    folders: Sequence[Path],
    *,
    window: float,
    stride: float,
    shots: bool,
    workers: int,
    ray: bool,
    timeout: float,
    exact_up_to: int,
) -> Changes:
    """Make the index `place`, or bring it up to date with the folders. Arguments and errors: `stgt.Index.update`."""
    cut(0.0, window, stride)
    with owned(place):
        old = _opened(place)
        settings = Settings(encoder.name, encoder.digest, float(window), float(stride), shots)
        if old is not None:
            _require_same(place, settings, old.manifest.settings)
        folders = [Path(os.path.abspath(folder)) for folder in folders]
        names, broken, before = _videos(folders, encoder, settings, old)
        sound = {film.key: film for film in _sound(old)}
        kept = {name: sound[then] for name in names if (then := before.get(name, name)) in sound}
        # The processes that read are killed after `timeout`, so the model's own limit for a file does not count.
        pixels = replace(encoder.pixels, decoding=encoder.pixels.decoding | {"deadline": None})
        encode = partial(_vectors, encoder, pixels=pixels, workers=workers, ray=ray, timeout=timeout)
        store = Store(place / PARTS, dict.fromkeys((name for name in names if name not in kept), 1))

        def compute(claimed: Iterator[str]) -> Batches:
            chunks = _chunks(pixels, (names[name] for name in claimed), settings, broken, timeout)
            return _encode_each(chunks, encode, broken)

        store.fill(compute, what=printable(place))
        whole = {name: path for name, path in names.items() if name in kept or path not in broken}
        if not whole:
            raise ValueError(f"{', '.join(map(str, folders))}: no video can be read{first_fault(broken)}")
        causes = {str(path): cause for path, cause in broken.items()}
        new = Manifest(settings, [*map(str, folders)], [], causes)
        return _pack(place, new, whole, old, kept, exact_up_to)


def _opened(place: Path) -> Packed | None:
    """The index that is at `place`, or None if there is none yet. A killed first command may have left files there."""
    if not (place / manifest.FILE).exists():
        names = [entry.name for entry in place.iterdir()]
        if any(name[0] != "." and name != PARTS and not packed.is_own_name(name) for name in names):
            raise ValueError(f"{place} is a folder that holds other things, expected an index or a new name")
        return None
    return Packed(place)


def _require_same(place: Path, now: Settings, then: Settings) -> None:
    for name in ("window", "stride", "shots", "model", "digest"):
        ours, theirs = getattr(now, name), getattr(then, name)
        if name == "model" and now.digest == then.digest:
            continue  # the model has moved
        if ours != theirs:
            what = f"{name} is {ours}, and the index has {theirs}"
            if name == "digest":
                what = f"the model {now.model} has other weights or settings than when the index was made"
            raise ValueError(f"{place}: {what}; expected the same, or remove the index or choose another name")


def _videos(
    folders: Sequence[Path], encoder: Encoder, settings: Settings, old: Packed | None
) -> tuple[dict[str, Path], dict[Path, str], dict[str, str]]:
    """The videos of all folders by their keys, why others cannot be read, and the earlier keys of those that moved.

    A film of the index may still be there if it lies in a folder that cannot be read now, such as one of a disk that
    does not answer, or behind a link. So it counts as one of the videos.
    """
    videos, broken, unseen = [], {}, set()
    for folder in folders:
        found = find_videos(folder)
        videos += found.files
        broken |= found.faults
        unseen.update(found.unseen)
    videos = list(dict.fromkeys(videos))
    pixels = encoder.pixels
    now = Fingerprint.take({}, map(str, videos), "", decoder=pixels.decoding["decoder"])
    how = (pixels.frames, settings.window, settings.stride, settings.digest, *(["shots"] if settings.shots else []))
    names, films = names_of(videos, now, broken, *how), old.manifest.films if old else []
    hidden = {film.key: path for film in films if not unseen.isdisjoint([path := Path(film.path), *path.parents])}
    gone = [(film.path, film.key) for film in films if film.key not in names and film.key not in hidden]
    known = {film.key for film in films}
    new = {name: path for name, path in names.items() if name not in known}
    return hidden | names, broken, moved(new, now, gone, *how)


def _sound(old: Packed | None) -> list[Film]:
    """The files of the index whose vectors are as they were written. A warning names the others."""
    sound = []
    for film in old.manifest.films if old else ():
        try:
            old.rows(film)
            sound.append(film)
        except DamagedError as error:
            logger.warning("%s", str(error).partition(";")[0])
    return sound


def _encode_each(
    chunks: Iterator[Chunk],
    encode: Callable[[Iterator[Chunk]], Generator[Tensor | Failure]],
    broken: dict[Path, str],
) -> Batches:
    """The vectors and times of each file, or None for one that cannot be read, whose cause is added to `broken`."""
    chunks, asked = itertools.tee(chunks)
    with closing(encode(chunks)) as results:
        for path, group in itertools.groupby(zip(results, asked, strict=False), key=lambda pair: pair[1].path):
            vectors, times = [], []
            for result, chunk in group:
                if isinstance(result, Failure):
                    broken.setdefault(Path(path), chunk.fault or result.cause)
                else:
                    vectors.append(result)
                    times += chunk.windows
            if Path(path) in broken:
                yield None
                continue
            rows = torch.cat(vectors)
            require_finite_rows(rows, [path] * len(rows), "the model's vectors")
            yield {"vectors": rows.to(packed.DTYPE)[None], "times": torch.tensor(times, dtype=torch.float64)[None]}


def _vectors(
    encoder: Encoder, chunks: Iterator[Chunk], *, pixels: Pixels, workers: int, ray: bool, timeout: float
) -> Generator[Tensor | Failure]:
    """The vectors of each chunk, float32 (W, Q, E), or why it cannot be read."""
    read, encode = partial(read_chunk, pixels=pixels), ChunkEncoder(encoder)
    if ray:
        yield from encode_on_ray(chunks, read, encode, timeout=timeout)
        return
    with closing(call_each(read, chunks, timeout=timeout, jobs=max(1, workers))) as results:
        for result in results:
            yield result if isinstance(result, Failure) else encode(*result)


def _chunks(
    pixels: Pixels, paths: Iterator[Path], settings: Settings, broken: dict[Path, str], timeout: float
) -> Iterator[Chunk]:
    """The chunks of all files. A file that cannot be opened has one without windows; one that fails gets no more."""
    cutter = Cutter(settings, pixels, timeout)
    try:
        for path in paths:
            windows = cutter.windows(path)
            if isinstance(windows, Failure):
                yield Chunk(str(path), [], windows.cause)
                continue
            for first in range(0, len(windows), CHUNK):
                if path in broken:
                    break
                yield Chunk(str(path), windows[first : first + CHUNK])
    finally:
        cutter.stop()


def _pack(
    place: Path, new: Manifest, whole: dict[str, Path], old: Packed | None, kept: dict[str, Film], exact_up_to: int
) -> Changes:
    """Write the index of the files `whole`: those that are kept from the old one, and those in `parts`.

    kept: what the old index has of files, which may have been moved since then.

    Old segments that are no larger than the new one become a part of it, and so do those of which more than half is
    gone. So there are few segments, and an update of a few files writes few vectors.
    """

    def part(name: str) -> Rows:
        store = Store(place / PARTS, {name: 1})
        return Rows(store.all("vectors")[0], store.all("times")[0])

    joined = []
    for name, path in whole.items():
        if name not in kept:
            rows = part(name)
            joined.append((Film(str(path), name, 0, len(rows.times), rows.sha256()), partial(part, name)))
    added, size, segments = [Path(film.path) for film, _ in joined], sum(film.windows for film, _ in joined), []
    # The same file may now be found at another place, or by another link, while that of the last time may be gone.
    now = {film.key: replace(film, key=name, path=str(whole[name])) for name, film in kept.items() if name in whole}
    for segment in sorted(old.manifest.segments if old else [], key=lambda segment: segment.live):
        films = [film for film in segment.films if film.key in now]
        live = sum(film.windows for film in films)
        if live > size and 2 * live >= segment.windows:
            segments.append(replace(segment, films=[now[film.key] for film in films]))
        else:
            joined += [(now[film.key], partial(old.rows, film)) for film in films]
            size += live
    if joined:
        segments.append(packed.write(place, sorted(joined, key=lambda each: each[0].path)))
    packed.publish(place, replace(new, segments=segments), exact_up_to)
    shutil.rmtree(place / PARTS, ignore_errors=True)
    before = old.manifest.films if old else []
    return Changes(
        sorted(added),
        [Path(film.path) for film in before if film.key not in whole and film.key not in now],
        {Path(path): cause for path, cause in new.broken.items()},
    )
