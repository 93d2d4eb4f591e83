"""Frames of a video by number, read with decord, which the pipeline of the released model uses.

decord 0.6 gives other numbers to frames than players do in many files: AVI, WMV and MPEG streams, streams with B-frames
in several groups of pictures, and clips that were cut without encoding them again. It also has no deadline. Use it only
to get the released reader's frames; `stgt data check` finds the files for which both readers agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stgt.data.errors import VideoError, require_memory
from stgt.data.video_file import VideoFile


class DecordReader:
    """A video whose frames have decord's numbers; it has the methods of `stgt.data.pyav_reader.PyAVReader`."""

    def __init__(self, path: str | Path, *, max_pixels: int) -> None:
        """Open a file. max_pixels: pixels of the largest frame that may be decoded.

        Raises VideoError, naming the file and the cause.
        """
        with VideoFile(path, max_pixels=max_pixels, deadline=None) as file:  # decord has no limits of its own
            context = file.stream.codec_context
            self._codec, self._declared = context.codec.canonical_name, (context.height, context.width)
        try:
            import decord
        except ImportError:
            raise VideoError(f"{path}: decord is not installed, and decoder='pyav' reads without it") from None
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._errors = path, (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError)
        with self._complaints():
            # One thread decodes a clip, because a data loader has several worker processes.
            self._reader = decord.VideoReader(str(Path(path).absolute()), ctx=decord.cpu(0), num_threads=1)
            self.length = len(self._reader)
        if self.length == 0:
            raise VideoError(f"{path}: the video track has no frames")

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(self, *error: object) -> None:
        del self._reader

    @property
    def duration(self) -> float:
        """Seconds until the last frame is no longer shown."""
        return float(self._reader.get_frame_timestamp(self.length - 1)[1])

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames by number (ascending int64): uint8 (n, H, W, 3) in RGB, float64 (n,) times in seconds."""
        with self._complaints():
            require_memory(self._path, len(numbers), *self._declared)
            return self._reader.get_batch(numbers.tolist()).asnumpy(), self._times()[numbers]

    def every_frame(self) -> Iterator[np.ndarray]:
        """All frames in decord's order, uint8 (H, W, 3)."""
        return (picture for picture, _ in self.pictures(np.arange(self.length)))

    def pictures(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        """The frames of `read` one after the other, uint8 (H, W, 3), each with its time in seconds."""
        for start in range(0, len(numbers), 16):  # all frames of a film together need too much memory
            yield from zip(*self.read(numbers[start : start + 16]), strict=True)

    def between(self, start: float, end: float) -> tuple[int, int]:
        """Numbers of the first frame shown at or after `start` and of the first shown at or after `end`, in seconds."""
        return tuple(np.searchsorted(self._times(), np.array([start, end]) - 1e-6).tolist())

    def _times(self) -> np.ndarray:
        return self._reader.get_frame_timestamp(np.arange(self.length))[:, 0].astype(np.float64)

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise VideoError(f"{self._path}: {_cause(error, self._codec)}") from error


def _cause(error: Exception, codec: str) -> str:
    """decord's message as one plain line. decord has no word of its own for a file that is not supported."""
    text = str(error)
    if "cannot find video stream" in text:
        return f"decord has no decoder for {codec}"
    if text.startswith("Error reading"):  # decord gives no other reason when it cannot open a container
        return "decord cannot open the file, which may be cut short"
    if "Failed to measure duration" in text:
        return "decord cannot read a file that does not tell how long it is"
    # decord puts the time and a line of its source before each message, once for each thread that passes it on.
    return "decord cannot read the file: " + re.sub(r"\[[\d:]+\] \S+:\d+: ", "", text.splitlines()[0])[:200]
