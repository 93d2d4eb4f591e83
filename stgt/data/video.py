"""Frames from a video file; an image is a clip of one frame. The only place that imports decoders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from stgt.data.errors import VideoError as VideoError
from stgt.data.files import is_image

Sampling = Literal["uniform", "headtail"]


def sample_indices(
    length: int, frames: int, sampling: Sampling = "uniform", rng: torch.Generator | None = None
) -> np.ndarray:
    """Which frames of a clip of `length` frames to take: `frames` ascending int64 indices.

    uniform: ⌊i·n/T⌋, i.e. arange(0, n, n/T). headtail: half of the frames drawn from each half of the clip with `rng`,
    or the midpoints of equal segments of each half without one; of an odd number the second half gives one more.
    A clip of fewer frames than asked for gives all of them, and then its last one again (SPEC section 5).
    Raises ValueError for a length or number of frames below 1, and for another sampling.
    """
    for name, value in (("length", length), ("frames", frames)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling is {sampling!r}, expected one of {', '.join(map(repr, get_args(Sampling)))}")
    if length <= frames:
        return np.minimum(np.arange(frames), length - 1)
    if sampling == "uniform":
        return np.arange(frames) * length // frames
    middle, head = length // 2, frames // 2
    return np.concatenate([_draw(0, middle, head, rng), _draw(middle, length, frames - head, rng)])


def _draw(start: int, stop: int, count: int, rng: torch.Generator | None) -> np.ndarray:
    """`count` distinct ascending numbers of [start, stop): drawn, or evenly spread where there is no generator."""
    if rng is None:
        return start + (2 * np.arange(count) + 1) * (stop - start) // (2 * max(count, 1))
    return start + torch.randperm(stop - start, generator=rng)[:count].sort().values.numpy()


def read_frames(
    path: str | Path,
    frames: int | None,
    sampling: Sampling = "uniform",
    rng: torch.Generator | None = None,
) -> torch.Tensor:
    """Decode `frames` frames of a file at full size, or every frame if None: uint8 (T, H, W, 3), RGB; T=1 of an image.

    Raises VideoError, naming the file and the cause, for a file that is missing, empty, truncated, broken or without a
    video track. A container that promises many more frames than it holds can keep the decoder busy for ever, and only
    killing its process ends that: `stgt data check` finds such files before a run (see `stgt.data.check`).
    """
    if _holds_image(path):
        return _read_image(path)
    with _reader(path) as reader:
        length = len(reader)
        wanted = np.arange(length) if frames is None else sample_indices(length, frames, sampling, rng)
        distinct, place = np.unique(wanted, return_inverse=True)
        decoded = reader.get_batch(distinct.tolist()).asnumpy()
    return torch.from_numpy(decoded if len(wanted) == len(distinct) else decoded[place])


def decode_through(path: str | Path) -> int:
    """Decode a file by leaps, as training does, then every frame of it; returns their number, raises VideoError."""
    if _holds_image(path):
        return len(_read_image(path))
    with _reader(path) as reader:
        length = len(reader)
        reader.get_batch(np.unique(sample_indices(length, 8)).tolist())
        for start in range(0, length, 16):  # a whole film does not fit into memory
            reader.get_batch(list(range(start, min(start + 16, length))))
    return length


def _holds_image(path: str | Path) -> bool:
    """By the file's ending; what has none is looked into."""
    from PIL import Image

    if Path(path).suffix:
        return is_image(str(path))
    try:
        Image.open(path).close()
    except OSError:
        return False
    return True


def _read_image(path: str | Path) -> torch.Tensor:
    """uint8 (1, H, W, 3), RGB."""
    from PIL import Image

    _require_file(path)
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))[None]
    # A broken PNG is a SyntaxError; one whose size would fill the memory has an error of its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise VideoError(f"{path}: broken image: {cause}") from error


def _require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise VideoError(f"{path}: no such file")
    if Path(path).stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")


@contextmanager
def _reader(path: str | Path) -> Iterator:
    """A decoder of the file, whose complaints become VideoError."""
    import decord

    _require_file(path)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread and one reader per clip: data loader workers are the parallelism, and readers do not survive fork.
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) == 0:
            raise VideoError(f"{path}: the video track has no frames")
        yield reader
    except VideoError:
        raise
    except (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        raise VideoError(f"{path}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The decoder's message as one line that a person understands."""
    text = str(error)
    if "cannot find video stream" in text:
        return "no video track"
    if text.startswith("Error reading"):  # all that decord says of a container it cannot open
        return "not a video file, or one that is cut short"
    # decord puts the time and its own source line before each message, once per thread that passes it on.
    return "broken video: " + re.sub(r"\[[\d:]+\] \S+:\d+: ", "", text.splitlines()[0])[:200]
