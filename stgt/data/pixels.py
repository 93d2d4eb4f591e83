"""A video file as the model sees it in evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stgt.data.transforms import test_transform
from stgt.data.video import read_frames


def read_pixels(path: str | Path, frames: int, image_size: int, **decoding: object) -> Tensor:
    """Evenly spread frames of a file, resized and normalised: float32 (T, 3, S, S), T=1 of an image.

    decoding: further arguments of `read_frames`. Raises VideoError for a file that cannot be read.
    """
    return test_transform(image_size)(read_frames(path, frames, **decoding).permute(0, 3, 1, 2))


def read_pixels_array(path: str | Path, frames: int, image_size: int, **decoding: object) -> np.ndarray:
    """As `read_pixels`, for a process that sends the clip to another one: an array, computed by one thread."""
    torch.set_num_threads(1)
    return read_pixels(path, frames, image_size, **decoding).numpy()
