"""The identity of a vision tower."""

from __future__ import annotations

import dataclasses
import json

from torch import Tensor

from stgt.config import VisionConfig
from stgt.files import tensors_hash


def tower_hash(weights: dict[str, Tensor], config: VisionConfig) -> str:
    """SHA-256 of a tower's tensors, names, shapes and dtypes included, and of the settings that change its output."""
    settings = {"tower": config.tower, "dtype": config.dtype} | dataclasses.asdict(config.sizes)
    if config.tower != "vit":
        # The name decides these two. Hashes keep the values that version 0.1.0 gave to every tower of open_clip.
        settings |= {"heads": 16, "mlp_ratio": 4.0}
    return tensors_hash(weights, json.dumps(settings, sort_keys=True))
