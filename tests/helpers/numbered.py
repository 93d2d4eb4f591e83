"""Videos whose frames show their own numbers, made by many encoders in many containers."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch

BITS = 7


class Kind(NamedTuple):
    """The way in which a numbered video is encoded."""

    suffix: str
    codec: str
    pix_fmt: str = "yuv420p"
    codec_options: dict = {}
    container_options: dict = {}
    gop: int = 12
    size: tuple[int, int] = (128, 64)  # width, height
    rate: int = 25
    uneven: bool = False  # whether the frames are shown for different times

    def __str__(self) -> str:
        options = "-".join(f"{value}" for value in (*self.codec_options.values(), *self.container_options.values()))
        size = "" if self.size == (128, 64) else "-{}x{}".format(*self.size)
        return f"{self.codec}-{self.pix_fmt}{self.suffix}{size}{'-uneven' * self.uneven}-{options}".rstrip("-")


X265 = "log-level=error:keyint=12:"
OPEN = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:keyint=12:min-keyint=12:scenecut=0"}
B = {"bf": "2"}
KINDS = [
    Kind(".mp4", "libx264", codec_options=B),
    Kind(".mp4", "libx264", codec_options=OPEN),
    Kind(".mp4", "libx264", codec_options=B, container_options={"movflags": "frag_keyframe+empty_moov"}),
    Kind(".mp4", "libx264", codec_options=B, gop=1000),
    Kind(".mp4", "libx264", pix_fmt="yuv420p10le", codec_options=B),
    Kind(".mp4", "libx264", pix_fmt="yuv444p", codec_options=B, size=(129, 65)),
    Kind(".mp4", "libx264", codec_options=B, uneven=True),
    Kind(".mov", "libx264", codec_options={"bf": "0"}),
    Kind(".avi", "libx264", codec_options=B),
    Kind(".avi", "libx264", codec_options={"bf": "0"}),
    Kind(".mkv", "libx264", codec_options=OPEN),
    Kind(".ts", "libx264", codec_options=B),
    Kind(".ts", "libx264", codec_options=OPEN),
    Kind(".flv", "libx264", codec_options=B),
    Kind(".nut", "libx264", codec_options=B),
    Kind(".h264", "libx264", codec_options=B),
    Kind(".mp4", "libx265", codec_options={"x265-params": X265 + "bframes=3"}),
    Kind(".mkv", "libx265", pix_fmt="yuv420p10le", codec_options={"x265-params": X265 + "open-gop=1"}),
    Kind(".webm", "libvpx", codec_options={"auto-alt-ref": "1", "lag-in-frames": "10", "b:v": "200k"}),
    Kind(".webm", "libvpx-vp9", codec_options={"lag-in-frames": "10"}),
    Kind(".ivf", "libvpx", codec_options={"auto-alt-ref": "1", "lag-in-frames": "10"}),
    Kind(".avi", "mpeg4", codec_options=B),
    Kind(".avi", "mpeg4"),
    Kind(".mp4", "mpeg4", codec_options=B),
    Kind(".mpg", "mpeg1video", codec_options=B),
    Kind(".mpg", "mpeg2video", codec_options=B),
    Kind(".ts", "mpeg2video", codec_options=B),
    Kind(".ts", "mpeg2video", codec_options={"flags": "+ilme+ildct", "bf": "2"}),
    Kind(".mxf", "mpeg2video", codec_options=B),
    Kind(".wmv", "wmv2"),
    Kind(".avi", "msmpeg4"),
    Kind(".flv", "flv"),
    Kind(".3gp", "h263", size=(176, 144)),
    Kind(".avi", "mjpeg", pix_fmt="yuvj420p"),
    Kind(".mov", "mjpeg", pix_fmt="yuvj422p"),
    Kind(".mov", "prores_ks", pix_fmt="yuv422p10le"),
    Kind(".avi", "ffv1", pix_fmt="gray16le"),
    Kind(".mkv", "ffv1", pix_fmt="yuv444p16le", size=(129, 65)),
    Kind(".avi", "huffyuv", pix_fmt="rgb24"),
    Kind(".mov", "png", pix_fmt="rgb24"),
    Kind(".mov", "qtrle", pix_fmt="rgb24"),
    Kind(".mov", "qtrle", pix_fmt="gray"),  # the first packet has the palette
    Kind(".mov", "rawvideo", pix_fmt="gray"),
    Kind(".mov", "rpza", pix_fmt="rgb555le"),  # all packets are marked as keyframes
    Kind(".gif", "gif", pix_fmt="rgb8", rate=20),
    Kind(".mkv", "libsvtav1", codec_options={"svtav1-params": "lp=1", "preset": "12"}),
    Kind(".y4m", "rawvideo"),
]


def picture(number: int, size: tuple[int, int], bits: int = BITS) -> np.ndarray:
    """A frame (H, W, 3) of vertical bars: bar k is white where bit k of the number is set."""
    width, height = size
    bars = np.array([number >> bit & 1 for bit in range(bits)], np.uint8) * 255
    row = bars[np.arange(width) * bits // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_in(frame: np.ndarray, bits: int = BITS) -> int:
    """The number that a frame (H, W, 3) shows."""
    height, width = frame.shape[:2]
    middle = frame[height * 4 // 10 : height * 9 // 10].mean((0, 2))
    centres = (2 * np.arange(bits) + 1) * width // (2 * bits)
    return sum(int(middle[centre] > 127) << bit for bit, centre in enumerate(centres))


def numbers(frames: torch.Tensor, bits: int = BITS) -> list[int]:
    """The numbers that the frames of a video (T, H, W, 3) show."""
    return [number_in(frame, bits) for frame in frames.numpy()]


def write_numbered(path, kind: Kind, count: int = 60, bits: int = BITS):
    """Encode frames 0 to count-1, and return the path.

    A thread of its own does it, because SVT-AV1 gives the thread that calls it a real-time priority for good if the
    user is root. Processes that such a thread forks later have this priority too, and starve all others.
    """
    if kind.codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {kind.codec}")
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_write, path, kind, count, bits).result()


def _write(path, kind: Kind, count: int, bits: int):
    width, height = kind.size
    with av.open(str(path), "w", options=dict(kind.container_options)) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate, options=dict(kind.codec_options))
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pix_fmt
        stream.gop_size = kind.gop
        stream.codec_context.thread_count = 1
        if kind.uneven:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, kind.size, bits), format="rgb24").reformat(
                format=kind.pix_fmt
            )
            if kind.uneven:
                frame.time_base, frame.pts = Fraction(1, 1000), 40 * number + 7 * (number % 3)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
