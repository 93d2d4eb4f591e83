"""Cuts videos into windows of time, and leaves out windows that would show only what the window before them shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from stgt.data.decord_reader import DecordReader
from stgt.data.frame_index import LONG
from stgt.data.pyav_reader import PyAVReader


class Window(NamedTuple):
    """A part of a video, in seconds from its beginning."""

    start: float
    end: float


@dataclass(frozen=True)
class Cut:
    """The windows of a part of a video, by time alone.

    A damaged video may claim to last for centuries, so each window is computed when it is asked for.
    """

    start: float
    """Seconds at which the part begins"""
    end: float
    """Seconds at which the part ends, and so does its last window"""
    length: float
    """Seconds of a window"""
    stride: float
    """Seconds between the beginnings of windows"""
    count: int
    """The number of windows"""

    def __getitem__(self, number: int) -> Window:
        offset = number * self.stride
        return Window(self.start + offset, min(self.start + (offset + self.length), self.end))


def cut(end: float, length: float, stride: float, *, start: float = 0.0) -> Cut:
    """The windows from `start` to `end`: one begins every `stride` seconds and lasts `length`, the last may be shorter.

    The last window is the first one that reaches the end. Raises ValueError unless 0 < stride <= length.
    """
    if not 0 < length < math.inf:
        raise ValueError(f"window is {length!r}, expected a positive number of seconds")
    if not 0 < stride <= length:
        raise ValueError(f"stride is {stride}, expected a positive number of seconds, at most the window of {length}")
    return Cut(start, end, length, stride, 1 + max(0, math.ceil((end - start - length) / stride)))


def numbers_with_frames(reader: PyAVReader | DecordReader, windows: Cut) -> list[int]:
    """The numbers of the windows of a video in which a frame begins, and that of the first one.

    The clock of a recording may jump by a day, and a damaged file may claim any time, so the number of the other
    windows has no bound. In a video of more than `LONG` frames, a few windows without a frame may be among the numbers.
    They then lie among windows that together hold at least as many frames as there are windows.
    """
    # A look at each window of a long film would read most of its packets several times.
    looked = 1 + reader.length // LONG

    def among(first: int, stop: int) -> Iterator[int]:
        if first == stop:
            return
        begin, end = reader.between(windows[first].start, windows[stop - 1].end)
        if stop - first <= min(looked, end - begin):
            yield from range(first, stop)
        elif begin < end:
            middle = (first + stop) // 2
            yield from among(first, middle)
            yield from among(middle, stop)

    return [0, *among(1, windows.count)]


def joined(reader: PyAVReader | DecordReader, windows: Cut) -> list[Window]:
    """The windows of a video, where each window in which no frame begins is joined with the one before it.

    It would show only the last frame of the window before. See `numbers_with_frames` for long videos.
    """
    kept, found = numbers_with_frames(reader, windows), []
    for number, after in zip(kept, [*kept[1:], windows.count], strict=True):
        start, end = windows[number]
        if after > number + 1:
            end = windows.end if after == windows.count else windows[after].start
        found.append(Window(start, end))
    return found
