"""The sizes of open_clip's towers. This module loads open_clip, which is slow, so it is imported only when needed."""

from __future__ import annotations

from functools import cache

import stgt._torchvision  # noqa: F401  (open_clip and timm import torchvision)

# isort: split
import open_clip
import timm
import torch
from torch import nn

from stgt.towers import TowerSizes


def open_clip_sizes(tower: str) -> TowerSizes:
    """The sizes of the tower of an open_clip model, with all its blocks.

    Raises ValueError if there is no such model, or if its tower is no transformer on a square grid of patches.
    """
    if tower not in open_clip.list_models():
        raise ValueError(f"VisionConfig.tower is {tower!r}, expected 'vit' or one of open_clip.list_models()")
    config = open_clip.CLIPVisionCfg(**open_clip.get_model_config(tower)["vision_cfg"])
    size = config.image_size
    if config.timm_model_name and isinstance(size, int) and (found := _timm_sizes(config.timm_model_name)):
        return TowerSizes(size, *found)
    if config.timm_model_name or not isinstance(size, int) or not isinstance(config.layers, int):
        raise ValueError(
            f"VisionConfig.tower is {tower!r}, expected an open_clip model whose tower is a transformer on a square "
            "grid of patches"
        )
    heads = config.width // config.head_width
    return TowerSizes(size, config.patch_size, config.width, config.layers, heads, config.mlp_ratio)


@cache
def _timm_sizes(name: str) -> tuple[int, int, int, int, float] | None:
    """Patch size, width, layers, heads and mlp_ratio of a model of timm, or None if it has no grid of patches."""
    with torch.device("meta"):
        model = timm.create_model(name)
    patches = getattr(model, "patch_embed", None)
    grid = getattr(patches, "grid_size", None)
    transformer = hasattr(model, "blocks") and hasattr(model, "prune_intermediate_layers")
    if not transformer or not grid or grid[0] != grid[1]:
        return None
    block = model.blocks[0]
    last = [module for module in block.mlp.modules() if isinstance(module, nn.Linear)][-1]
    # If the first layers are a convolutional stem, the side of a patch is the stride of the stem.
    patch_size = patches.img_size[0] // grid[0]
    return patch_size, model.embed_dim, len(model.blocks), block.attn.num_heads, last.in_features / model.embed_dim
