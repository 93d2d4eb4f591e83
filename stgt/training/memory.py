"""Lets a process keep the memory that a training step frees, for the next step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the numbers of options of mallopt, from glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc accepts no more
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed memory to the system. Returns whether it will; other C libraries cannot be told.

    Otherwise each training step on a CPU asks for some of its memory again, and the system clears every page of it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_TRIM_THRESHOLD, _MOST))
