"""Animated PNG files as browsers show them.

Pillow puts the frames together by other rules than the specification: it adds half-transparent pixels wrongly, fills
what is erased with black and counts a hidden default image as a frame. FFmpeg erases to black too, and cannot read some
colour types. Here Pillow decodes each frame as a PNG file of its own, and this module puts them together.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TO_BACKGROUND, _TO_PREVIOUS = 1, 2


class Part(NamedTuple):
    """The picture and the place of one frame of an animation."""

    png: io.BytesIO
    """The pixels, as a PNG file of their own"""
    box: tuple[int, int, int, int]
    """Left, upper, right and lower edge on the canvas, in pixels"""
    seconds: float
    disposal: int
    """The number that says how the box is treated after the frame: with 0 it stays, with 1 it is erased, and with 2 it
    gets back the pixels that it had before the frame"""
    blend: bool
    """Whether the pixels are drawn over what is there; otherwise they replace it"""


def promised_frames(path: str | Path) -> int:
    """The number of frames that a PNG file promises, 0 if it is not animated. Only its beginning is read."""
    with open(path, "rb") as file:
        for kind, data in _chunks(file, stop=b"IDAT"):
            if kind == b"acTL":
                return int.from_bytes(data[:4], "big")
    return 0


def read_parts(path: str | Path) -> Iterator[Part]:
    """The frames of an animated PNG file, read one at a time. Raises ValueError for a file that contradicts itself."""
    shared: list[tuple[bytes, bytes]] = []  # chunks that belong to every frame: palette, transparency, …
    header, control, pixels = b"", b"", bytearray()
    found = 0
    with open(path, "rb") as file:
        for kind, data in _chunks(file, stop=b"IEND"):
            if kind == b"IHDR":
                header = data
            elif kind == b"fcTL":
                if pixels:
                    yield _part(header, shared, control, pixels)
                    found += 1
                control, pixels = data, bytearray()
            elif kind == b"IDAT":
                # Before the first frame control, this is the still picture for programs that do not animate.
                pixels += data if control else b""
            elif kind == b"fdAT":
                pixels += data[4:]
            elif not control:
                shared.append((kind, data))
    if pixels:
        yield _part(header, shared, control, pixels)
        found += 1
    if found != (promised := promised_frames(path)):
        raise ValueError(f"the file promises {promised} frames and holds {found}")


def compose(
    parts: Iterable[Part], size: tuple[int, int], decode: Callable[[BinaryIO], Image.Image]
) -> Iterator[tuple[Part, Image.Image]]:
    """Each frame, and the canvas as it is shown then: RGBA of `size`, valid until the next frame is taken.

    decode: turns a PNG file into an RGBA picture.
    """
    canvas = Image.new("RGBA", size)
    for part in parts:
        pixels = decode(part.png)
        before = canvas.crop(part.box)
        if part.blend:
            canvas.alpha_composite(pixels, part.box[:2])
        else:
            canvas.paste(pixels, part.box)
        yield part, canvas
        if part.disposal == _TO_BACKGROUND:
            canvas.paste((0, 0, 0, 0), part.box)
        elif part.disposal == _TO_PREVIOUS:
            canvas.paste(before, part.box)


def _chunks(file: BinaryIO, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk of a PNG file before the first one of type `stop`."""
    file.seek(len(SIGNATURE))
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == stop:
            return
        data = file.read(length)
        if len(data) < length:
            raise ValueError("the file is cut short")
        file.read(4)  # the chunk's checksum; zlib has one of its own for the pixels, which Pillow checks
        yield kind, data


def _part(header: bytes, shared: list[tuple[bytes, bytes]], control: bytes, pixels: bytearray) -> Part:
    _, width, height, left, upper, delay, divisor, disposal, blend = struct.unpack(">IIIIIHHBB", control)
    canvas = struct.unpack(">II", header[:8])
    if not (0 < width <= canvas[0] - left and 0 < height <= canvas[1] - upper):
        raise ValueError(f"a frame of {width} × {height} pixels at {left}, {upper} leaves the canvas of {canvas}")
    chunks = [
        (b"IHDR", struct.pack(">II", width, height) + header[8:]),
        *shared,
        (b"IDAT", bytes(pixels)),
        (b"IEND", b""),
    ]
    png = SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    box = (left, upper, left + width, upper + height)
    return Part(io.BytesIO(png), box, delay / (divisor or 100), disposal, blend == 1)
