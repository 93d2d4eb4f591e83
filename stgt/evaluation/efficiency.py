"""What the kernels save: the same training step with dense attention and with them, in turns."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stgt.config import LossConfig
from stgt.models.stgt import STGT


class Comparison(NamedTuple):
    dense: float
    """Median seconds per step"""
    kernels: float
    ratio: float
    """Median over rounds of dense / kernels: both of a round are measured next to each other"""


def compare_attention(model: STGT, batch: dict[str, Tensor], loss: LossConfig, *, rounds: int = 5) -> Comparison:
    """Time forward, backward and nothing else of one batch with dense attention and with the kernels.

    Dense and kernels take turns, so that whatever else the machine does falls on both. The model is left as it is.
    """
    models = {}
    for attention in ("dense", "kernels"):
        config = copy.deepcopy(model.config)
        config.graph = dataclasses.replace(config.graph, attention=attention)
        models[attention] = STGT(config, tower=model.vision is not None).to(model.temp.device).train()
        models[attention].load_state_dict(model.state_dict())
    times: dict[str, list[float]] = {name: [] for name in models}
    for measured in [False, *[True] * rounds]:  # the first round warms caches up
        for name, each in models.items():
            seconds = _step(each, batch, loss)
            if measured:
                times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["dense"], times["kernels"], strict=True)]
    return Comparison(statistics.median(times["dense"]), statistics.median(times["kernels"]), statistics.median(ratios))


def _step(model: nn.Module, batch: dict[str, Tensor], loss: LossConfig) -> float:
    cuda = next(model.parameters()).is_cuda
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(batch, loss)["loss"].backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds
