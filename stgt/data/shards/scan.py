"""Makes a manifest of a folder of tar shards, such as those that video2dataset and img2dataset write.

Only the headers and the captions of a shard are read, so a shard far away costs few of its bytes.
This module needs the extra [scale].
"""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from stgt.data.manifest.write import writing_manifest
from stgt.data.names import IMAGES, VIDEOS, is_image
from stgt.data.shards.member import file_system, is_address
from stgt.structure import parse_json

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16
"""Bytes that are read at a time: a header with the small members behind it"""
_LONGEST = 1 << 24
"""Most bytes of a member with captions"""


@dataclass
class Sample:
    """The members of a shard whose names agree up to the first dot."""

    key: str
    media: tarfile.TarInfo | None = None
    """The video or image"""
    texts: dict[str, bytes] = field(default_factory=dict)
    """{"json" or "txt": contents}"""


def scan_shards(folder: str, out: Path) -> tuple[int, int]:
    """Write the manifest of all .tar files in a folder or at an address of fsspec; returns the rows and the shards.

    A row names its shard by its path relative to the folder, or by its whole address. Samples without a caption, and
    those that a truncated shard has lost, are left out, and the log counts them.
    Raises ValueError if there is no shard or none with a sample, and for an address that fsspec cannot read here.
    """
    system, root = file_system(folder)
    shards = sorted(path for path in system.find(root) if path.endswith(".tar"))
    if not shards:
        raise ValueError(f"{folder}: there is no .tar file, expected shards of WebDataset, which are not compressed")
    with writing_manifest(out) as manifest:
        for path in shards:
            shard = system.unstrip_protocol(path) if is_address(folder) else str(Path(path).relative_to(root))
            scan, silent = _Shard(system, path), 0
            for sample in scan.samples():
                captions = scan.captions(sample)
                silent += not captions
                if captions:
                    place = dict(shard=shard, offset=sample.media.offset_data, size=sample.media.size)
                    manifest.add(sample.media.name, captions, **place)
            if silent:
                logger.warning("%s: %d videos or images have no caption, and are left out", shard, silent)
        if not manifest.count:
            raise ValueError(f"{folder}: no shard holds a video or image with a caption")
    return manifest.count, len(shards)


class _Shard:
    """One shard that is looked through."""

    def __init__(self, system: AbstractFileSystem, path: str) -> None:
        self.system, self.path = system, path

    def samples(self) -> Iterator[Sample]:
        """The samples that have a video or an image. A truncated shard ends with its last whole member.

        Raises ValueError, naming the shard, if it cannot be read, or not by range.
        """
        try:
            yield from self._samples()
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.path}: {str(error) or type(error).__name__}") from error

    def _samples(self) -> Iterator[Sample]:
        sample = Sample("")
        with self.system.open(self.path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            for member in self._members(file, size):
                folder, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                if (key := f"{folder}/{key}") != sample.key:
                    if sample.media:
                        yield sample
                    sample = Sample(key)
                kind = ending.rpartition(".")[2].lower()
                if f".{kind}" in (*VIDEOS, *IMAGES):
                    if sample.media is None or (is_image(sample.media.name) and not is_image(member.name)):
                        sample.media = member  # a video comes before its thumbnail
                elif kind in ("json", "txt") and member.size <= _LONGEST:
                    file.seek(member.offset_data)
                    sample.texts[kind] = file.read(member.size)
        if sample.media:
            yield sample

    def _members(self, file: io.BufferedIOBase, size: int) -> Iterator[tarfile.TarInfo]:
        """The ordinary files whose bytes are all there. tarfile takes some damaged headers for the end of the shard."""
        try:
            with tarfile.open(fileobj=file, mode="r:") as shard:
                while (member := shard.next()) is not None:
                    shard.members = []  # it would keep all of them
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    if member.isreg() and not member.issparse():
                        yield member
                file.seek(shard.offset)
                if shard.offset < size and file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"damaged at byte {shard.offset}")
                if shard.offset >= size:
                    raise tarfile.ReadError("unexpected end of data")
        except tarfile.TarError as error:
            logger.warning("%s: %s; the samples before it are used", self.path, error)

    def captions(self, sample: Sample) -> list[str]:
        """A sample's captions: those of its .json or .txt member, or of the Parquet file beside the shard."""
        found: object = None
        if "json" in sample.texts:
            where = f"{self.path}: the .json member of {sample.key.lstrip('/')}"
            entry = parse_json(_decoded(sample.texts["json"], where), where, dict)
            found = entry.get("caption")
        if not _texts(found) and "txt" in sample.texts:
            found = _decoded(sample.texts["txt"], f"{self.path}: the .txt member of {sample.key.lstrip('/')}").strip()
        return _texts(found) or _texts(self._beside.get(sample.key.rpartition("/")[2]))

    @cached_property
    def _beside(self) -> dict[str, object]:
        """{key: caption} of the Parquet file that the two programs write beside a shard, if there is one."""
        path = self.path.removesuffix(".tar") + ".parquet"
        if not self.system.exists(path):
            return {}
        try:
            with self.system.open(path, "rb") as file:
                table = pq.read_table(file, columns=["key", "caption"])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: columns key and caption cannot be read ({error})") from None
        return dict(zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True))


def _decoded(contents: bytes, where: str) -> str:
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason})") from None


def _texts(value: object) -> list[str]:
    """The texts that are not blank in a caption of JSON, which is a text or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]
