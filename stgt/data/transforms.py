"""From decoded frames to the tower's input. Random draws come from torch's default generator, once for a whole clip.

The steps compute the same bits as those of torchvision, whose import would take longer than torch's own in every
process. Each has the text that torchvision's step of this name had: feature caches and checkpoints hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt.data.augment import OPERATIONS

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RATIOS = (3 / 4, 4 / 3)
"""Least and largest width of a random crop for each unit of its height"""


class Transform:
    """A sequence of steps: uint8 (T, 3, H, W) → float32 (T, 3, S, S)."""

    def __init__(self, *steps: Callable[[Tensor], Tensor]) -> None:
        self.steps = steps

    def __call__(self, video: Tensor) -> Tensor:
        for step in self.steps:
            video = step(video)
        return video


class Resize(NamedTuple):
    """Resizes to (height, width), or the shorter side to the only number. The filter is bicubic, with antialiasing."""

    size: list[int]

    def __call__(self, video: Tensor) -> Tensor:
        height, width = video.shape[-2:]
        short = min(height, width)
        one = len(self.size) == 1
        size = [int(self.size[0] * side / short) for side in (height, width)] if one else self.size
        return _resized(video, size)

    def __str__(self) -> str:
        return f"Resize(antialias=True, interpolation=InterpolationMode.BICUBIC, max_size=None, size={self.size})"


class CenterCrop(NamedTuple):
    """The square of this side in the middle."""

    side: int

    def __call__(self, video: Tensor) -> Tensor:
        top, left = (round((length - self.side) / 2) for length in video.shape[-2:])
        return video[..., top : top + self.side, left : left + self.side]

    def __str__(self) -> str:
        return f"CenterCrop(size=({self.side}, {self.side}))"


class RandomResizedCrop(NamedTuple):
    """A random part of the picture, resized to a square of this side."""

    side: int
    scale: tuple[float, float]
    """Least and largest share of the area"""

    def __call__(self, video: Tensor) -> Tensor:
        top, left, height, width = self._part(*video.shape[-2:])
        return _resized(video[..., top : top + height, left : left + width], [self.side, self.side])

    def _part(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part. After ten draws that do not fit, it is the largest in the middle."""
        least, most = torch.log(torch.tensor(RATIOS)).tolist()
        for _ in range(10):
            area = height * width * torch.empty(1).uniform_(*self.scale).item()
            ratio = torch.exp(torch.empty(1).uniform_(least, most)).item()
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, (1,)))
                return top, int(torch.randint(0, width - w + 1, (1,))), h, w
        w, h = width, height
        if width / height < RATIOS[0]:
            h = round(width / RATIOS[0])
        elif width / height > RATIOS[1]:
            w = round(height * RATIOS[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def __str__(self) -> str:
        text = "RandomResizedCrop(antialias=True, interpolation=InterpolationMode.BICUBIC, "
        return text + f"ratio={RATIOS}, scale={self.scale}, size=({self.side}, {self.side}))"


class RandomHorizontalFlip:
    """Exchanges left and right in half of the draws."""

    def __call__(self, video: Tensor) -> Tensor:
        return video if torch.rand(1) >= 0.5 else video.flip(-1)

    def __str__(self) -> str:
        return "RandomHorizontalFlip(p=0.5)"


class RandAugment(NamedTuple):
    """Applies `count` operations, drawn with replacement, at `magnitude`/10 of full strength with a random sign.

    uint8 (T, 3, H, W) → uint8 (T, 3, H, W). All frames of a clip get the same operations.
    """

    count: int = 2
    magnitude: int = 5

    def __call__(self, video: Tensor) -> Tensor:
        names = list(OPERATIONS)
        for number in torch.randint(len(names), (self.count,)).tolist():
            sign = 1 if torch.rand(()) < 0.5 else -1
            video = OPERATIONS[names[number]](video, sign * self.magnitude / 10)
        return video

    def __str__(self) -> str:
        return f"RandAugment(count={self.count}, magnitude={self.magnitude})"


class ToFloat:
    """Turns bytes into float32 from 0 to 1."""

    def __call__(self, video: Tensor) -> Tensor:
        return video.to(torch.float32).mul_(1 / 255)

    def __str__(self) -> str:
        return "ToDtype(dtype=torch.float32, scale=True)"


class Normalize(NamedTuple):
    """Subtracts the mean of each colour, and divides by its standard deviation."""

    mean: list[float]
    std: list[float]

    def __call__(self, video: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in self)
        return video.sub(mean).div_(std)

    def __str__(self) -> str:
        return f"Normalize(inplace=False, mean={self.mean}, std={self.std})"


def train_transform(image_size: int, *, flip: bool = True) -> Transform:
    """Random crop of 0.5–1 of the area, random flip, RandAugment(2, 5), and CLIP's mean and standard deviation.

    uint8 (T, 3, H, W) → float32 (T, 3, S, S). All frames share one draw. Use flip=False if captions say left or right.
    """
    mirror = [RandomHorizontalFlip()] if flip else []
    return Transform(RandomResizedCrop(image_size, (0.5, 1.0)), *mirror, RandAugment(), *_normalise())


def eval_transform(
    image_size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD, *, crop: bool = False
) -> Transform:
    """Resize to a square, whatever the aspect ratio is, and normalise by each colour's mean and deviation.

    crop: whether to keep the aspect ratio and to take the square in the middle, as most CLIP models do.
    uint8 (T, 3, H, W) → float32 (T, 3, S, S). The default values are CLIP's.
    """
    square = [Resize([image_size]), CenterCrop(image_size)] if crop else [Resize([image_size, image_size])]
    return Transform(*square, *_normalise(mean, std))


def _normalise(mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> list[Callable]:
    return [ToFloat(), Normalize(list(mean), list(std))]


def _resized(video: Tensor, size: list[int]) -> Tensor:
    """uint8 (T, 3, H, W) → uint8 (T, 3, *size)."""
    if list(video.shape[-2:]) == size:
        return video
    return F.interpolate(video, size, mode="bicubic", align_corners=False, antialias=True)


def describe(transform: Transform) -> str:
    """A transform and its parameters as one line, which is a part of a feature cache's key."""
    return " | ".join(map(str, transform.steps))
