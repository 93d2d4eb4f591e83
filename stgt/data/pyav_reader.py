"""Frames of a video by number, read with PyAV, the Python binding of FFmpeg's libraries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from stgt.data.errors import VideoError, require_memory
from stgt.data.frame_index import (
    LONG,
    REORDERED,
    FrameIndex,
    PacketTable,
    PacketTimes,
    UnusableTimesError,
    index_of,
    stores_times,
)
from stgt.data.orientation import turns_sideways, upright
from stgt.data.video_file import UNDECODABLE, VideoFile

# Decoding this many frames without need costs less than a seek, after which the decoder starts anew.
NEAR = 16
# Frames that were decoded only to count them are kept up to this many bytes, so that they are not decoded again.
KEPT_BYTES = 2**27
# FFmpeg rounds the time at which a file begins to a microsecond, so a frame may seem to begin before the file.
_START_ROUNDING = 1e-6
# FFmpeg converts these formats of two bytes a pixel to RGB as if the bytes were in the other order, unless the size
# changes as well. QuickTime files have such pixels. FFmpeg's conversion to the formats of the other order is right.
_SWAPPED = ("rgb555be", "rgb565be", "bgr555be", "bgr565be")

Numbered = tuple[VideoFrame, float]  # a frame and its time of presentation in seconds


class FramesDisagreeError(Exception):
    """Decoding gave other frames than the times of the packets promised."""


class PyAVReader:
    """A video whose frames are numbered in the order in which a player shows them. It is a context manager.

    The numbers come from the times of the packets if these are reliable. If `read` finds that the decoder gives other
    frames, it raises FramesDisagreeError; `count_by_decoding` then makes the numbers exact, and `length` may change.
    Every other fault of the file is a VideoError that names the file and the cause.
    """

    def __init__(self, path: str | Path, *, max_pixels: int, deadline: float | None) -> None:
        """Open a file.

        max_pixels: pixels of the largest frame that may be decoded. deadline: seconds that all work on it may take.
        """
        self._file = VideoFile(path, max_pixels=max_pixels, deadline=deadline)
        self._shown_size = (0, 0)
        self._index: FrameIndex | PacketTable | None = None
        self._counted: list[tuple[VideoFrame | None, float]] = []
        self._lasting = 0.0  # seconds for which the last of these frames is shown, or 0
        self._tells_keyframes = True
        self._ends_whole = self._file.ends_whole()
        self._start = self._file.start or 0.0
        try:
            with self._file.complaints():
                self._index = self._make_index()
            if isinstance(self._index, FrameIndex) and self._index.length:
                first = int(self._index.pts[0]) * float(self._file.stream.time_base)
                # ASF files may say that they begin after their first frame.
                self._start = first if self._file.start is None else min(self._file.start, first)
        except UnusableTimesError:
            self.count_by_decoding()
        if self.length == 0:
            raise VideoError(f"{path}: the video track has no frames")

    def __enter__(self) -> PyAVReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def length(self) -> int:
        """The number of frames that a player shows."""
        return len(self._counted) if self._index is None else self._index.length

    @property
    def duration(self) -> float:
        """Seconds until the last frame is no longer shown."""
        times, lasting = self._last_frames()
        if lasting:
            return times[-1] + lasting
        return times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / self._rate)

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames by number (ascending int64): uint8 (n, H, W, 3) in RGB, float64 (n,) times of presentation in seconds.

        All frames have the size of the file's first one.
        """
        frames, times = None, np.empty(len(numbers))
        for place, (picture, seconds) in enumerate(self.pictures(numbers)):
            if frames is None:
                require_memory(self._file.path, len(numbers), *picture.shape[:2])
                frames = np.empty((len(numbers), *picture.shape), np.uint8)
            frames[place], times[place] = picture, seconds
        return frames, times

    def pictures(self, numbers: np.ndarray, side: int | None = None) -> Iterator[tuple[np.ndarray, float]]:
        """The frames of `read` one after the other, uint8 (H, W, 3), each with its time in seconds.

        side: height and width of the pictures, each of which shows the whole frame as it is stored; None for the size
        and the position of a player. Only one frame needs memory at a time. FramesDisagreeError may come after some
        frames.
        """
        count = 0
        with self._file.complaints():
            for frame, seconds in self._from_start(numbers) if self._index is None else self._by_seeking(numbers):
                yield self._picture(frame) if side is None else _squeezed(frame, side), seconds
                count += 1
        if count < len(numbers):
            raise FramesDisagreeError

    def every_frame(self) -> Iterator[np.ndarray]:
        """All frames in order, uint8 (H, W, 3), decoded from the first to the last without the index."""
        with self._file.complaints():
            for number, frame in enumerate(self._all_frames()):
                if number == 0:
                    self._take_size_of(frame)
                yield self._picture(frame)

    def between(self, start: float, end: float) -> tuple[int, int]:
        """Numbers of the first frames that begin at or after `start` and at or after `end`, in seconds."""
        if self._index is not None:
            try:
                with self._file.complaints():
                    return tuple(self._index.first_rank_from(self._pts(seconds)) for seconds in (start, end))
            except UnusableTimesError:
                self.count_by_decoding()
        times = np.array([seconds for _, seconds in self._counted])
        return tuple(np.searchsorted(times, np.array([start, end]) - _START_ROUNDING).tolist())

    def count_by_decoding(self) -> None:
        """Decode the file from its start to its end, and number the frames as they come out of the decoder."""
        frames, pts, dts, kept = [], [], [], 0
        frame = None
        with self._file.complaints():
            for frame in self._all_frames(dts):
                if not pts:
                    self._take_size_of(frame)
                pts.append(frame.pts)
                kept += sum(plane.buffer_size for plane in frame.planes)
                if kept <= KEPT_BYTES:
                    frames.append(frame)
                else:
                    frames.clear()
        if frame is None:
            raise VideoError(f"{self._file.path}: the video track has no frames that can be decoded and shown")
        times = self._counted_times(pts, dts)
        self._counted = list(zip(frames or [None] * len(times), times, strict=True))
        ends_last = None not in pts and pts[-1] == max(pts)
        self._lasting = self._file.lasting(frame) * float(self._file.stream.time_base) if ends_last else 0.0
        self._index = None

    def _counted_times(self, pts: list[int | None], dts: list[int | None]) -> list[float]:
        """Presentation times of all frames in seconds. pts: in the order of display. dts: those of the packets."""
        if None not in pts and len(set(pts)) == len(pts) and _longest_move(pts) <= REORDERED:
            # For a container that stores no presentation times, FFmpeg may swap those of neighbouring frames.
            pts = sorted(pts)
            known = self._file.start is not None and stores_times(self._file.container.format.name)
            late = min(0.0, self._seconds(pts[0])) if known else self._seconds(pts[0])
            if self._file.start is not None and late > REORDERED / self._rate:
                late = 0.0  # no decoder is so late, so the video begins after the sound
            return [self._seconds(value) - late for value in pts]
        if not _descend(pts):
            return [self._seconds(value) for value in self._apart(pts)]
        if len(dts) == len(pts) and not _descend(dts):
            return [(value - dts[0]) * float(self._file.stream.time_base) for value in self._apart(dts)]
        return [number / self._rate for number in range(len(pts))]

    def _apart(self, times: list[int]) -> list[float]:
        """Ascending times, where frames with one time are spread evenly up to the time of the next frame."""
        distinct, first = np.unique(times, return_index=True)
        whole = len(times) / self._rate / float(self._file.stream.time_base)
        lasting = distinct[-1] - distinct[-2] if len(distinct) > 1 else whole
        ends = [*distinct, distinct[-1] + lasting]
        return np.interp(np.arange(len(times)), [*first, len(times)], ends).tolist()

    def _last_frames(self) -> tuple[list[float], float]:
        """Presentation times of the last two frames, or of the only one, and how long the last one is shown, or 0.

        All times are in seconds.
        """
        if self._index is not None:
            last = np.arange(max(self.length - 2, 0), self.length)
            try:
                with self._file.complaints():
                    index = self._index.around(last)
                lasting = index.lasting * float(self._file.stream.time_base)
                return [self._seconds(pts) for pts in index.pts_of(last).tolist()], lasting
            except UnusableTimesError:
                self.count_by_decoding()
        return [seconds for _, seconds in self._counted[-2:]], self._lasting

    @property
    def _rate(self) -> float:
        """Frames per second."""
        return self._file.rate or float(self._file.stream.guessed_rate or 25)

    def _make_index(self) -> FrameIndex | PacketTable:
        file = self._file
        table = file.packet_table()
        if table is not None and table[-1].pos + table[-1].size > file.bytes:
            raise VideoError(f"{file.path}: broken video: the file is cut short")
        if table is not None and len(table) > LONG:
            file.times(next(file.packets()))  # a seek to the start may no longer give what the first packet carries
            return PacketTable(lambda: file.stream.index_entries, self._scan, file.is_one_part())
        # The packet at the end of a file is empty: it only tells the decoder that the end is reached.
        packets = [file.times(packet) for packet in file.packets() if packet.size]
        if file.is_cut_short:
            raise UnusableTimesError("the last packet is cut short, so that it may give no frame")
        return index_of(packets, file.container.format.name)

    def _scan(self, near: int, dts: int, count: int) -> list[PacketTimes]:
        """`count` packets from the one that is decoded at `dts` on. A seek to `near` arrives before it, or at it."""
        self._file.seek(near)
        packets = (self._file.times(packet) for packet in self._file.packets() if packet.size)
        return list(itertools.islice(itertools.dropwhile(lambda packet: packet.dts != dts, packets), count))

    def _by_seeking(self, numbers: np.ndarray) -> Iterator[Numbered]:
        """Frames by the index. Decoding begins at the keyframe before a frame, or goes on from a near one."""
        # The first packets of a clip that was cut out of a longer one may give no frames, and then every number is
        # wrong. So may the last packet of a file that is cut short, and then the video is shorter. Only decoding tells,
        # so that the first frame is always decoded, and the last one once if its packet may be incomplete.
        ranks = np.union1d([0] if self._ends_whole else [0, self.length - 1], numbers)
        try:
            index = self._index.around(ranks)
        except UnusableTimesError as error:
            raise FramesDisagreeError from error
        run: Iterator[tuple[int, VideoFrame]] = iter(())
        last = None
        for number, pts in zip(ranks.tolist(), index.pts_of(ranks).tolist(), strict=True):
            key = index.keyframe_before(pts)
            if last is None or index.first_rank_from(index.keyframes[key].pts) > last + NEAR:
                run = self._run_from(index, key)
            for last, frame in run:  # noqa: B007
                if last == number:
                    if number == 0:
                        self._take_size_of(frame)
                    if numbers[0] <= number <= numbers[-1]:
                        yield frame, self._seconds(pts)
                    break
            else:
                raise FramesDisagreeError
        self._ends_whole = True

    def _run_from(self, index: FrameIndex, key: int) -> Iterator[tuple[int, VideoFrame]]:
        """Every frame from a keyframe on, with its number. Raises FramesDisagreeError if the index has another one."""
        start = index.keyframes[key].pts
        expected = index.first_rank_from(start)
        packets = self._packets_from(index, key)
        first = next(packets)
        try:
            for frame in self._file.frames(itertools.chain([first], packets)):
                if frame.pts is not None and frame.pts == first.pts and not self._can_begin_with(frame, index):
                    raise FramesDisagreeError
                if frame.pts is not None and frame.pts < start:
                    continue  # a frame of the group before, whose reference frames the decoder does not have
                if index.rank_of(frame.pts) != expected or frame.is_corrupt:
                    raise FramesDisagreeError  # what the decoder puts in for lost bytes depends on where it began
                yield expected, frame
                expected += 1
        except UNDECODABLE as error:
            raise FramesDisagreeError from error  # decoding from the start tells whether the file is broken

    def _can_begin_with(self, frame: VideoFrame, index: FrameIndex) -> bool:
        """Whether decoding may begin at a frame. Some files mark every packet as a keyframe, and the decoder knows."""
        is_key = frame.key_frame or frame.pict_type == PictureType.I
        if frame.pts == index.keyframes[0].pts:
            self._tells_keyframes = is_key
            return True
        # A few decoders never tell. Then the file is believed, unless all of its packets are marked.
        return is_key if self._tells_keyframes else len(index.keyframes) < len(index.ranks)

    def _packets_from(self, index: FrameIndex, key: int) -> Iterator[Packet]:
        """Packets from a keyframe on, or from one before it. If a seek arrives too late, another time is tried."""
        wanted, earlier = index.keyframes[key], index.keyframes[max(key - 1, 0)]
        times = [*self._file.seek_times(wanted), earlier.dts]
        for time in dict.fromkeys(time for time in times if time is not None):
            try:
                self._file.seek(time)
            except av.error.FFmpegError:
                break  # this file can only be read from its start to its end
            packets = itertools.dropwhile(lambda packet: packet.size and not packet.is_keyframe, self._file.packets())
            first = next(packets)
            if first.pts is not None and first.pts <= wanted.pts:
                return itertools.chain([first], packets)
        if key == 0:
            self._file.reopen()
            return self._file.packets()
        raise FramesDisagreeError

    def _all_frames(self, dts: list[int | None] | None = None) -> Iterator[VideoFrame]:
        """Every frame, decoded from the start. `dts` gets the times at which the packets are decoded."""
        self._file.reopen()

        def noted() -> Iterator[Packet]:
            for packet in self._file.packets():
                if dts is not None and packet.size:
                    dts.append(packet.dts)
                yield packet

        return self._file.frames(noted())

    def _from_start(self, numbers: np.ndarray) -> Iterator[Numbered]:
        """Frames of a file whose frames were counted. They were kept, or are decoded once more."""
        frames = [frame for frame, _ in self._counted]
        wanted = set(numbers.tolist())
        for number, frame in enumerate(self._all_frames() if None in frames else frames):
            if number in wanted:
                yield frame, self._counted[number][1]
            if number == numbers[-1]:
                return

    def _picture(self, frame: VideoFrame) -> np.ndarray:
        """A frame as it is shown: uint8 (H, W, 3)."""
        width, height = self._shown_size[::-1] if turns_sideways(frame) else self._shown_size
        if self._file.container.format.name == "gif":  # transparent parts are shown on white
            rgba = _pixels(frame, "rgba", width, height).astype(np.uint16)
            alpha = rgba[..., 3:]
            return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return upright(_pixels(frame, "rgb24", width, height), frame)

    def _take_size_of(self, frame: VideoFrame) -> None:
        """All frames are shown with the width and height of the file's first one, which this is."""
        size = frame.width, frame.height
        self._shown_size = size[::-1] if turns_sideways(frame) else size

    def _seconds(self, pts: float) -> float:
        """A presentation time in seconds on a player's clock, which starts with the file."""
        seconds = pts * float(self._file.stream.time_base) - self._start
        return 0.0 if abs(seconds) < _START_ROUNDING else seconds

    def _pts(self, seconds: float) -> int:
        """The earliest presentation time that is not before `seconds`, to a microsecond."""
        return math.ceil((seconds + self._start - _START_ROUNDING) / self._file.stream.time_base)


def _pixels(frame: VideoFrame, format: str, width: int, height: int, **options: str) -> np.ndarray:
    """A frame as an array (height, width, channels) of uint8. options: further ones of `VideoFrame.to_ndarray`."""
    name = frame.format.name
    if name in _SWAPPED:
        frame = frame.reformat(format=f"{name.removesuffix('be')}le", threads=1)
    return frame.to_ndarray(format=format, width=width, height=height, threads=1, **options)


def _squeezed(frame: VideoFrame, side: int) -> np.ndarray:
    """A frame as a square of mean colours: uint8 (side, side, 3)."""
    return _pixels(frame, "rgb24", side, side, interpolation="AREA")


def _longest_move(times: list[int]) -> int:
    """The largest number of places by which sorting moves a time; 0 for times that increase."""
    return int(np.abs(np.argsort(times) - np.arange(len(times))).max(initial=0))


def _descend(times: list[int | None]) -> bool:
    """Whether some time is before the one that precedes it, or unknown."""
    return None in times or any(later < earlier for earlier, later in itertools.pairwise(times))
