"""Pictures of moments, made in a process of their own."""

from __future__ import annotations

import io

import torch
from PIL import Image, ImageOps

from stgt.data.video import read_frames

FRAMES, WIDTH, HEIGHT = 4, 384, 216


def sheet(part: tuple[str, float, float]) -> bytes:
    """A JPEG of FRAMES frames side by side, each WIDTH × HEIGHT pixels, of a part (path, start, end in seconds).

    Frames of another shape get black borders. Raises VideoError if the file cannot be read.
    """
    path, start, end = part
    torch.set_num_threads(1)
    window = {"start": start, "end": end} if end > start else {}
    frames = read_frames(path, FRAMES, **window)
    whole = Image.new("RGB", (FRAMES * WIDTH, HEIGHT))
    for place in range(FRAMES):
        frame = Image.fromarray(frames[min(place, len(frames) - 1)].numpy())
        whole.paste(ImageOps.pad(frame, (WIDTH, HEIGHT)), (place * WIDTH, 0))
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=82)
    return file.getvalue()
