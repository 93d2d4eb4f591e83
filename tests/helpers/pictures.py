"""Image files that Pillow does not write: PNG of any layout, BMP with alpha, and animated PNG chunk by chunk."""

import io
import struct
import zlib

from PIL import Image


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, size, depth, colour_type, rows, transparency=b""):
    """A PNG file of the given rows of packed samples; `transparency` is the content of its tRNS chunk."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparency)] if transparency else [(b"IHDR", header)]
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))
    return path


def write_bmp(path, rgba):
    """A BMP file of version 4, whose header says where red, green, blue and alpha are. rgba: uint8 (H, W, 4)."""
    height, width = rgba.shape[:2]
    masks = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, rgba.nbytes, 2835, 2835, 0, 0)
    header += struct.pack("<4I", *masks) + b"BGRs" + bytes(48)
    start = 14 + len(header)
    path.write_bytes(struct.pack("<2sIII", b"BM", start + rgba.nbytes, 0, start) + header + rgba[::-1].tobytes())
    return path


def _chunks_of(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    data, at, chunks = file.getvalue(), 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def write_apng(path, frames, default=None, promised=None, **options):
    """An animated PNG file. frames: (image, left, upper, disposal, blend, milliseconds); default: the hidden picture.

    promised: how many frames the file claims to have, the right number if not given. options: as Pillow's writer
    takes them.
    """
    pixels = lambda image: b"".join(data for kind, data in _chunks_of(image, **options) if kind == b"IDAT")  # noqa: E731
    shared = _chunks_of(default or frames[0][0], **options)
    out = [chunk for chunk in shared if chunk[0] not in (b"IDAT", b"IEND")]
    out.append((b"acTL", struct.pack(">II", promised or len(frames), 0)))
    out += [(b"IDAT", pixels(default))] if default else []
    sequence = 0
    for number, (image, left, upper, disposal, blend, milliseconds) in enumerate(frames):
        place = struct.pack(">IIIII", sequence, *image.size, left, upper)
        out.append((b"fcTL", place + struct.pack(">HHBB", milliseconds, 1000, disposal, blend)))
        sequence += 1
        if number == 0 and not default:
            out.append((b"IDAT", pixels(image)))
        else:
            out.append((b"fdAT", struct.pack(">I", sequence) + pixels(image)))
            sequence += 1
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in [*out, (b"IEND", b"")]))
    return path


def on_white(image):
    """An RGB image of what `image` shows on a white page."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
