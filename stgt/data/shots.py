"""Finds where the shots of a video begin: hard cuts, and dissolves of up to half a second.

For each moment, the frames before it are compared with the frames after it, as small pictures. The two sides of a
boundary differ much more from each other than the frames of one side do among themselves, as Fisher's ratio tells. The
ratio is about 12 for steady motion, however fast, and larger for a cut. Sides of a quarter of a second find hard cuts,
also in quick motion and between short shots; sides of a second find dissolves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stgt.data.cuts import Cut, Window, cut, joined, numbers_with_frames
from stgt.data.images import holds_image
from stgt.data.pyav_reader import PyAVReader
from stgt.data.video import agreed, open_video
from stgt.data.windows import Pixels

LEAST = {0.25: 20.0, 1.0: 16.0}
"""{seconds of a side: smallest ratio of the squared distance of the sides' means to the variance within the sides}"""
DISTANCE = 0.06
"""Smallest root mean square difference of the sides' means, where black is 0 and white is 1"""
NOISE = 0.004
"""Standard deviation that is added to that of the sides, so that noise in a still picture is no boundary"""
SHORTEST = 0.5
"""Seconds of the shortest shot"""
SPAN = 60.0
"""Seconds of a video that are looked through at a time"""
SMALL = 8
"""Height and width of the small pictures"""


class Span(NamedTuple):
    """A part of a video file, in seconds."""

    path: str
    start: float
    end: float


def spans_of(path: str, pixels: Pixels) -> list[Span]:
    """The parts of a video for `boundaries`. Each lasts about SPAN seconds, and frames begin in it.

    An image has none. Raises VideoError for a file that cannot be opened.
    """
    if holds_image(path):
        return []
    with open_video(path, **pixels.decoding) as reader:
        end = reader.duration
        count = max(1, round(end / SPAN))
        parts = Cut(0.0, end, end / count, end / count, count)
        numbers = numbers_with_frames(reader, parts)
    # Rounding may leave a gap between the end of a part and the start of the next one, so that only starts are used.
    return [Span(path, parts[i].start, parts[i + 1].start if i + 1 < count else end) for i in numbers]


def boundaries(span: Span, decoding: Mapping[str, object]) -> list[float]:
    """The times in seconds, within a part of a video, at which shots begin. The video's beginning is not among them.

    decoding: max_pixels and deadline of `stgt.data.video.open_video`. Frames are always read with PyAV. Raises
    VideoError for a file that cannot be read.
    """
    margin = 2 * max(LEAST)
    limits = {name: decoding[name] for name in ("max_pixels", "deadline")}
    with PyAVReader(span.path, **limits) as reader:

        def read() -> list[tuple[np.ndarray, float]]:
            numbers = np.arange(*reader.between(max(0.0, span.start - margin), span.end + margin))
            return list(reader.pictures(numbers, side=SMALL)) if len(numbers) else []

        shown = agreed(reader, span.path, read)
    if not shown:  # one frame is shown all the time
        return []
    pictures, times = np.stack([picture for picture, _ in shown]), np.array([seconds for _, seconds in shown])
    found = [times[place] for place in _boundaries(pictures, times)]
    return [float(seconds) for seconds in found if span.start <= seconds < span.end and seconds > 0]


def windows_at(path: str, starts: Sequence[float], length: float, stride: float, pixels: Pixels) -> list[Window]:
    """The windows of a video whose shots begin at 0 and at `starts`, in seconds, ascending.

    A shot that is longer than `length` is cut like a whole video. Raises VideoError for a file that cannot be opened.
    """
    with open_video(path, **pixels.decoding) as reader:
        borders = [0.0, *_lasting(starts, reader.duration), reader.duration]
        cuts = [cut(end, length, stride, start=start) for start, end in itertools.pairwise(borders)]
        return [window for shot in cuts for window in joined(reader, shot)]


def _lasting(starts: Sequence[float], duration: float) -> list[float]:
    """The starts without those that would make a shot shorter than SHORTEST."""
    found: list[float] = []
    for seconds in starts:
        if seconds - (found or [0.0])[-1] >= SHORTEST and duration - seconds >= SHORTEST:
            found.append(seconds)
    return found


def _boundaries(pictures: np.ndarray, times: np.ndarray) -> list[int]:
    """The numbers of the first frames of shots. pictures: uint8 (n, H, W, 3), times: (n,) in seconds."""
    values = pictures.reshape(len(pictures), -1) / 255
    rate = (len(times) - 1) / max(times[-1] - times[0], 1e-6)
    found: list[int] = []
    for seconds, least in LEAST.items():
        frames = max(3, round(seconds * rate))
        ratio = _ratios(values, frames)
        for place in np.flatnonzero(ratio >= least).tolist():
            near = ratio[max(0, place - frames) : place + frames + 1]
            if ratio[place] == near.max() and all(abs(place - other) > frames for other in found):
                found.append(place)
    return sorted(found)


def _ratios(values: np.ndarray, frames: int) -> np.ndarray:
    """Fisher's ratio for each place between the `frames` values before and after it, or 0 if the sides are too alike.

    values: (n, d). Returns (n,); place i lies before frame i.
    """
    ratios = np.zeros(len(values))
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    squares = np.concatenate([[0.0], (values**2).mean(1).cumsum()])
    place = np.arange(frames, len(values) - frames + 1)
    if len(place) == 0:
        return ratios
    before = (sums[place] - sums[place - frames]) / frames
    after = (sums[place + frames] - sums[place]) / frames
    between = ((after - before) ** 2).mean(1)
    means = (before**2 + after**2).mean(1)
    within = ((squares[place + frames] - squares[place - frames]) / frames - means) / 2
    ratios[place] = np.where(between >= DISTANCE**2, between / (within.clip(0) + NOISE**2), 0)
    return ratios
