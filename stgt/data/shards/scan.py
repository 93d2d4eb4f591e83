"""Makes a manifest of a folder of tar shards, such as those that video2dataset and img2dataset write.

Only the headers and the captions of a shard are read, so a shard far away costs few of its bytes.
This module needs the extra [scale].
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from stgt.data.manifest.write import whole, writing_manifest
from stgt.data.names import IMAGES, VIDEOS, is_image
from stgt.data.shards.member import asked, file_system, is_address

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16
"""Bytes that are read at a time: a header with the small members behind it"""
_LONGEST = 1 << 24
"""Most bytes of a member with captions"""


@dataclass
class Sample:
    """The members of a shard whose names agree up to the first dot."""

    key: str
    first: str = ""
    """The name of the first member"""
    media: tarfile.TarInfo | None = None
    """The video or image"""
    texts: dict[str, bytes] = field(default_factory=dict)
    """{"json" or "txt": contents}"""


def scan_shards(folder: str, out: Path) -> tuple[int, int]:
    """Write the manifest of all .tar files in a folder or at an address of fsspec; returns the rows and the shards.

    folder: it may be a single .tar file, too. A row names its shard by its path relative to the folder, or by its whole
    address. Samples that are empty, have no caption, or have no video or image, are left out, and the log counts them.
    If a shard was cut short, the log says so, and the samples before the cut are used.
    Raises ValueError if there is no shard or none with a sample, for a sample in which two members have the same
    ending, and for an address that fsspec cannot read here. Errors of a store are those of `asked`.
    """
    system, root = file_system(folder)
    found = [path for path in asked(folder, partial(system.find, root)) if path.endswith(".tar")]
    shards = sorted(path for path in found if "/." not in path[len(root) :])  # hidden ones are not complete yet
    if not shards:
        raise ValueError(
            f"{folder}: there is no .tar file, expected shards of WebDataset, which are not compressed, or an "
            "annotation whose name ends in .json"
        )
    beside = Path(root).parent if shards == [root] else Path(root)
    with writing_manifest(out) as manifest:
        for path in shards:
            shard = system.unstrip_protocol(path) if is_address(folder) else str(Path(path).relative_to(beside))
            for member, captions, former in asked(path, partial(_rows, system, path, shard)):
                place = dict(shard=shard, offset=member.offset_data, size=member.size)
                manifest.add(whole(member.name), captions, **place, packed_from=former)
        if not manifest.count:
            raise ValueError(f"{folder}: no shard holds a video or image with a caption")
    return manifest.count, len(shards)


def _rows(system: AbstractFileSystem, path: str, shard: str) -> list[tuple[tarfile.TarInfo, list[str], str | None]]:
    """The videos and images of a shard, each with its captions and the name that it had before it was packed.

    shard: the name of the shard in the log, which counts the samples that are left out.
    Raises ValueError, naming the shard, if it cannot be read by range, and for a sample in which two members have the
    same ending: nothing tells which video the caption is about.
    """
    rows, left_out, nameless = [], Counter(), []
    scan = _Shard(system, path)
    try:
        for sample in scan.samples():
            if sample.media is None:
                nameless.append(sample.first)
                continue
            captions = scan.captions(sample)
            if not sample.media.size:
                left_out["are empty"] += 1
            elif not captions:
                left_out["have no caption"] += 1
            else:
                rows.append((sample.media, captions, packed_from(sample)))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from error
    for cause, count in left_out.items():
        logger.warning("%s: %d videos or images %s, and are left out", shard, count, cause)
    if nameless:
        logger.warning(
            "%s: %d samples have no video or image, and are left out; the first begins with %s, and the ending "
            "of a member is all that follows the first dot of its name", shard, len(nameless), nameless[0],
        )  # fmt: skip
    return rows


class _Shard:
    """One shard that is looked through."""

    def __init__(self, system: AbstractFileSystem, path: str) -> None:
        self.system, self.path = system, path
        self._warned = False

    def samples(self) -> Iterator[Sample]:
        """The samples. A truncated shard ends with its last whole member."""
        with self.system.open(self.path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            for key, members in itertools.groupby(self._members(file, size), lambda member: _split(member)[0]):
                sample, seen = Sample(key), set[str]()
                for member in members:
                    sample.first = sample.first or member.name
                    kind = _split(member)[1].lower()
                    if kind in seen:
                        raise ValueError(f"a sample has two members {member.name}, expected one")
                    if f".{kind}" in (*VIDEOS, *IMAGES):
                        if sample.media is None or (is_image(sample.media.name) and not is_image(member.name)):
                            sample.media = member  # a video comes before its thumbnail
                    elif kind in ("json", "txt") and member.size <= _LONGEST:
                        file.seek(member.offset_data)
                        sample.texts[kind] = file.read(member.size)
                    else:
                        continue
                    seen.add(kind)
                yield sample

    def _members(self, file: io.BufferedIOBase, size: int) -> Iterator[tarfile.TarInfo]:
        """The ordinary files whose bytes are all there. tarfile takes some damaged headers for the end of the shard.

        Hidden files are passed over, as WebDataset does. The tar of macOS writes one in front of each member.
        """
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                while (member := shard.next()) is not None:
                    shard.members = []  # tarfile would keep all of them
                    if not member.isreg() or member.issparse() or member.name.rpartition("/")[2].startswith("."):
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield member
                file.seek(shard.offset)
                if shard.offset < size and file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"damaged at byte {shard.offset}")
                if shard.offset >= size:
                    raise tarfile.ReadError("unexpected end of data")
        except tarfile.TarError as error:
            logger.warning("%s: %s; the samples before it are used", self.path, error)

    def captions(self, sample: Sample) -> list[str]:
        """A sample's captions: those of its .json or .txt member, or of the Parquet file beside the shard.

        A member that cannot be read has no caption. The log names the first one.
        """
        found: object = None
        if "json" in sample.texts:
            try:
                found = _entry(sample).get("caption")
            except (ValueError, RecursionError) as error:
                self._warn_of("json", sample, error)
        if not _texts(found) and "txt" in sample.texts:
            try:
                found = sample.texts["txt"].decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                self._warn_of("txt", sample, error)
        return _texts(found) or _texts(self._beside.get(sample.key.rpartition("/")[2]))

    def _warn_of(self, kind: str, sample: Sample, error: Exception) -> None:
        if not self._warned:
            place = f"{self.path}: the .{kind} member of {sample.key.lstrip('/')}"
            logger.warning("%s cannot be read, and gives no caption (%s)", place, error)
        self._warned = True

    @cached_property
    def _beside(self) -> dict[str, object]:
        """{key: caption} of the Parquet file that the two programs write beside a shard.

        It is empty if there is no such file, or if the file has no captions.
        """
        path = self.path.removesuffix(".tar") + ".parquet"
        try:
            contents = self.system.cat_file(path)
        except FileNotFoundError:
            return {}
        try:
            table = pq.ParquetFile(pa.BufferReader(contents))
            if not {"key", "caption"} <= {*table.schema_arrow.names}:
                return {}
            rows = table.read(["key", "caption"]).to_pydict()
        except MemoryError:  # Arrow's own one is an ArrowException, too
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: columns key and caption cannot be read ({error})") from None
        return dict(zip(rows["key"], rows["caption"], strict=True))


def _split(member: tarfile.TarInfo) -> tuple[str, str]:
    """The path of a member up to the first dot of its name, which is the key of its sample, and its ending."""
    folder, _, name = member.name.rpartition("/")
    key, _, ending = name.partition(".")
    return f"{folder}/{key}", ending


def packed_from(sample: Sample) -> str | None:
    """The name that `stgt data pack` has written into the .json member of a sample."""
    try:
        found = _entry(sample).get("packed_from") if "json" in sample.texts else None
    except (ValueError, RecursionError):
        return None
    return whole(found) if isinstance(found, str) and found else None


def _entry(sample: Sample) -> dict:
    """The object in a sample's .json member. Raises ValueError or RecursionError if there is none."""
    entry = json.loads(sample.texts["json"])
    if not isinstance(entry, dict):
        raise ValueError("it holds no object")
    return entry


def _texts(value: object) -> list[str]:
    """The texts that are not blank in a caption of JSON, which is a text or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return [whole(text) for text in values if isinstance(text, str) and text.strip()]
