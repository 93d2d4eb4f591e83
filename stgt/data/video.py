"""Frames from a video or image file. A still image is a clip of one frame."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from stgt.arguments import require_whole
from stgt.data.decord_reader import DecordReader
from stgt.data.errors import VideoError as VideoError
from stgt.data.images import holds_image, holds_still, read_image
from stgt.data.pyav_reader import FramesDisagreeError, PyAVReader
from stgt.data_config import DEADLINE, MAX_PIXELS, Decoder, Sampling

Result = TypeVar("Result")


def sample_indices(
    length: int, frames: int, sampling: Sampling = "uniform", rng: torch.Generator | None = None
) -> np.ndarray:
    """The numbers of the frames to take from a clip of `length` frames: int64 (frames,), ascending.

    uniform: ⌊i·n/T⌋, which is arange(0, n, n/T). headtail: half of the frames come from each half of the clip; with
    `rng` they are drawn, without it they are the midpoints of equal segments. If `frames` is odd, the second half gives
    one more. A clip with fewer frames gives all of them, and its last one repeatedly.
    Raises ValueError for a length or number of frames below 1, and for another sampling.
    """
    require_whole("length", length)
    require_whole("frames", frames)
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling is {sampling!r}, expected one of {', '.join(map(repr, get_args(Sampling)))}")
    if length <= frames:
        return np.minimum(np.arange(frames), length - 1)
    if sampling == "uniform":
        return np.arange(frames) * length // frames
    middle, head = length // 2, frames // 2
    return np.concatenate([_draw(0, middle, head, rng), _draw(middle, length, frames - head, rng)])


def _draw(start: int, stop: int, count: int, rng: torch.Generator | None) -> np.ndarray:
    """`count` distinct ascending numbers in [start, stop): drawn, or evenly spread if there is no generator."""
    if rng is None:
        return start + (2 * np.arange(count) + 1) * (stop - start) // (2 * max(count, 1))
    return start + torch.randperm(stop - start, generator=rng)[:count].sort().values.numpy()


class Clip(NamedTuple):
    """Frames, and the times at which a player begins to show them."""

    frames: Tensor
    """uint8 (T, H, W, 3), RGB"""
    times: Tensor
    """float64 (T,), seconds from the beginning of the file"""


def read_frames(
    path: str | Path,
    frames: int | None,
    sampling: Sampling = "uniform",
    rng: torch.Generator | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
    deadline: float | None = DEADLINE,
) -> Tensor:
    """Decode `frames` frames of a file at full size, or all if None: uint8 (T, H, W, 3), RGB; T=1 for a still image.

    Frame i is the i-th frame that a player shows: in the order of presentation, without frames that an edit list hides,
    upright, and resized to the first frame if the size changes midway. `sample_indices` tells which frames are taken.

    start, end: a window in seconds. Only frames that begin at a time t with start <= t < end are sampled; if none
    begins there, the frame that is shown at `start` is. decoder: "pyav" (and "auto", which is the same) or "decord",
    the released pipeline's reader, which gives wrong numbers to the frames of many files. max_pixels: pixels of the
    largest frame or image; larger ones are refused before they are decoded. deadline: seconds that the file may take,
    or None for no limit; decord has no limit.

    Raises VideoError, naming the file and the cause, for a file that is missing, empty, cut short, broken, too large,
    too slow or without a video track, and ValueError for arguments that make no sense or a window after the end.
    """
    return read_clip(
        path, frames, sampling, rng, start=start, end=end, decoder=decoder, max_pixels=max_pixels, deadline=deadline
    ).frames


def read_clip(
    path: str | Path,
    frames: int | None,
    sampling: Sampling = "uniform",
    rng: torch.Generator | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
    deadline: float | None = DEADLINE,
) -> Clip:
    """The frames that `read_frames` gives for these arguments, with their times. Errors are those of `read_frames`."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"path is {path!r}, expected that of a video or an image")
    require_window(start, end)
    if rng is not None and not isinstance(rng, torch.Generator):
        raise ValueError(f"rng is {rng!r}, expected a torch.Generator or None")
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder is {decoder!r}, expected one of {', '.join(map(repr, get_args(Decoder)))}")
    require_whole("max_pixels", max_pixels)
    if deadline is not None and not (isinstance(deadline, Real) and deadline > 0):
        raise ValueError(f"deadline is {deadline!r}, expected a positive number of seconds, or None")

    def sample(first: int, stop: int) -> np.ndarray:
        length = stop - first
        return first + (np.arange(length) if frames is None else sample_indices(length, frames, sampling, rng))

    if holds_image(path):
        return _from_image(path, sample, start, end, max_pixels=max_pixels, deadline=deadline)
    with open_video(path, decoder, max_pixels=max_pixels, deadline=deadline) as reader:
        return _from_video(path, reader, sample, start, end, rng)


def open_video(
    path: str | Path, decoder: Decoder, *, max_pixels: int, deadline: float | None
) -> PyAVReader | DecordReader:
    """A reader that gives a video's frames by number. Arguments and errors are those of `read_frames`."""
    if decoder == "decord":
        return DecordReader(path, max_pixels=max_pixels)
    return PyAVReader(path, max_pixels=max_pixels, deadline=deadline)


def decoder_version(decoder: Decoder = "auto") -> str:
    """The libraries that decide which pixels `read_frames` gives, with their versions: one line for cache keys."""
    import av

    libraries = ("libavformat", "libavcodec", "libswscale")
    versions = {"PyAV": av.__version__} | {name: ".".join(map(str, av.library_versions[name])) for name in libraries}
    if decoder == "decord":
        versions = {"decord": importlib.metadata.version("decord")}
    versions["Pillow"] = importlib.metadata.version("pillow")
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _from_video(
    path: str | Path,
    reader: PyAVReader | DecordReader,
    sample: Callable[[int, int], np.ndarray],
    start: float | None,
    end: float | None,
    rng: torch.Generator | None,
) -> Clip:
    state = None if rng is None else rng.get_state()

    def read() -> Clip:
        if rng is not None:
            rng.set_state(state)  # a second attempt makes the same draws as the first
        return _read(reader, sample(*_window(path, reader, start, end)))

    return agreed(reader, path, read)


def agreed(reader: PyAVReader | DecordReader, path: str | Path, read: Callable[[], Result]) -> Result:
    """The result of reading frames, which is tried again with exact numbers if decoding gives other frames.

    Raises VideoError if the frames differ again.
    """
    try:
        return read()
    except FramesDisagreeError:
        reader.count_by_decoding()
    try:
        return read()
    except FramesDisagreeError:
        raise VideoError(f"{path}: broken video: decoding it twice gives different frames") from None


def _read(reader: PyAVReader | DecordReader, numbers: np.ndarray) -> Clip:
    distinct, place = np.unique(numbers, return_inverse=True)
    frames, times = reader.read(distinct)
    if len(distinct) < len(numbers):
        frames, times = frames[place], times[place]
    return Clip(torch.from_numpy(frames), torch.from_numpy(times))


def _from_image(
    path: str | Path,
    sample: Callable[[int, int], np.ndarray],
    start: float | None,
    end: float | None,
    **limits,
) -> Clip:
    """A still image, which is shown at all times, or frames of an animated one. limits: those of `read_image`."""
    if holds_still(path):
        return Clip(*read_image(path, **limits))

    def choose(times: np.ndarray) -> np.ndarray:
        return sample(*_or_shown(*np.searchsorted(times, [start or 0.0, math.inf if end is None else end]).tolist()))

    return Clip(*read_image(path, choose=choose, **limits))


def require_window(start: float | None, end: float | None) -> None:
    """Raise ValueError unless `start` and `end` are two times in seconds, or one of them, or none."""
    if start is not None and not (isinstance(start, Real) and 0 <= start < math.inf):
        raise ValueError(f"start is {start!r}, expected a number of seconds that is not negative")
    if end is not None and not (isinstance(end, Real) and (start or 0) < end < math.inf):
        raise ValueError(f"end is {end!r}, expected a number of seconds after start={start or 0}")


def _window(
    path: str | Path, reader: PyAVReader | DecordReader, start: float | None, end: float | None
) -> tuple[int, int]:
    """Numbers (first, stop) of the frames that begin in a window, or of the one that is shown then if none begins."""
    if start is None and end is None:
        return 0, reader.length
    duration = reader.duration
    require_before_end(path, start or 0.0, duration)
    return frame_window(reader, start or 0.0, duration if end is None else min(end, duration))


def require_before_end(path: str | Path, start: float, duration: float) -> None:
    """Raise ValueError, which names the file, unless a window begins before the file ends. Both are in seconds."""
    if start >= duration:
        raise ValueError(f"start is {start}, expected less than the {duration:g} s of {path}")


def frame_window(reader: PyAVReader | DecordReader, start: float, end: float) -> tuple[int, int]:
    """Numbers (first, stop) of the frames that begin at start <= t < end, in seconds, or of the one that is shown."""
    return _or_shown(*reader.between(start, end))


def _or_shown(first: int, stop: int) -> tuple[int, int]:
    """The frames first to stop - 1, or if there are none, the frame before, which is still shown then."""
    return (first, stop) if first < stop else (max(first - 1, 0), max(first, 1))
