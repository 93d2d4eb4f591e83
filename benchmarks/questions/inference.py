"""9. How many videos per second does the model embed? The paper's Table 6 reports this for 1000 clips of 8 frames.

The model is compared with the paper's baseline, which has X-CLIP's cross-frame transformers (CCT+MIT) in place of the
graph, with the released model's way to compute the graph, and with its way to compute all parts. Decoding is left out.
With cached features, the vision tower is left out too.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.agreement import check_model
from benchmarks.case import Bench, Case
from benchmarks.inputs import DTYPES
from benchmarks.memory import peak_memory
from benchmarks.models import as_released, eager_tower, make_batch, make_model, released_qformer, shape_of
from benchmarks.rows import Row
from stgt.models.stgt import STGT
from stgt.paper.flops import count_flops
from stgt.paper.sizes import model_config

BASELINE, KERNELS = "CCT+MIT baseline", "stgt_kernels"
DENSE, RELEASED = "released graph attention alone", "released model"
CLIPS = 1000


def cases(device: str, quick: bool) -> list[Case]:
    if device == "cuda":
        dtype = "bf16"
        sizes = [("quickstart", 8, False)] if quick else [("ViT-g", 20, False), ("ViT-g", 20, True)]
    else:
        dtype = "fp32"
        sizes = [("quickstart", 32, False), *([] if quick else [("ViT-B", 2, False), ("ViT-g", 1, True)])]
    return [
        Case(
            f"{size} T=8 {dtype}, {'cached features' if cached else 'tower in the loop'}",
            partial(compare, size=size, B=B, dtype=dtype, cached=cached),
        )
        for size, B, cached in sizes
    ]


@torch.inference_mode()
def compare(bench: Bench, *, size: str, B: int, dtype: str, cached: bool, T: int = 8) -> list[Row]:
    config, device = model_config(size), bench.device
    model = make_model(config, device, cached).eval()
    baseline = make_model(replace(config, graph=replace(config.graph, kind="cross_frame")), device, cached).eval()
    batch = make_batch(config, B, T, cached, device)

    def embed(model: STGT) -> Tensor:
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32"):
            return model.encode_video(batch.get("video"), tokens=batch.get("tokens")).embeds

    def embed_with_released_attention() -> Tensor:
        with as_released(model.graph, T, device):
            return embed(model)

    def embed_as_released() -> Tensor:
        with eager_tower(model), released_qformer(model, texts=B):
            return embed_with_released_attention()

    functions = {
        BASELINE: partial(embed, baseline),
        DENSE: embed_with_released_attention,
        RELEASED: embed_as_released,
        KERNELS: partial(embed, model),
    }
    for name in (DENSE, KERNELS):
        check_model(name, functions[name](), functions[RELEASED](), dtype)
    memory = {name: peak_memory(function, device) for name, function in functions.items()}
    flops = {name: count_flops(function) / B for name, function in functions.items()}
    layers = {name: (baseline if name == BASELINE else model).graph for name in functions}
    shape = shape_of(config, B, T)

    rows = []
    for name, timing in bench.measure(functions, bench.seconds).items():
        details = {
            "videos/s": B / timing.median,
            f"s per {CLIPS} clips": CLIPS * timing.median / B,
            "GFLOP per clip": flops[name] / 1e9,
            "M parameters of the layer": sum(p.numel() for p in layers[name].parameters()) / 1e6,
        }
        rows.append(Row.timed(name, dtype, shape, timing, peak_memory=memory[name], details=details))
    return rows
