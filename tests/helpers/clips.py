"""Small video files whose frames tell their numbers."""

import av
import numpy as np


def write_video(path, frames, *, codec="libx264", gop=10_000, replace=lambda number: None, **options):
    """Encode uint8 frames. `replace(number)` may return other bytes for a packet."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        packets = [p for frame in frames for p in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))]
        for number, packet in enumerate(packets + stream.encode()):
            if (data := replace(number)) is not None:
                other = av.Packet(data)
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.duration, other.stream = packet.duration, stream
                packet = other
            container.mux(packet)
    return path


def grey(count, size=32):
    """Frames of one grey each: frame i has the brightness 4·i, so that a decoded frame tells its number."""
    return [np.full((size, size, 3), 4 * i % 256, np.uint8) for i in range(count)]


def noise(count, size=64):
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))
