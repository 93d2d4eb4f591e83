"""Video files to time readers on. They hold moving noise, which is as hard to encode as a film."""

from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, *, seconds: int, width: int, height: int, gop: int, rate: int = 25) -> Path:
    """Writes smooth, drifting patterns as H.264 with B-frames, which are on by default in x264."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 9, width // 8 + 9, 3), dtype=np.uint8)
    pattern = coarse.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        for number in range(seconds * rate):
            y, x = number % 64, (2 * number) % 64
            frame = np.ascontiguousarray(pattern[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat_clip(source: Path, path: Path, times: int) -> Path:
    """Writes the packets of a clip `times` times in a row: a film with the same groups of pictures as the clip."""
    with av.open(str(source)) as clip, av.open(str(path), "w") as film:
        stream = clip.streams.video[0]
        copy = film.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in clip.demux(stream) if p.size]
        length = stream.duration
        for number in range(times):
            for data, pts, dts, keyframe in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, copy, keyframe
                film.mux(packet)
    return path
