"""Reads one member of a tar shard by its place in it, from a local file or through fsspec from anywhere."""

from __future__ import annotations

import logging
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stgt.causes import cause_of
from stgt.data.errors import StoreError, VideoError, require_file
from stgt.files import scratch_file

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a store is asked for the same thing"""
_WAIT = 1.0  # seconds before the second attempt
_HEADERS = 8 * tarfile.BLOCKSIZE  # bytes in front of a member that are read with it
_ENDING = re.compile(r"\.\w{1,8}$")
Answer = TypeVar("Answer")


class Member(NamedTuple):
    """The place of a member: the path or address of its shard, and where its bytes are in it, behind its header."""

    shard: str
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.shard}, offset {self.offset}, member {self.name}"


def is_address(shard: str) -> bool:
    """Whether a shard is an address of fsspec, such as s3://bucket/shard.tar. Everything else is a path."""
    return "://" in shard or "::" in shard


def locate(shard: str, root: str | Path) -> str:
    """The address of a shard, or its path if it is relative to `root`."""
    return shard if is_address(shard) else os.path.join(root, shard)


@contextmanager
def opened(member: Member) -> Iterator[Path]:
    """Yields a temporary file with the bytes of a member, and with the ending of its name.

    Raises VideoError, naming shard, offset and member, if the bytes cannot be read. A VideoError of the block names
    them, too.
    """
    ending = _ENDING.search(member.name)
    with scratch_file(read_member(member), ending[0] if ending else "") as path:
        try:
            yield path
        except VideoError as error:
            raise VideoError(f"{member}: {str(error).removeprefix(f'{path}: ')}") from error


def read_member(member: Member) -> bytes:
    """The bytes of a member. Raises VideoError, naming shard, offset and member, if they cannot be read.

    Raises StoreError, which is a VideoError, if the store fails at every attempt or does not know ranges of bytes,
    PermissionError if it refuses, and ValueError for an address that fsspec cannot read on this machine.
    """
    start = max(member.offset - _HEADERS, 0)
    found = _remote(member, start) if is_address(member.shard) else _local(member, start)
    headers, contents = found[: member.offset - start], found[member.offset - start :]
    if len(contents) > member.size:
        raise StoreError(f"{member}: the server sends more than the range of bytes that it was asked for")
    if len(contents) < member.size:
        raise VideoError(f"{member}: the shard is cut short: {len(contents)} of {member.size} bytes are there")
    if (size := _size_in(headers)) != member.size:
        there = "no member" if size is None else f"a member of {size} bytes"
        raise VideoError(
            f"{member}: another shard is there: it has {there} at this place, expected {member.size} bytes"
        )
    return contents


def _size_in(headers: bytes) -> int | None:
    """The size of the member that the last block describes, or None if it describes none."""
    try:
        plain = tarfile.TarInfo.frombuf(headers[-tarfile.BLOCKSIZE :], "utf-8", "surrogateescape").size
    except tarfile.TarError:
        return None
    extended = _pax_size_in(headers)
    return plain if extended is None else extended


def _pax_size_in(headers: bytes) -> int | None:
    """The size in the extended header that ends where the last block begins, or None if there is none.

    Tar files in PAX format have it for a member of 8 GiB or more, whose size has no room in the ordinary header.
    """
    blocks = [headers[end - tarfile.BLOCKSIZE : end] for end in range(len(headers), 0, -tarfile.BLOCKSIZE)]
    for length, block in enumerate(blocks[2:], 1):  # blocks of records between the two headers
        with suppress(tarfile.TarError):
            extended = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if extended.type == tarfile.XHDTYPE and -(-extended.size // tarfile.BLOCKSIZE) == length:
                size = re.search(rb"(?:^|\n)\d+ size=(\d+)\n", b"".join(reversed(blocks[1 : 1 + length])))
                return int(size[1]) if size else None
    return None


def _local(member: Member, start: int) -> bytes:
    try:
        require_file(member.shard)
        with open(member.shard, "rb") as file:
            file.seek(start)
            left = max(os.fstat(file.fileno()).st_size - start, 0)
            # A wrong size must not ask for more memory than the file has.
            return file.read(min(member.offset + member.size - start, left))
    except VideoError as error:
        raise VideoError(f"{member}: {str(error).removeprefix(f'{member.shard}: ')}") from None
    except OSError as error:
        raise VideoError(f"{member}: {error.strerror or error}") from error


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, or of a path, and the path in it.

    Raises ValueError for a protocol that fsspec does not know, and for one that needs a package that is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address}: {error}, expected an address that fsspec reads here") from None


def asked(what: object, ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` reads from a store. If the store fails, `ask` is called again, up to ATTEMPTS times in all.

    Raises StoreError, naming `what`, if the store fails at every attempt, PermissionError, naming it, if the store
    refuses, and the ValueErrors and FileNotFoundErrors of `ask` as they are.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except (ValueError, FileNotFoundError, MemoryError):
            raise
        except Exception as error:  # every protocol has errors of its own
            cause = cause_of(error)[:200]
            # An error of HTTP has a status.
            if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
                raise PermissionError(f"{what}: {cause}") from error
            if attempt == ATTEMPTS:
                raise StoreError(f"{what}: {cause}") from error
            logger.warning("%s: %s; it is asked for again", what, cause)
            time.sleep(_WAIT * attempt)
    raise AssertionError


def _remote(member: Member, start: int) -> bytes:
    system, path = file_system(member.shard)
    try:
        return asked(member, lambda: system.cat_file(path, start=start, end=member.offset + member.size))
    except FileNotFoundError as error:
        raise VideoError(f"{member}: no such file") from error
    except (ValueError, StoreError) as error:
        if _ends_before(member.offset, system, path):
            return b""
        raise error if isinstance(error, StoreError) else StoreError(f"{member}: {cause_of(error)[:200]}") from error


def _ends_before(offset: int, system: AbstractFileSystem, path: str) -> bool:
    """Whether a file has no byte at `offset`. Many servers answer with an error then."""
    with suppress(Exception):
        return system.size(path) <= offset
    return False
