"""Decoded frames as the model takes them. Everything that shows a video or an image to the model comes through here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stgt.data.transforms import eval_transform
from stgt.data.video import read_frames


def to_pixels(frames: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """uint8 frames (T, H, W, 3) → float32 (T, 3, S, S), resized and normalised by one of `stgt.data.transforms`."""
    return transform(frames.permute(0, 3, 1, 2))


def read_pixels(path: str | Path, frames: int, image_size: int, **decoding: object) -> Tensor:
    """Evenly spread frames of a file, as evaluation sees them: float32 (T, 3, S, S); T=1 for an image.

    decoding: further arguments of `read_frames`. Raises VideoError for a file that cannot be read.
    """
    return to_pixels(read_frames(path, frames, **decoding), eval_transform(image_size))


def read_pixels_array(path: str | Path, frames: int, image_size: int, **decoding: object) -> np.ndarray:
    """Evenly spread frames of a file, as `read_pixels` gives them, as an array that one thread computes.

    It is for processes that send clips to another process.
    """
    torch.set_num_threads(1)
    return read_pixels(path, frames, image_size, **decoding).numpy()
