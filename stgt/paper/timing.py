"""Times the same training step with dense attention and with the kernels, in turns."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
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
    """Median over rounds of dense / kernels. The two times of a round are measured one after the other"""


def compare_attention(model: STGT, batch: dict[str, Tensor], loss: LossConfig, *, rounds: int = 5) -> Comparison:
    """Time the forward and backward pass of one batch with dense attention and with the kernels.

    The model is not changed.
    """
    steps = {}
    for attention in ("dense", "kernels"):
        config = copy.deepcopy(model.config)
        config.graph = dataclasses.replace(config.graph, attention=attention)
        own = STGT(config, tower=model.vision is not None).to(model.temp.device).train()
        own.load_state_dict(model.state_dict())
        steps[attention] = partial(_step, own, batch, loss)
    times = in_turns(steps, model.temp.device, rounds)
    return Comparison(
        statistics.median(times["dense"]),
        statistics.median(times["kernels"]),
        median_ratio(times["dense"], times["kernels"]),
    )


def in_turns(functions: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call of each function, until the device has finished. A first round warms up the caches.

    The functions take turns, so that other load of the machine affects all of them.
    """
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in functions}
    for measured in [False, *[True] * rounds]:
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            function()
            wait()
            if measured:
                times[name].append(time.perf_counter() - start)
    return times


def median_ratio(times: list[float], others: list[float]) -> float:
    """Median over rounds of times / others."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _step(model: nn.Module, batch: dict[str, Tensor], loss: LossConfig) -> None:
    model(batch, loss)["loss"].backward()
    model.zero_grad(set_to_none=True)
