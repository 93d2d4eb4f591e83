"""What a model costs, counted: parameters, and FLOPs per clip. Nothing is computed, and no tensor allocated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stgt.config import ModelConfig
from stgt.models.stgt import STGT
from stgt.paper.flops import count_flops


class Cost(NamedTuple):
    parameters: int
    """Of the whole model"""
    learnable: int
    """All but those of a frozen tower"""
    module: int
    """Learnable ones of the spatio-temporal module: temporal embedding, graph or baseline, norm and projection"""
    flops: int
    """From the pixels of one clip to its embedding"""
    module_flops: int
    """The spatio-temporal module's share"""


def count(config: ModelConfig) -> Cost:
    """Count one model. FLOPs are those of matrix products, attention's over the pairs that it looks at."""
    vision, frames = config.vision, config.graph.frames
    with torch.device("meta"):
        model = STGT(config).eval()
    parameters, learnable, module = _parameters(model), _learnable(model), _learnable(model.graph)
    model.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cpu")  # sizes without memory, on a device that has kernels and autocast
        video = torch.empty(1, frames, 3, vision.image_size, vision.image_size)
        tokens = torch.empty(1, frames, 1 + vision.grid**2, vision.width)
        flops = count_flops(lambda: model.encode_video(video))
        module_flops = count_flops(lambda: model.graph(tokens))
    return Cost(parameters, learnable, module, flops, module_flops)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _learnable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
