"""Frames of an image file, as viewers show them on a white page. A still image has one, an animated one has several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from stgt.data import apng
from stgt.data.deadline import Deadline
from stgt.data.errors import VideoError, require_file, require_memory
from stgt.data.names import is_image

# A file whose first bytes belong to none of these formats is not given to Pillow. Pillow would try all of its formats,
# and EPS, for instance, starts Ghostscript.
_FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,  # it ignores the further pictures that some phones put behind the first one
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}
_THREADS = 16  # a network file system answers many questions at a time
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""{orientation in the EXIF data: the operation that turns the image upright}"""


def holds_image(path: str | Path) -> bool:
    """Whether the first bytes of a file are those of a JPEG, PNG, WebP or BMP image, still or animated.

    The file's name does not matter, except that `.mjpeg` and `.mjpg` files are videos: they hold many JPEG images one
    after the other. GIF files are videos, too. Raises VideoError for an empty file, and if there is no regular file.
    """
    return image_format(path) is not None


def image_format(path: str | Path) -> str | None:
    """JPEG, PNG, WebP or BMP, by the first bytes of a file; otherwise None. Errors are those of `holds_image`."""
    head = _head(path)
    if Path(path).suffix.lower() in (".mjpeg", ".mjpg"):
        return None
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(apng.SIGNATURE):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def holds_still(path: str | Path) -> bool:
    """Whether a file holds an image of one frame. Only its beginning is read. Errors are those of `holds_image`."""
    kind = image_format(path)
    with _complaints(path):
        if kind == "PNG":
            return apng.promised_frames(path) <= 1
        if kind == "WebP":
            head = _head(path)
            return not (head[12:16] == b"VP8X" and head[20] & 2)
    return kind is not None


def stills(paths: Sequence[str | Path]) -> list[bool]:
    """For each file, whether it is an image of one frame.

    The ending tells, except for PNG, WebP and files without an ending, which are opened. A file that cannot be opened
    counts as such an image; reading it later tells the cause.
    """

    def still(path: str | Path) -> bool:
        if Path(path).suffix.lower() not in (".png", ".webp", ""):
            return is_image(str(path))
        try:
            return holds_still(path)
        except VideoError:
            return True

    found: list[bool] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(paths), 1000):  # a waiting call needs far more memory than its path
            found += threads.map(still, paths[start : start + 1000])
    return found


def read_image(
    path: str | Path,
    *,
    max_pixels: int,
    deadline: float | None = None,
    choose: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode an image: its frames, uint8 (T, H, W, 3) RGB, and the time when each begins, float64 (T,) in seconds.

    choose: takes the times when the frames begin, float64 (n,), and returns the numbers of the frames to decode, in
    ascending order; all frames are decoded if it is None. Only the chosen frames are kept in memory.
    A still image has one frame, at 0 s. Orientation in EXIF data is applied, transparency is composited on white, and
    16 bits are scaled to 8. A frame of an animation that claims to last 10 ms or less lasts 100 ms, as in browsers.
    Raises VideoError, naming the file and the cause, for a file that is missing, not a regular file, broken, or whose
    frames have more than `max_pixels` pixels; the size is checked before anything is decoded. So it does for an
    animation that takes longer than `deadline`, in seconds.
    """
    limit = Deadline(path, deadline)
    kind = image_format(path)
    if kind is None:
        raise VideoError(f"{path}: not an image, expected JPEG, PNG, WebP or BMP")
    with _complaints(path):
        with closing(_FORMATS[kind](path)) as image:
            _require_size(path, image.size, max_pixels)
        frames = _png_animation if kind == "PNG" and apng.promised_frames(path) else _frames
        seconds = [0.0]
        if not holds_still(path):
            seconds = [duration for _, duration in _in_time(frames(path, kind), limit)]
    begins = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
    chosen = np.arange(len(begins)) if choose is None else choose(begins)
    require_memory(path, len(chosen), image.height, image.width)
    decoded = {}
    with _complaints(path):
        for number, (frame, _) in enumerate(islice(_in_time(frames(path, kind), limit), int(chosen.max()) + 1)):
            if number in chosen:
                decoded[number] = np.array(_on_white(frame))
        return torch.from_numpy(np.stack([decoded[number] for number in chosen])), torch.from_numpy(begins[chosen])


def as_shown(image: Image.Image) -> Image.Image:
    """RGB as `read_image` gives it for the file of an image of Pillow: upright, on white, and with 8 bits a channel."""
    pixels = image
    if image.mode.startswith("I;16"):
        pixels = _sixteen_bits(np.asarray(image)[..., None], image.info.get("transparency"))
    return _on_white(_upright(pixels, image))


@contextmanager
def _complaints(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a VideoError of the file."""
    try:
        yield
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(f"{path}: there is not enough memory to decode the image") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise VideoError(f"{path}: {error.strerror}") from error
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise VideoError(f"{path}: broken image: {cause}") from error


def _head(path: str | Path) -> bytes:
    require_file(path)
    with _complaints(path), open(path, "rb") as file:
        return file.read(32)


def _require_size(path: str | Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise VideoError(
            f"{path}: a frame has {width} × {height} pixels, expected at most {max_pixels} in all; "
            "a larger max_pixels allows it"
        )


def _frames(path: str | Path, kind: str) -> Iterator[tuple[Image.Image, float]]:
    """Upright frames with 8 bits per channel, and how long each lasts in seconds."""
    with closing(_FORMATS[kind](path)) as image:
        for number in range(1 if kind == "PNG" else getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = _png_pixels(image, path) if kind == "PNG" else image
            if kind == "BMP" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
                pixels = image.convert("RGB")  # many programs write 0 as the alpha of opaque 32-bit files
            yield _upright(pixels, image), _lasting(image.info.get("duration", 0) / 1000)


def _in_time(frames: Iterator[tuple[Image.Image, float]], limit: Deadline) -> Iterator[tuple[Image.Image, float]]:
    for frame in frames:
        limit.check()
        yield frame


def _png_animation(path: str | Path, kind: str) -> Iterator[tuple[Image.Image, float]]:
    """Upright frames of an animated PNG file, and how long each lasts in seconds.

    A frame is valid until the next one is taken.
    """
    with closing(_FORMATS[kind](path)) as image:
        for part, canvas in apng.compose(apng.read_parts(path), image.size, _png_part):
            yield _upright(canvas, image), _lasting(part.seconds)


def _png_part(png: BinaryIO) -> Image.Image:
    return _png_pixels(PngImageFile(png), png).convert("RGBA")


def _lasting(seconds: float) -> float:
    return seconds if seconds > 0.01 else 0.1


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """The pixels, turned as the EXIF data of `image` says. Broken EXIF data is ignored, as viewers do."""
    image.load()  # Broken pixels raise here. Later they would pass for broken EXIF data.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return pixels
    return pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels


def _png_pixels(image: PngImageFile, source: str | Path | BinaryIO) -> Image.Image:
    """The pixels with 8 bits per channel. Pillow converts 16-bit grey and some transparent colours wrongly.

    image: the image in `source`, not yet decoded.
    """
    layout, transparent = image.tile[0].args if image.tile else None, image.info.get("transparency")
    if layout == "I;16B":
        return _sixteen_bits(np.asarray(image)[..., None], transparent)
    if transparent is None:
        image.load()
        return image
    if layout in ("L;2", "L;4"):  # Pillow scales the pixels to 0…255, but not this value
        image.info["transparency"] = transparent * (255 // (2 ** int(layout[2]) - 1))
    if layout == "RGB;16B":
        # Pillow keeps the high bytes only. Read in the other byte order, it keeps the low ones.
        lower = PngImageFile(source)
        lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
        return _sixteen_bits(np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower), transparent)
    image.load()
    return image


def _sixteen_bits(values: np.ndarray, transparent: int | tuple[int, int, int] | None) -> Image.Image:
    """uint16 (H, W, 1 or 3) as L, LA, RGB or RGBA; `transparent` is the colour of transparent pixels."""
    channels = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if transparent is not None:
        alpha = np.where((values == transparent).all(-1, keepdims=True), 0, 255).astype(np.uint8)
        channels = np.concatenate([channels, alpha], axis=-1)
    return Image.fromarray(channels.squeeze(-1) if channels.shape[-1] == 1 else channels)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, with transparent parts composited on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
