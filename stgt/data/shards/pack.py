"""Packs the videos or images of an annotation into tar shards in WebDataset's form, with a manifest of them.

A sample is two members: KEY.mp4, or another ending, and KEY.json with the video's name and its captions or questions.
KEY is the number of the video. This module needs the extra [scale].
"""

from __future__ import annotations

import glob
import io
import json
import logging
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from stgt.data.annotations import load_bad_names, require_videos
from stgt.data.entries import Question
from stgt.data.errors import require_file
from stgt.data.images import image_format, stills
from stgt.data.manifest.cache import is_manifest, open_manifest
from stgt.data.manifest.write import ManifestWriter, Texts, said_of_videos, whole, writing_manifest
from stgt.files import atomic_file
from stgt.ownership import owned

logger = logging.getLogger(__name__)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Source(NamedTuple):
    """A video or image to pack."""

    name: str
    texts: Texts
    opened: Callable[[], AbstractContextManager[Path]]
    """Gives its file for the length of a block"""
    image: bool | None = None
    """Whether a manifest says that it is an image of one frame; None without a manifest"""


def parse_size(text: str) -> int:
    """Bytes of a size such as "1GB" or "500 MB". Raises ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None or not (size := int(float(found[1]) * _UNITS[found[2].upper()])):
        raise ValueError(f"shard_size is {text!r}, expected a size such as 1GB or 500MB")
    return size


def pack(
    annotation: Path, videos: Path, out: Path, *, shard_size: int, bad_list: Path | None = None
) -> tuple[Path, int, int]:
    """Pack train.json into OUT/train-000000.tar and so on; returns OUT/train.parquet, its number of videos, and shards.

    videos: the folder that names in the annotation are relative to. shard_size: the largest number of bytes of
    a shard; a video that is larger has a shard of its own. bad_list: the list that `stgt data check` wrote, whose
    videos are left out. Raises ValueError if `out` holds shards of this name already, a file is missing or all videos
    are left out, and VideoError if a file cannot be read. A call that failed or was killed can be repeated.
    """
    name = annotation.stem
    place, unfinished = out / f"{name}.parquet", out / f".unfinished-{name}"
    with owned(out):
        there = _written(out, name)
        if there and not unfinished.exists():
            raise ValueError(f"{out} holds {there[0].name} already, expected a folder without shards of {name}")
        sources = _sources(annotation, videos, bad_list)
        _discard(out, name, unfinished)  # what a killed command has left
        unfinished.mkdir()
        try:
            with writing_manifest(place) as manifest:
                number, left = 0, next(sources, None)
                while left is not None:
                    left = _write_shard(unfinished, f"{name}-{number:06}.tar", left, sources, manifest, shard_size)
                    number += 1
                for shard in list(unfinished.iterdir()):
                    shard.rename(out / shard.name)
        except BaseException:
            _discard(out, name, unfinished)
            raise
        unfinished.rmdir()
    return place, manifest.count, number


def _written(out: Path, name: str) -> list[Path]:
    """The manifest and the shards of this name."""
    manifest = out / f"{name}.parquet"
    return [*([manifest] if manifest.exists() else []), *out.glob(f"{glob.escape(name)}-{'[0-9]' * 6}.tar")]


def _discard(out: Path, name: str, unfinished: Path) -> None:
    """Remove what an unfinished pack has written.

    Shards lie in the folder `unfinished` until all of them are written. As long as it is there, it also marks the files
    beside it as those of a pack that did not end.
    """
    if unfinished.exists():
        for path in _written(out, name):
            path.unlink()
        shutil.rmtree(unfinished)


def _sources(annotation: Path, videos: Path, bad_list: Path | None) -> Iterator[Source]:
    bad = load_bad_names(bad_list)
    if is_manifest(annotation):
        rows = open_manifest(annotation, bad)
        _report_left_out(annotation, rows.left_out, rows.whole, bad_list)
        numbered = enumerate(zip(rows.identities(), rows.said(), strict=True))
        return (Source(*row, partial(rows.opened, number, videos), rows.still(number)) for number, row in numbered)
    said = said_of_videos(annotation)
    require_videos(annotation, [*said], videos, bad)
    kept = {name: texts for name, texts in said.items() if name not in bad}
    _report_left_out(annotation, len(said) - len(kept), len(said), bad_list)
    return (Source(name, texts, partial(nullcontext, videos / name)) for name, texts in kept.items())


def _report_left_out(annotation: Path, left_out: int, count: int, bad_list: Path | None) -> None:
    """Log how many videos are left out. Raises ValueError if it is all of them."""
    if left_out and left_out == count:
        raise ValueError(f"{annotation}: {bad_list} lists every video, expected one that is left")
    if left_out:
        by = f"{bad_list} lists them" if bad_list else "the column bad says so"
        logger.warning("%s: %d of %d videos are left out, %s", annotation, left_out, count, by)


def _write_shard(
    out: Path, name: str, first: Source, sources: Iterator[Source], manifest: ManifestWriter, shard_size: int
) -> Source | None:
    """Write sources until the shard is full; returns the source that begins the next shard, or None."""
    with atomic_file(out / name) as unfinished, tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as shard:
        for source in chain([first], sources):
            with source.opened() as path:
                require_file(path)
                contents, image = path.stat().st_size, source.image
                image = stills([path])[0] if image is None else image
                fields = {"packed_from": source.name} | _fields(source.texts)
                text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace")
                end = shard.offset + _blocks(contents) + _blocks(len(text)) + 2 * tarfile.BLOCKSIZE
                if shard.offset and -(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE > shard_size:
                    return source
                key = f"{manifest.count:09}"
                member = tarfile.TarInfo(key + _ending(path, source.name, image))
                member.size = contents
                place = dict(shard=name, offset=shard.offset + tarfile.BLOCKSIZE, size=contents)
                with open(path, "rb") as file:
                    shard.addfile(member, file)
                manifest.add(member.name, source.texts, **place, image=image, packed_from=whole(source.name))
                member = tarfile.TarInfo(f"{key}.json")
                member.size = len(text)
                shard.addfile(member, io.BytesIO(text))
    return None


def _fields(texts: Texts) -> dict[str, list]:
    """The values about a video in its .json member."""
    if not isinstance(texts[0], Question):
        return {"caption": list(texts)}
    return {"questions": [{key: value for key, value in each._asdict().items() if key != "video"} for each in texts]}


def _blocks(size: int) -> int:
    """The bytes that a member of some size takes with its header."""
    return tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))


def _ending(path: Path, name: str, image: bool) -> str:
    """The ending of a member's name. Readers of WebDataset need one, and images of CC3M have none."""
    ending = Path(name).suffix.lower()
    if re.fullmatch(r"\.\w+", ending):
        return ending
    return f".{(image_format(path) or 'jpg').lower()}" if image else ".mp4"
