"""The sizes at which models are counted and timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.recipes import quickstart

Size = Literal["quickstart", "ViT-B", "ViT-g"]


def model_config(size: Size) -> ModelConfig:
    """The model of a size: the quickstart's, one with ViT-B, or the paper's with BLIP-2's EVA-CLIP-g (ViT-g)."""
    if size == "quickstart":
        config = quickstart().model
        words = replace(config.qformer, vocab_size=512, bos_token_id=511)  # about the size of its tokenizer
        return replace(config, qformer=words)
    if size == "ViT-B":
        vision = VisionConfig(tower="vit", patch_size=16, width=768, layers=12, heads=12)
        return ModelConfig(vision, GraphConfig(heads=12), QFormerConfig())
    if size == "ViT-g":
        return ModelConfig(VisionConfig(tower="vit", mlp_ratio=6144 / 1408), GraphConfig(), QFormerConfig())
    raise ValueError(f"size is {size!r}, expected quickstart, ViT-B or ViT-g")
