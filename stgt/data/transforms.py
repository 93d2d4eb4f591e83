"""From decoded frames to the tower's input. Random draws come from torch's default generator, once for a whole clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import stgt._torchvision  # noqa: F401  (before torchvision)

from torchvision.transforms import v2  # isort: skip
from torchvision.transforms.v2 import functional as F  # isort: skip

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
GREY = [128.0]

# The operations that RandAugment draws from. `s` is the strength with a sign: 1 is magnitude 10 of 10.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda video, s: video,
    "contrast": lambda video, s: F.adjust_contrast(video, 1 + 0.9 * s),
    "brightness": lambda video, s: F.adjust_brightness(video, 1 + 0.9 * s),
    "sharpness": lambda video, s: F.adjust_sharpness(video, 1 + 0.9 * s),
    "equalize": lambda video, s: F.equalize(video),
    "shear_x": lambda video, s: _affine(video, shear=[torch.rad2deg(torch.tensor(0.3 * s)).item(), 0.0]),
    "shear_y": lambda video, s: _affine(video, shear=[0.0, torch.rad2deg(torch.tensor(0.3 * s)).item()]),
    "translate_x": lambda video, s: _affine(video, translate=[round(0.1 * s * video.shape[-1]), 0]),
    "translate_y": lambda video, s: _affine(video, translate=[0, round(0.1 * s * video.shape[-2])]),
    "rotate": lambda video, s: _affine(video, angle=30.0 * s),
}


def _affine(video: Tensor, *, angle: float = 0.0, translate: tuple | list = (0, 0), shear: tuple | list = (0.0, 0.0)):
    bilinear = v2.InterpolationMode.BILINEAR
    return F.affine(video, angle, list(translate), 1.0, list(shear), interpolation=bilinear, fill=GREY)


class RandAugment(v2.Transform):
    """Applies `count` operations, drawn with replacement, at `magnitude`/10 of full strength with a random sign.

    uint8 (..., 3, H, W) → uint8 (..., 3, H, W). All frames of a clip (the leading dimensions) get the same operations.
    """

    def __init__(self, count: int = 2, magnitude: int = 5) -> None:
        super().__init__()
        self.count, self.magnitude = count, magnitude

    def forward(self, video: Tensor) -> Tensor:
        names = list(OPERATIONS)
        for number in torch.randint(len(names), (self.count,)).tolist():
            sign = 1 if torch.rand(()) < 0.5 else -1
            video = OPERATIONS[names[number]](video, sign * self.magnitude / 10)
        return video


def train_transform(image_size: int, *, flip: bool = True) -> v2.Compose:
    """Random crop of 0.5–1 of the area, random flip, RandAugment(2, 5), and CLIP's mean and standard deviation.

    uint8 (T, 3, H, W) → float32 (T, 3, S, S). All frames share one draw. Use flip=False if captions say left or right.
    """
    mirror = [v2.RandomHorizontalFlip()] if flip else []
    crop = v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    return v2.Compose([crop, *mirror, RandAugment(), *_normalise()])


def eval_transform(
    image_size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD, *, crop: bool = False
) -> v2.Compose:
    """Resize to a square, whatever the aspect ratio is, and normalise by each colour's mean and deviation.

    crop: whether to keep the aspect ratio and to take the square in the middle, as most CLIP models do.
    uint8 (T, 3, H, W) → float32 (T, 3, S, S). The default values are CLIP's.
    """
    bicubic = v2.InterpolationMode.BICUBIC
    if crop:
        square = [v2.Resize([image_size], interpolation=bicubic), v2.CenterCrop(image_size)]
    else:
        square = [v2.Resize((image_size, image_size), interpolation=bicubic)]
    return v2.Compose([*square, *_normalise(mean, std)])


def _normalise(mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]


def describe(transform: v2.Compose) -> str:
    """A transform and its parameters as one line, which is a part of a feature cache's key."""
    return " | ".join(f"{type(step).__name__}({_parameters(step)})" for step in transform.transforms)


def _parameters(step: v2.Transform) -> str:
    shown = {name: value for name, value in vars(step).items() if not name.startswith("_") and name != "training"}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))
