"""Inspection of a video or image file: the facts about it, and whether a reader reads it right.

The frames that a player shows are those that PyAV gives when it decodes a file from its start to its end. A reader
reads the file right if it gives the same frames when only some of them are asked for, as in training.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from stgt.data.errors import VideoError
from stgt.data.images import image_format
from stgt.data.orientation import degrees_clockwise
from stgt.data.video import Decoder, open_video, read_clip, sample_indices
from stgt.data.video_file import VideoFile

_SAMPLED = 8
_SIDE = 16
_MARGIN = 1.0
"""How much nearer another frame has to be, in 256 levels of brightness. Rounding makes less than one of difference."""


@dataclass
class Inspection:
    """The facts that were found out about a file before anything failed."""

    facts: dict[str, object] = field(default_factory=dict)
    """container, codec, rate (frames per second), rotation (degrees clockwise), duration (seconds), width and height
    when upright (pixels), frames, bytes, as far as they are known"""
    cause: str | None = None
    """Why the reader does not read the file right; None if it does"""
    pictures: np.ndarray | None = None
    """uint8 (T, 16, 16, 3), a few pixels of each frame in order; None if the file could not be decoded"""


@dataclass
class _Whole:
    """All frames of a file, decoded from its start to its end."""

    sums: list[int]
    """A checksum of each frame"""
    pictures: np.ndarray
    size: tuple[int, int]
    """Width and height when upright"""


def inspect(path: str | Path, decoder: Decoder, *, max_pixels: int, shown: np.ndarray | None = None) -> Inspection:
    """Decode a file as a whole, and then a few of its frames only, and compare the two. Pillow reads all images.

    shown: the pictures of an inspection with PyAV, if another reader's frames are to be compared with them.
    There is no deadline. Nothing is raised for a broken file: the fault is the inspection's `cause`.
    """
    found = Inspection()
    try:
        found.facts["bytes"] = Path(path).stat().st_size if Path(path).is_file() else None
        if image_format(path) is not None:
            _inspect_image(path, found, max_pixels)
        else:
            _inspect_video(path, decoder, found, max_pixels, shown)
    except VideoError as error:
        found.cause = str(error).removeprefix(f"{path}: ")
    return found


def _inspect_image(path: str | Path, found: Inspection, max_pixels: int) -> None:
    found.facts["codec"] = image_format(path)
    clip = read_clip(path, None, max_pixels=max_pixels)
    whole = _decode(clip.frames.numpy())
    _add_frames(found, whole)
    if len(whole.sums) > 1:
        _require_same(path, "auto", whole, max_pixels)


def _inspect_video(
    path: str | Path, decoder: Decoder, found: Inspection, max_pixels: int, shown: np.ndarray | None
) -> None:
    with VideoFile(path, max_pixels=max_pixels, deadline=None) as file:
        found.facts |= {
            "container": file.container.format.name,
            "codec": file.stream.codec_context.codec.canonical_name,
            "rate": None if file.rate is None else round(file.rate, 3),
        }
        with file.complaints():
            for frame in islice(file.frames(file.packets()), 1):
                found.facts["rotation"] = degrees_clockwise(frame)
    with open_video(path, decoder, max_pixels=max_pixels, deadline=None) as reader:
        whole = _decode(reader.every_frame())
        found.facts["duration"] = round(reader.duration, 3)
    if not whole.sums:
        raise VideoError(f"{path}: the video track has no frames")
    _add_frames(found, whole)
    if shown is not None:
        _require_shown(path, decoder, shown, max_pixels, len(whole.sums))
    _require_same(path, decoder, whole, max_pixels)


def _add_frames(found: Inspection, whole: _Whole) -> None:
    width, height = whole.size
    found.facts |= {"width": width, "height": height, "frames": len(whole.sums)}
    found.pictures = whole.pictures


def _decode(frames: Iterable[np.ndarray]) -> _Whole:
    sums, pictures, size = [], [], (0, 0)
    for frame in frames:
        size = frame.shape[1], frame.shape[0]
        sums.append(_sum(frame))
        pictures.append(_picture(frame))
    return _Whole(sums, np.stack(pictures) if pictures else np.empty((0, _SIDE, _SIDE, 3), np.uint8), size)


def _require_same(path: str | Path, decoder: Decoder, whole: _Whole, max_pixels: int) -> None:
    """Raise VideoError unless frames that are read a few at a time, or alone, are those of the whole file."""
    options = {"decoder": decoder, "max_pixels": max_pixels, "deadline": None}
    numbers = sample_indices(len(whole.sums), _SAMPLED)
    clip = read_clip(path, _SAMPLED, **options)
    for number, frame in zip(numbers, clip.frames.numpy(), strict=True):
        if _sum(frame) != whole.sums[number]:
            raise VideoError(f"{path}: frame {number} is another one when {_SAMPLED} frames are read than when all are")
    if decoder == "decord":
        return  # decord gives several frames the same time
    for place in (_SAMPLED - 1, _SAMPLED // 2):
        alone = read_clip(path, 1, start=float(clip.times[place]), **options).frames[0].numpy()
        if _sum(alone) != whole.sums[numbers[place]]:
            raise VideoError(f"{path}: frame {numbers[place]} is another one when it is read alone than when all are")


def _require_shown(path: str | Path, decoder: Decoder, shown: np.ndarray, max_pixels: int, count: int) -> None:
    """Raise VideoError unless a few frames of the reader are those that a player shows."""
    if count != len(shown):
        raise VideoError(f"{path}: other frames: {decoder} finds {count} of them, and players show {len(shown)}")
    numbers = sample_indices(count, _SAMPLED)
    clip = read_clip(path, _SAMPLED, decoder=decoder, max_pixels=max_pixels, deadline=None)
    for number, frame in zip(numbers, clip.frames.numpy(), strict=True):
        if (other := other_frame(number, frame, shown)) is not None:
            raise VideoError(
                f"{path}: other frames: frame {number} of {decoder} is the one that players show as {other}"
            )


def other_frame(number: int, frame: np.ndarray, shown: np.ndarray) -> int | None:
    """The number of the shown frame that is most like `frame`, uint8 (H, W, 3); None if that is `number`.

    shown: `Inspection.pictures`.
    """
    distances = np.abs(shown.astype(np.int16) - _picture(frame)).mean((1, 2, 3))
    nearest = int(distances.argmin())
    return nearest if distances[nearest] < distances[number] - _MARGIN else None


def _sum(frame: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(frame))


def _picture(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    middle = (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
    return frame[np.ix_((middle * height).astype(int), (middle * width).astype(int))]
