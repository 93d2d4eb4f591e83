"""MP4 and QuickTime files with any edit list, which tells a player what to show of a track, and when."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """An entry of an edit list."""

    seconds: float
    """How long it is shown"""
    begins: float | None
    """The time in the track at which it begins; None for an empty entry, in which nothing is shown"""
    rate: float = 1.0
    """The speed; 0 for a dwell, in which one frame is shown all the time"""


def with_edits(path: Path, edits: Sequence[Edit], out: Path) -> Path:
    """Write a copy of a file with another edit list. The file has one track, and its moov box comes last."""
    data = path.read_bytes()
    *_, (kind, moov) = _boxes(data)
    assert kind == b"moov"
    movie, (trak,) = dict(_boxes(moov)), [content for kind, content in _boxes(moov) if kind == b"trak"]
    (movie_scale,) = struct.unpack(">I", movie[b"mvhd"][12:16])
    (scale,) = struct.unpack(">I", dict(_boxes(dict(_boxes(trak))[b"mdia"]))[b"mdhd"][12:16])
    entries = [
        struct.pack(
            ">Iii",
            round(edit.seconds * movie_scale),
            -1 if edit.begins is None else round(edit.begins * scale),
            round(edit.rate * 65536),
        )
        for edit in edits
    ]
    edts = _box(b"edts", _box(b"elst", struct.pack(">II", 0, len(edits)) + b"".join(entries)))
    parts = [
        _box(kind, content) + edts * (kind == b"tkhd") for kind, content in _boxes(trak) if kind != b"edts"
    ]  # a track's header comes before its edit list
    track = _box(b"trak", b"".join(parts))
    whole = b"".join(track if kind == b"trak" else _box(kind, content) for kind, content in _boxes(moov))
    out.write_bytes(data[: len(data) - len(moov) - 8] + _box(b"moov", whole))
    return out


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box."""
    while data:
        size, kind = struct.unpack(">I4s", data[:8])
        yield kind, data[8:size]
        data = data[size:]
