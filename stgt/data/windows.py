"""The windows of video files, and the frames of many windows with one pass through the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stgt.data.cuts import Window, cut, joined
from stgt.data.decord_reader import DecordReader
from stgt.data.errors import VideoError
from stgt.data.images import holds_image
from stgt.data.pixels import to_pixels
from stgt.data.pyav_reader import PyAVReader
from stgt.data.transforms import CLIP_MEAN, CLIP_STD, eval_transform
from stgt.data.video import DEADLINE, MAX_PIXELS, agreed, frame_window, open_video, read_clip, sample_indices

WHOLE = 1e18
"""A window that is longer than any video, in seconds"""
DECODING = {"decoder": "auto", "max_pixels": MAX_PIXELS, "deadline": DEADLINE}


@dataclass(frozen=True)
class Pixels:
    """How a model wants to see a video."""

    frames: int
    """Number of frames of a window"""
    size: int
    """Side of the square frames"""
    crop: bool = False
    """Whether the square is cut out of the middle; otherwise the whole frame is squeezed into it"""
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    decoding: dict = field(default_factory=lambda: dict(DECODING))
    """Keyword arguments of `stgt.data.video.open_video`: decoder, max_pixels and deadline"""

    def transform(self) -> Callable[[Tensor], Tensor]:
        """The function that makes the model's input of frames, uint8 (T, 3, H, W) → float32 (T, 3, S, S)."""
        return eval_transform(self.size, crop=self.crop, mean=self.mean, std=self.std)


class WindowPixels(NamedTuple):
    """Frames of several windows of one video. A frame that lies in two windows is there once."""

    pixels: Tensor
    """float32 (n, 3, S, S)"""
    rows: Tensor
    """int64 (W, T): for each window, the rows of its frames in `pixels`"""


def windows_of(path: str | Path, length: float, stride: float, pixels: Pixels) -> list[Window]:
    """The windows of a video file, see `stgt.data.cuts`. An image, also an animated one, is one window.

    Raises VideoError for a file that cannot be opened.
    """
    if holds_image(path):
        last = read_clip(path, 1, start=1e9, max_pixels=pixels.decoding["max_pixels"]).times[-1]
        return [Window(0.0, float(last))]
    with open_video(path, **pixels.decoding) as reader:
        return joined(reader, cut(reader.duration, length, stride))


def read_windows(path: str | Path, windows: Sequence[Window], pixels: Pixels) -> WindowPixels:
    """Evenly spread frames of each window.

    The frames of a window are those that `read_frames` gives for its start and end. All windows of an image have the
    frames of the whole image. Raises VideoError for a file that cannot be read.
    """
    frames, transform = pixels.frames, pixels.transform()
    if holds_image(path):
        found = to_pixels(read_clip(path, frames, max_pixels=pixels.decoding["max_pixels"]).frames, transform)
        rows = torch.arange(frames).clamp(max=len(found) - 1)
        return WindowPixels(found, rows.expand(len(windows), -1).clone())
    with open_video(path, **pixels.decoding) as reader:
        return agreed(reader, path, lambda: _read(reader, windows, frames, transform))


class Chunk(NamedTuple):
    """Windows of one file that are read together."""

    path: str
    windows: list[Window]
    fault: str | None = None
    """Why the file cannot be opened; it then has no windows"""


def read_chunk(chunk: Chunk, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """The parts of `read_windows` as arrays, computed by one thread. Processes that send them to another one call this.

    Raises VideoError, whose message does not name the file.
    """
    if chunk.fault is not None:
        raise VideoError(chunk.fault)
    torch.set_num_threads(1)
    try:
        found = read_windows(chunk.path, chunk.windows, pixels)
    except VideoError as error:
        raise VideoError(str(error).removeprefix(f"{chunk.path}: ")) from None
    return found.pixels.numpy(), found.rows.numpy()


def read_whole(path: str | Path, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of `read_chunk` for a whole file as one window. Errors are those of `read_chunk`."""
    try:
        windows = windows_of(path, WHOLE, WHOLE, pixels)
    except VideoError as error:
        raise VideoError(str(error).removeprefix(f"{path}: ")) from None
    return read_chunk(Chunk(str(path), windows), pixels)


def _read(
    reader: PyAVReader | DecordReader, windows: Sequence[Window], frames: int, transform: Callable[[Tensor], Tensor]
) -> WindowPixels:
    spans = [frame_window(reader, window.start, window.end) for window in windows]
    numbers = np.stack([first + sample_indices(stop - first, frames) for first, stop in spans])
    distinct, rows = np.unique(numbers, return_inverse=True)
    pictures = (torch.from_numpy(picture)[None] for picture, _ in reader.pictures(distinct))
    pixels = torch.cat([to_pixels(picture, transform) for picture in pictures])
    return WindowPixels(pixels, torch.from_numpy(rows.reshape(numbers.shape)))
