"""A model that knows colours, with videos to search for them: every answer can be told beforehand."""

from functools import partial

import av
import numpy as np
import torch
import torch.nn.functional as F

from stgt.data.windows import Pixels

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (210, 210, 20)}
RATE = 8


class Colours:
    """An encoder whose vectors are the mean colours of the frames of a window, one for each frame.

    `seen` counts the windows that it has encoded. `fail_after`: after this many windows it calls `fail`.
    """

    name = "colours"
    digest = "0123456789abcdef"

    def __init__(self, frames=4, fail_after=None, fail=None):
        self.pixels = Pixels(frames, 8, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.seen, self._fail_after, self._fail = 0, fail_after, fail

    def encode_windows(self, windows):
        if self._fail_after is not None and self.seen >= self._fail_after:
            self._fail()
        self.seen += len(windows.rows)
        return F.normalize(windows.pixels.mean((2, 3)) - 0.4, dim=-1)[windows.rows]

    def encode_texts(self, texts):
        return F.normalize(torch.tensor([COLOURS.get(text, (90, 100, 110)) for text in texts]) / 255 - 0.4, dim=-1)


def film(path, *scenes, size=32, format=None, codec="libx264"):
    """Writes a video of scenes, each (colour, seconds), with `RATE` frames per second."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height = stream.width = size
        stream.pix_fmt = "yuv420p"
        encode = partial(_encode, container, stream)
        for colour, seconds in scenes:
            picture = np.broadcast_to(np.array(COLOURS[colour], np.uint8), (size, size, 3)).copy()
            for _ in range(round(seconds * RATE)):
                encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        encode(None)
    return path


def _encode(container, stream, frame):
    for packet in stream.encode(frame):
        container.mux(packet)
