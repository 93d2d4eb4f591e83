"""The part of a file that an HTTP request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re


class UnsatisfiableError(Exception):
    """A range that lies behind the end of the file."""


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes of a file of `size` bytes that a Range header asks for, or None for the whole file.

    A header with several ranges, or one that is not understood, asks for the whole file, as the RFC allows. Raises
    UnsatisfiableError if no byte of the file lies in the range.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").strip(), re.ASCII)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= stop:
        raise UnsatisfiableError
    return range(start, stop)
