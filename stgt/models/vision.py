"""The vision tower, which turns frames into patch tokens: any open_clip model with a square grid of patches.

open_clip and timm are slow to import, so each is imported when a tower is made of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stgt.config import VisionConfig
from stgt.models.precision import Float32Module
from stgt.weights.files import WEIGHT_FILES
from stgt.weights.load import load_tower


class VisionTower(Float32Module):
    """Runs every frame through the first `layers` blocks of a vision transformer, without its final norm and head.

    Frozen parts store the weights of their linear layers, convolutions and attention in `config.dtype` and have no
    gradients. The last
    `config.open_blocks` blocks are trained. All blocks compute in `config.dtype`, except for norms and residuals that
    the tower keeps in float32. If a tower has no [CLS] token, the mean of its patches replaces it.
    Raises ValueError if the tower is not as the config says, or has no square grid of patches.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        config.require_tower()
        from_file = config.pretrained is not None and Path(config.pretrained).suffix in WEIGHT_FILES
        if config.tower == "vit" and config.pretrained and not from_file:
            kinds = ", ".join(WEIGHT_FILES)
            raise ValueError(f"VisionConfig.pretrained is {config.pretrained!r}, expected a file ({kinds}) for 'vit'")
        self.tower = _small_vit(config) if config.tower == "vit" else _open_clip_tower(config, from_file)
        _check_grid(self.tower, config)
        self.tower.prune_intermediate_layers([config.sizes.layers - 1], prune_norm=True, prune_head=True)
        self.tower.attn_pool = None
        if from_file:
            load_tower(self.tower, config.pretrained)
        from stgt.models.tower_layers import use_kernels

        use_kernels(self.tower)
        self.tower.requires_grad_(config.open_blocks == -1)
        if config.open_blocks > 0:
            _blocks(self.tower)[-config.open_blocks :].requires_grad_(True)
        dtype = getattr(torch, config.dtype)
        for module in self.tower.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
                for parameter in module.parameters(recurse=False):
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(dtype)
        self.train(self.training)

    def train(self, mode: bool = True) -> VisionTower:
        """Sets the mode of the trained blocks. Frozen blocks stay in evaluation mode."""
        super().train(mode)
        for module in self.tower.modules():
            module.training = mode and any(p.requires_grad for p in module.parameters())
        return self

    def forward(self, video: Tensor) -> Tensor:
        """video: (B, T, 3, S, S), normalised, for any T. Returns float32 (B, T, 1+P, C), [CLS] first."""
        size = self.config.sizes.image_size
        if video.ndim != 5 or tuple(video.shape[2:]) != (3, size, size) or not video.is_floating_point():
            raise ValueError(
                f"video is {tuple(video.shape)} {video.dtype}, expected floating point (B, T, 3, {size}, {size})"
            )
        B, T = video.shape[:2]
        dtype = getattr(torch, self.config.dtype)
        frozen = self.config.open_blocks == 0
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not frozen),
            torch.autocast(video.device.type, dtype, enabled=dtype != torch.float32),
        ):
            tokens = self._tokens(video.flatten(0, 1).float())
        return tokens.float().unflatten(0, (B, T))

    def _tokens(self, images: Tensor) -> Tensor:
        """(n, 3, S, S) to (n, 1+P, C). The interfaces of open_clip and timm differ."""
        options = dict(indices=1, intermediates_only=True, output_fmt="NLC")  # the output of the last block
        if not hasattr(self.tower, "blocks"):  # open_clip's
            out = self.tower.forward_intermediates(images, **options, output_extra_tokens=True)
            patches, extra = out["image_intermediates"][0], out["image_intermediates_prefix"][0]
        elif self.tower.num_prefix_tokens:
            (patches, extra), *_ = self.tower.forward_intermediates(images, **options, return_prefix_tokens=True)
        else:
            (patches,) = self.tower.forward_intermediates(images, **options)
            extra = patches.mean(1, keepdim=True)
        return torch.cat([extra[:, :1], patches], 1)


def _small_vit(config: VisionConfig) -> nn.Module:
    """A plain ViT with the config's sizes and EVA01-g's architecture, so its tensors have the released names."""
    from timm.models.eva import Eva

    sizes = config.sizes
    return Eva(
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        num_classes=0,
        global_pool="token",
        embed_dim=sizes.width,
        depth=sizes.layers,
        num_heads=sizes.heads,
        mlp_ratio=sizes.mlp_ratio,
    )


def _open_clip_tower(config: VisionConfig, from_file: bool) -> nn.Module:
    """The vision part of an open_clip model. If it is a timm model, this is the part inside open_clip's wrapper."""
    import open_clip

    try:
        visual = open_clip.create_model(
            config.tower,
            pretrained=None if from_file else config.pretrained,
            # open_clip would choose a device itself. The default device is used, as in the constructors of nn.Module.
            device=torch.get_default_device(),
            force_image_size=config.sizes.image_size,
            pretrained_text=False,
        ).visual
    except RuntimeError as error:
        if config.pretrained is None:
            raise
        raise ValueError(f"VisionConfig.pretrained is {config.pretrained!r}: {error}") from error
    return getattr(visual, "trunk", visual)


def _blocks(tower: nn.Module) -> nn.ModuleList:
    return tower.blocks if hasattr(tower, "blocks") else tower.transformer.resblocks


def _check_grid(tower: nn.Module, config: VisionConfig) -> None:
    """Raise ValueError if the tower cuts frames of the config's size into another grid of patches."""
    side, found = config.sizes.grid, tower.grid_size if hasattr(tower, "grid_size") else tower.patch_embed.grid_size
    if tuple(found) != (side, side):
        raise ValueError(
            f"VisionConfig.tower {config.tower!r} has a grid of {found[0]} by {found[1]} patches, "
            f"but image_size={config.sizes.image_size} and patch_size={config.sizes.patch_size} make {side} by {side}"
        )
