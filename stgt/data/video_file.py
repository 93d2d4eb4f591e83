"""A video file, opened safely: it cannot make FFmpeg read another file, wait for ever or fill the memory."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.format import Flags
from av.index import IndexEntries
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stgt.data.deadline import Deadline
from stgt.data.errors import VideoError, require_file
from stgt.data.frame_index import Keyframe, PacketTimes, UnusableTimesError, counts_decoding

# Formats that open other files or addresses, read from devices, or draw text as a picture.
_REFUSED = {
    "adf", "alias_pix", "alsa", "avisynth", "bin", "brender_pix", "concat", "concatf", "dash", "decklink", "dv1394",
    "fbdev", "hls", "idf", "iec61883", "image2", "image2pipe", "imf", "jack", "kmsgrab", "lavfi", "libcdio",
    "libdc1394", "openal", "oss", "pulse", "rtp", "rtsp", "sap", "sdp", "smoothstreaming", "sndio", "tty",
    "v4l2", "vapoursynth", "video4linux2,v4l2", "vobsub", "webm_dash_manifest", "x11grab", "xbin", "xcbgrab",
}  # fmt: skip
_OPTIONS = {"format_whitelist": ",".join(sorted(av.formats_available - _REFUSED)), "protocol_whitelist": "file"}
# Beside its own frame, a packet may carry these kinds of data, which the decoder needs for all later packets.
_LASTING = ("palette", "new_extradata", "param_change")
# A packet of MPEG-4 (part 2) that has no more bytes may say that the frame before it is shown for longer.
_UNCODED = 8
# Browsers show a frame of a GIF file that claims to last a hundredth of a second, the unit of its times, ten times as
# long. FFmpeg knows this only of frames that claim to last no time.
_BRIEF, _LASTS = 1, 10
# A file that is cut short ends with the remains of a packet. In RealMedia, which stores packets in pieces, reading the
# remains fails at several places. A file in which it fails at more places than this is not taken for one that ends.
_ATTEMPTS = 1000
# Decoders raise one of these for a packet that they cannot decode.
UNDECODABLE = (av.error.InvalidDataError, av.error.ArgumentError, av.error.PermissionError)
# FFmpeg's own texts for these would be "Operation not permitted", "Invalid argument" and "Operation not supported".
_CAUSES = dict.fromkeys((errno.EPERM, errno.EINVAL), "there is a packet that cannot be decoded")
_CAUSES[errno.ENOTSUP] = "its colours are stored in a form, such as YCgCo, that this FFmpeg cannot convert"
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"[playlist]")


class VideoFile:
    """The video track of a file: `stream` of `container`, and its packets and frames in the order of decoding."""

    def __init__(self, path: str | Path, *, max_pixels: int, deadline: float | None) -> None:
        """Open a file.

        max_pixels: pixels of the largest frame that may be decoded. deadline: seconds that all work on it may take.

        Raises VideoError, naming the file and the cause.
        """
        require_file(path)
        self.path, self.max_pixels, self._deadline = path, max_pixels, Deadline(path, deadline)
        self.is_cut_short = False
        """Whether the last packet is incomplete, as far as the container tells. It is known at the end of `packets`"""
        self.container: InputContainer
        self.stream: VideoStream
        self._open()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Go back to the very first packet, which a seek to the start may miss."""
        self.container.close()
        self._open()

    def close(self) -> None:
        self.container.close()

    def _open(self) -> None:
        # FFmpeg never takes an absolute path for an address such as "concat:a|b".
        path = str(Path(self.path).absolute())
        with self.complaints():
            try:
                self.container = av.open(path, options=dict(_OPTIONS), metadata_errors="replace")
            except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
                raise VideoError(f"{self.path}: {_what_it_is(path)}") from error
            try:
                self.stream = self._video_stream()
                context = self.stream.codec_context
                self._require_size(context.width, context.height)
                context.options = {"max_pixels": str(self.max_pixels)}
                context.thread_count = 1  # a data loader has several worker processes
            except BaseException:
                self.container.close()
                raise

    def _video_stream(self) -> VideoStream:
        # The cover picture of a piece of music is a video stream, too.
        videos = [stream for stream in self.container.streams.video if not _is_cover(stream)]
        if not videos:
            raise VideoError(f"{self.path}: no video track")
        best = self.container.streams.best("video")
        chosen = best if best in videos else videos[0]
        if chosen.codec_context is None:
            raise VideoError(f"{self.path}: this FFmpeg has no decoder for the codec of the video track")
        is_primary = chosen.disposition & Disposition.default
        if (
            chosen.frames == 1
            and not is_primary
            and any(stream.disposition & Disposition.dependent for stream in videos)
        ):
            raise VideoError(f"{self.path}: a picture that is made of tiles, which are not put together here")
        for stream in self.container.streams:
            if stream is not chosen:
                stream.discard = Discard.all
        return chosen

    def _require_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise VideoError(
                f"{self.path}: frames of {width}x{height} have {width * height} pixels, "
                f"expected at most max_pixels={self.max_pixels}; raise the limit if the file is meant to be so large"
            )

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return Path(self.path).stat().st_size

    @property
    def start(self) -> float | None:
        """The time in seconds at which the file begins, on its own clock; None if FFmpeg does not know it."""
        return None if self.container.start_time is None else self.container.start_time / av.time_base

    @property
    def rate(self) -> float | None:
        """Frames per second, or None if the file does not tell."""
        container = self.container.format
        if container.flags & Flags.no_timestamps.value or container.name == "dv":
            # FFmpeg assumes 25 for a bare stream, and takes the clock of a DV stream for its rate. Their headers know.
            return float(self.stream.codec_context.framerate or self.stream.average_rate or 0) or None
        return float(self.stream.average_rate or 0) or None

    def packet_table(self) -> IndexEntries | None:
        """The container's own table of all packets in the order of decoding, or None if it has no complete one."""
        entries = self.stream.index_entries
        if "mov" not in self.container.format.name.split(",") or not len(entries) or _is_fragmented(self.path):
            return None
        return entries

    def ends_whole(self) -> bool:
        """Whether the last packet is surely complete. A table tells the sizes of all packets, and so does Matroska."""
        return "matroska" in self.container.format.name.split(",") or self.packet_table() is not None

    def is_one_part(self) -> bool:
        """Whether every track of an MP4 or QuickTime file plays at most one part of its packets."""
        with open(self.path, "rb") as file:
            return all(parts < 2 for parts in _edits(file, self.bytes))

    def seek(self, time: int) -> None:
        """Go to the last keyframe at or before a time, in units of the time base, or to a packet near it."""
        self.container.seek(time, stream=self.stream)

    def seek_times(self, key: Keyframe) -> tuple[int | None, ...]:
        """Times to seek to for a keyframe, the best one first. Only some formats seek by presentation times."""
        by_pts = {"mov", "matroska"} & set(self.container.format.name.split(","))
        return (key.pts, key.dts) if by_pts else (key.dts, key.pts)

    def packets(self) -> Iterator[Packet]:
        """The packets from here on. The last one is empty, and makes the decoder give the frames that it has kept.

        Other empty packets are left out. They mean that the frame before them is shown for longer. Packets of a GIF
        file have the times at which browsers show them, if they are read from its start.
        """
        packets = self.container.demux(self.stream)
        self.is_cut_short, late = False, 0
        while True:
            try:
                packet = next(packets, None)
            except IndexError:
                packet = None  # PyAV ends like this if a stream appeared that was unknown when the file was opened.
            except av.error.InvalidDataError:
                if self._goes_on():
                    raise
                packet, self.is_cut_short = None, True
            self._deadline.check()
            if packet is None:
                break
            if packet.size:
                self.is_cut_short = packet.is_corrupt
                if late:
                    packet.pts, packet.dts = packet.pts + late, packet.dts + late
                if self._is_brief(packet):
                    late += _LASTS - _BRIEF
                yield packet
        end = Packet()
        end.stream = self.stream
        yield end

    def _goes_on(self) -> bool:
        """Whether packets follow a place that cannot be read. If not, then it is the end of a file that is cut short.

        One packet may follow, which is what is left of the last one.
        """
        left = 0
        for _ in range(_ATTEMPTS):
            with suppress(av.error.InvalidDataError, IndexError):
                for packet in self.container.demux(self.stream):
                    left += packet.size > 0
                    if left > 1:
                        return True
                return False
        return True

    def frames(self, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
        """Decode packets. The frames come in the order in which they are shown.

        A stream that was cut out of a longer one may begin with packets that cannot be decoded. They are passed over,
        and so is the last packet of a file, which may be cut short. Raises the decoder's error, one of UNDECODABLE, for
        any other packet that cannot be decoded.
        """
        unreadable, begun = None, False
        for packet in packets:
            if unreadable is not None and begun and packet.size:
                raise unreadable  # this packet shows that the broken one was not the last
            try:
                frames = packet.decode()
            except UNDECODABLE as error:
                if not begun and not isinstance(error, av.error.InvalidDataError):
                    raise  # the packet may be whole, and its frame too large
                unreadable = error
                continue
            if frames and not begun:
                unreadable, begun = None, True
            yield from frames
        if unreadable is not None and not begun:
            raise unreadable

    def times(self, packet: Packet) -> PacketTimes:
        """The facts about a packet that are known without decoding it.

        Raises UnusableTimesError if the packet tells the decoder something that all later packets need, such as a
        palette, because seeking would pass over it, if the packet may hold no frame, and if its frame is shown for
        longer than it claims.
        """
        # Most packets carry nothing. Asking for that first takes a third of the time.
        if next(packet.iter_sidedata(), None) is not None and any(map(packet.has_sidedata, _LASTING)):
            raise UnusableTimesError("a packet changes the state of the decoder")
        codec = self.stream.codec_context.name
        if codec == "mpeg4" and packet.size <= _UNCODED:
            raise UnusableTimesError("a packet may hold no frame")
        if self._is_brief(packet):
            raise UnusableTimesError("later frames are shown later than their packets claim")
        hidden = packet.is_discard or (codec == "vp8" and _is_hidden(packet))
        return PacketTimes(packet.pts, packet.dts, packet.is_keyframe, hidden, packet.duration or 0)

    def lasting(self, frame: VideoFrame) -> int:
        """For how long a decoded frame is shown, in units of the time base; 0 if the container does not tell."""
        if counts_decoding(self.container.format.name):
            return 0
        return _LASTS if self._is_brief(frame) else frame.duration or 0

    def _is_brief(self, part: Packet | VideoFrame) -> bool:
        return self.container.format.name == "gif" and part.duration == _BRIEF

    @contextmanager
    def complaints(self) -> Iterator[None]:
        """Turn FFmpeg's errors into VideoErrors of this file."""
        try:
            yield
        except av.error.InvalidDataError as error:
            raise VideoError(f"{self.path}: broken video: {error.strerror}") from error
        except (av.error.FFmpegError, OSError, ValueError, MemoryError, ArithmeticError, struct.error) as error:
            cause = _CAUSES.get(getattr(error, "errno", None), getattr(error, "strerror", None) or str(error))
            cause = cause or type(error).__name__
            raise VideoError(f"{self.path}: broken video: {cause.splitlines()[0][:200]}") from error


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_hidden(packet: Packet) -> bool:
    """Whether a VP8 packet holds a frame that only helps to decode others. Bit 4 of its first byte means "shown"."""
    return packet.size > 0 and not memoryview(packet)[0] & 0x10


def _is_fragmented(path: str | Path) -> bool:
    """Whether an MP4 or QuickTime file has fragments. Each has a table, which FFmpeg reads only when it gets there."""
    with open(path, "rb") as file:
        return any(kind == b"moof" for kind, _ in _boxes(file, os.fstat(file.fileno()).st_size))


def _boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int]]:
    """The kind and the end of each box from the file's position to `end`. The file is then at the box's contents."""
    begin = file.tell()
    while begin + 8 <= end:
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))[0]
        begin = end if size < 8 else min(begin + size, end)  # the last box may say 0: it reaches to the end
        yield kind, begin


def _edits(file: BinaryIO, end: int) -> Iterator[int]:
    """The number of parts of each edit list up to `end`, without empty ones. A compressed header counts as two."""
    for kind, box_end in _boxes(file, end):
        if kind in (b"moov", b"trak", b"edts"):
            yield from _edits(file, box_end)
        elif kind == b"elst":
            version, count = struct.unpack(">B3xI", file.read(8))
            entry = struct.Struct(">QqI" if version else ">IiI")
            entries = file.read(min(count * entry.size, box_end - file.tell()) // entry.size * entry.size)
            yield sum(begins != -1 for _, begins, _ in entry.iter_unpack(entries))
        elif kind == b"cmov":
            yield 2


def _what_it_is(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    if start.startswith(_PLAYLISTS):
        return "a playlist, which names other files: it is not read"
    return "not a video file, or one that is cut short"
