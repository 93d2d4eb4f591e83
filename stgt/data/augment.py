"""The operations that RandAugment draws from, on plain tensors. They compute the same bits as torchvision's.

Each takes and returns a clip, uint8 (T, 3, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 128.0


def contrast(video: Tensor, factor: float) -> Tensor:
    """Each pixel moves away from the mean brightness of its frame, or towards it if the factor is below 1."""
    red, green, blue = video.unbind(-3)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(-3).floor_()
    mean = grey.mean((-3, -2, -1), keepdim=True)
    return _to_bytes(video.mul(factor).add_(mean, alpha=1.0 - factor))


def brightness(video: Tensor, factor: float) -> Tensor:
    """Each pixel is multiplied by a factor."""
    return _to_bytes(video.mul(factor))


def sharpness(video: Tensor, factor: float) -> Tensor:
    """Each pixel inside the frame moves away from a blurred one, or towards it if the factor is below 1."""
    if min(video.shape[-2:]) <= 2:
        return video
    weights = torch.full((3, 3), 1.0 / 13.0)
    weights[1, 1] = 5.0 / 13.0
    output = video.to(torch.float32, copy=True)
    blurred = F.conv2d(output, weights.expand(3, 1, 3, 3), groups=3).round_()
    inside = output[..., 1:-1, 1:-1]
    inside.add_(blurred.sub_(inside), alpha=1.0 - factor)
    return _to_bytes(output)


def equalize(video: Tensor) -> Tensor:
    """Spread the values of each colour of each frame evenly over 0 to 255, as Pillow does."""
    values = video.flatten(-2).to(torch.long)
    counts = values.new_zeros((*video.shape[:-2], 256), dtype=torch.int32)
    counts.scatter_add_(-1, values, counts.new_ones(1).expand_as(values))
    below = counts.cumsum(-1)
    largest = counts.gather(-1, below.argmax(-1, keepdim=True))  # how often the largest value of the frame is there
    step = (values.shape[-1] - largest).div_(255, rounding_mode="floor")
    table = below[..., :-1].add(step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    table = F.pad(table.to(torch.uint8), (1, 0))
    return torch.where(step.ne(0).unsqueeze(-1), table.gather(-1, values).view_as(video), video)


def affine(video: Tensor, *, angle: float = 0.0, shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0, 0)):
    """Rotate, move and shear about the centre, with grey outside. Angles are in degrees, `shift` in pixels (x, y)."""
    height, width = video.shape[-2:]
    turn, shear_x, shear_y = map(math.radians, (angle, *shear))
    a = math.cos(turn - shear_y) / math.cos(shear_y)
    b = -(a * math.tan(shear_x) + math.sin(turn))
    c = math.sin(turn - shear_y) / math.cos(shear_y)
    d = math.cos(turn) - c * math.tan(shear_x)
    x, y = map(float, shift)
    inverse = torch.tensor([[d, -b, -d * x + b * y], [-c, a, c * x - a * y]])  # from output to input, about the centre
    grid = torch.ones(1, height, width, 3)
    grid[..., 0] = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width)
    grid[..., 1] = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height)[:, None]
    scaled = inverse.T[None] / torch.tensor([0.5 * width, 0.5 * height])
    places = grid.view(1, height * width, 3).bmm(scaled).view(1, height, width, 2).expand(len(video), -1, -1, -1)
    covered = video.new_ones((len(video), 1, height, width), dtype=torch.float32)
    output = F.grid_sample(torch.cat([video.float(), covered], 1), places, align_corners=False)
    output, covered = output[:, :-1], output[:, -1:]
    return output.sub(GREY).mul_(covered).add_(GREY).round_().to(torch.uint8)


def _to_bytes(video: Tensor) -> Tensor:
    return video.clamp_(0, 255).to(torch.uint8)


def _shear(strength: float) -> float:
    return torch.rad2deg(torch.tensor(0.3 * strength)).item()


# `s` is the strength with a sign: 1 is the magnitude 10 of RandAugment, which is its full strength.
OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda video, s: video,
    "contrast": lambda video, s: contrast(video, 1 + 0.9 * s),
    "brightness": lambda video, s: brightness(video, 1 + 0.9 * s),
    "sharpness": lambda video, s: sharpness(video, 1 + 0.9 * s),
    "equalize": lambda video, s: equalize(video),
    "shear_x": lambda video, s: affine(video, shear=(_shear(s), 0.0)),
    "shear_y": lambda video, s: affine(video, shear=(0.0, _shear(s))),
    "translate_x": lambda video, s: affine(video, shift=(round(0.1 * s * video.shape[-1]), 0)),
    "translate_y": lambda video, s: affine(video, shift=(0, round(0.1 * s * video.shape[-2]))),
    "rotate": lambda video, s: affine(video, angle=30.0 * s),
}
