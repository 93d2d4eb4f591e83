"""Counts the parameters of a model and its FLOPs per clip. It computes nothing, and allocates no tensor."""

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
    """Number of parameters of the whole model"""
    learnable: int
    """Number of parameters without a frozen tower"""
    module: int
    """Number of learnable parameters of the spatio-temporal module: temporal embedding, graph or baseline, norm and
    projection"""
    flops: int
    """FLOPs from the pixels of one clip to its embedding"""
    module_flops: int
    """FLOPs of the spatio-temporal module"""


def count(config: ModelConfig) -> Cost:
    """Count one model. FLOPs are those of matrix products. In graph attention, only pairs within the window count."""
    vision, frames = config.vision.sizes, config.graph.frames
    with torch.device("meta"):
        model = STGT(config).eval()
    parameters, learnable, module = _parameters(model), _learnable(model), _learnable(model.graph)
    model.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cpu")  # fake tensors take no memory, and the CPU has kernels and autocast
        video = torch.empty(1, frames, 3, vision.image_size, vision.image_size)
        tokens = torch.empty(1, frames, 1 + vision.grid**2, vision.width)
        flops = count_flops(lambda: model.encode_video(video))
        module_flops = count_flops(lambda: model.graph(tokens))
    return Cost(parameters, learnable, module, flops, module_flops)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _learnable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
