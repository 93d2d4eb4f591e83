"""The paper's Table 6: parameters, FLOPs and clips per second of STGT, dense STGT, and the cross-frame baseline."""

from __future__ import annotations

import os
import statistics
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from stgt.config import ModelConfig
from stgt.markdown import table
from stgt.models.stgt import STGT
from stgt.paper.cost import Cost, count
from stgt.paper.sizes import Size, model_config
from stgt.paper.timing import in_turns, median_ratio
from stgt_kernels.report import hardware

KERNELS, DENSE, BASELINE = "STGT, kernels", "STGT, dense attention", "CCT+MIT baseline"
MODELS = {KERNELS: {}, DENSE: {"attention": "dense"}, BASELINE: {"kind": "cross_frame"}}
"""The fields of GraphConfig that each model changes"""
PAPER = {KERNELS: {"module": 59.5e6, "seconds": 252}, BASELINE: {"module": 60.4e6, "seconds": 276}}
"""The numbers of the paper's Table 6 for STGT and its baseline: 1000 test clips of MSRVTT on 8 A100s"""
CLIPS = 1000


def variant(config: ModelConfig, name: str) -> ModelConfig:
    """The same model with another spatio-temporal module, one of MODELS."""
    return replace(config, graph=replace(config.graph, **MODELS[name]))


@torch.inference_mode()
def time_models(
    config: ModelConfig, batch_size: int, rounds: int, tower: bool, device: torch.device
) -> dict[str, dict[str, float]]:
    """Clips per second of each model, seconds for CLIPS clips, and its time divided by the time with the kernels."""
    # Random tokens are not similar, so a higher threshold would leave no edges.
    config = replace(config, graph=replace(config.graph, threshold=-1.0))
    vision, frames = config.vision.sizes, config.graph.frames
    shape = (3, vision.image_size, vision.image_size) if tower else (1 + vision.grid**2, vision.width)
    inputs = {"video" if tower else "tokens": torch.randn(batch_size, frames, *shape, device=device)}
    models: dict[str, STGT] = {}
    for name in MODELS:
        torch.manual_seed(0)
        models[name] = STGT(variant(config, name), tower=tower and not models).to(device).eval()
        models[name].vision = models[KERNELS].vision  # the models share one tower, which has a billion weights

    def embed(model: STGT) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return model.encode_video(**inputs).queries

    times = in_turns({name: partial(embed, model) for name, model in models.items()}, device, rounds)
    return {
        name: {
            "clips_per_second": batch_size / statistics.median(seconds),
            "seconds": CLIPS * statistics.median(seconds) / batch_size,
            "ratio": median_ratio(seconds, times[KERNELS]),
        }
        for name, seconds in times.items()
    }


def efficiency(size: Size, place: torch.device, *, batch_size: int, rounds: int, tower: bool) -> dict:
    """Print the table for a size on a device, and return its numbers.

    tower: whether the vision tower is timed as well. Without it, a clip is given as the tower's tokens.
    """
    config = model_config(size)
    counted = {name: count(variant(model_config("ViT-g"), name)) for name in MODELS}
    print(f"Counted at the paper's size: {_shape(model_config('ViT-g'))}. Nothing was run.\n{_counted_table(counted)}")
    where = _where(place)  # it reads the machine's load, so it must come before the timing
    timed = time_models(config, batch_size, rounds, tower, place)
    what = "pixels to embedding" if tower else "the tower's tokens to embedding"
    print(
        f"\nTimed on {where}: size {size}, {_shape(config)}, batches of {batch_size}, {what}.\n"
        "Weights and clips are random, and every pair within the window is an edge, which is the most work for the "
        f"kernels. Decoding and texts are left out. Values are medians of {rounds} rounds in turns.\n"
        f"{_timed_table(timed)}\n\n"
        "The paper's values come from its Table 6: 1000 test clips of MSRVTT on 8 A100s, with another machine, "
        "other data and other code."
    )
    settings = {"on": where, "size": size, "batch_size": batch_size, "rounds": rounds, "tower": tower}
    return {
        "counted": {"size": "ViT-g", "models": {name: cost._asdict() for name, cost in counted.items()}},
        "timed": {**settings, "models": timed},
        "paper": PAPER,
    }


def _where(device: torch.device) -> str:
    name, version = hardware(device), f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{name}, {version}, bf16"
    return f"{name}, threads: {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}, {version}, fp32"


def _shape(config: ModelConfig) -> str:
    vision = config.vision.sizes
    return f"{config.graph.frames} frames of {vision.image_size}×{vision.image_size} pixels, {vision.width} channels"


def _counted_table(counted: dict[str, Cost]) -> str:
    header = [
        "", "parameters, M", "learnable", "spatio-temporal", "the paper's", "GFLOP per clip", "of it spatio-temporal"
    ]  # fmt: skip
    rows = [
        [
            name,
            *(f"{value / 1e6:.1f}" for value in (cost.parameters, cost.learnable, cost.module)),
            f"{PAPER[name]['module'] / 1e6:.1f}" if name in PAPER else "",
            *(f"{value / 1e9:.0f}" for value in (cost.flops, cost.module_flops)),
        ]
        for name, cost in counted.items()
    ]
    return table(header, rows)


def _timed_table(timed: dict[str, dict[str, float]]) -> str:
    header = ["", "clips per second", "time, kernels = 1", f"s for {CLIPS} clips", "the paper's, full size on 8 A100s"]
    rows = [
        [
            name,
            f"{values['clips_per_second']:.3g}",
            f"{values['ratio']:.2f}",
            f"{values['seconds']:.1f}",
            str(PAPER[name]["seconds"]) if name in PAPER else "",
        ]
        for name, values in timed.items()
    ]
    return table(header, rows)
