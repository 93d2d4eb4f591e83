"""The sentences and videos that programs of sentence-transformers hand over, in the form for a model of an index."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from stgt.data.images import as_shown
from stgt.data.names import IMAGES, VIDEOS
from stgt.data.pixels import to_pixels
from stgt.data.video import read_frames, sample_indices
from stgt.data.windows import Pixels, WindowPixels

FORMS = (
    "a sentence, the path of a video or image, frames as uint8 (T, 3, H, W), an image of PIL, or one of them in "
    '{"text": …}, {"image": …} or {"video": …}'
)


def sentence_or_video(value: object) -> str | Path | Tensor:
    """A sentence as str, a file as Path, or frames as uint8 (T, 3, H, W).

    A str with the ending of a video or an image is a file. Raises ValueError for a file that does not exist, and for
    values of other kinds.
    """
    kind = None
    if isinstance(value, dict) and len(value) == 1:
        kind, value = next(iter(value.items()))
    if isinstance(value, dict) and "array" in value:
        value = value["array"]
    if isinstance(value, Image):
        value = np.asarray(as_shown(value)).transpose(2, 0, 1)
    if isinstance(value, np.ndarray):
        value = torch.tensor(value)
    if isinstance(value, Tensor):
        return _frames(value)
    if kind == "text" and isinstance(value, str):
        return value
    if isinstance(value, os.PathLike) or (isinstance(value, str) and (kind in ("image", "video") or _is_name(value))):
        if not os.path.isfile(value):
            raise ValueError(f'{value!r} is no file, expected one, or {{"text": …}} for a sentence that ends like this')
        return Path(value)
    if kind is None and isinstance(value, str):
        return value
    raise ValueError(f"an input is {type(value).__name__}{f' for {kind!r}' if kind else ''}, expected {FORMS}")


def video_pixels(video: Path | Tensor, pixels: Pixels) -> Tensor:
    """Evenly spread frames of a file or of given frames, as evaluation sees them: float32 (T, 3, S, S).

    T is 1 for an image. Raises VideoError for a file that cannot be read.
    """
    if isinstance(video, Path):
        return to_pixels(read_frames(video, pixels.frames, **pixels.decoding), pixels.transform())
    if len(video) > 1:
        video = video[torch.from_numpy(sample_indices(len(video), pixels.frames))]
    return pixels.transform()(video)


def as_windows(clips: Iterable[Tensor]) -> list[WindowPixels]:
    """Clips (T, 3, S, S) as windows for `encode_windows`. Neighbours with the same T are in one part."""
    parts = []
    for frames, group in itertools.groupby(clips, key=len):
        found = torch.cat(list(group))
        parts.append(WindowPixels(found, torch.arange(len(found)).view(-1, frames)))
    return parts


def _frames(frames: Tensor) -> Tensor:
    if frames.dim() == 3:  # an image
        frames = frames[None]
    if frames.dim() != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, expected uint8 (T, 3, H, W)")
    return frames


def _is_name(text: str) -> bool:
    return text.lower().endswith((*VIDEOS, *IMAGES))
