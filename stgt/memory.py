"""Lets a process keep the memory that it frees, for its next batch."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # the numbers of options of mallopt, from glibc's malloc.h
_MOST_BYTES, _MOST_MAPPINGS = 2**31 - 1, 65536


def keep_freed_memory(largest: int | None = None) -> bool:
    """Tell glibc not to return freed memory to the system. Returns whether it will; other C libraries cannot be told.

    Otherwise each batch on a CPU asks for some of its memory again, and the system clears every page of it.
    largest: the size in bytes, at most 32 MiB, above which blocks are returned nevertheless. None keeps all blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # A block that has a mapping of its own is returned as soon as it is freed.
    mapped = [(_MMAP_MAX, 0)] if largest is None else [(_MMAP_MAX, _MOST_MAPPINGS), (_MMAP_THRESHOLD, largest)]
    return all(mallopt(option, value) for option, value in [(_TRIM_THRESHOLD, _MOST_BYTES), *mapped])
