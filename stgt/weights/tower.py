"""The identity of a vision tower."""

from __future__ import annotations

import dataclasses
import json

from torch import Tensor

from stgt.config import VisionConfig
from stgt.files import tensors_hash


def tower_hash(weights: dict[str, Tensor], config: VisionConfig) -> str:
    """SHA-256 of a tower's tensors, names, shapes and dtypes included, and of the settings that change its output."""
    settings = dataclasses.asdict(config)
    for name in ("pretrained", "open_blocks"):  # These two do not change the output.
        del settings[name]
    return tensors_hash(weights, json.dumps(settings, sort_keys=True))
