"""The names of checkpoints and of the files in them."""

from __future__ import annotations

import re
from pathlib import Path

STATE, MODEL, SHARDS = "state.json", "model.safetensors", "model"
"""The state, and the weights in one file or in a folder of shards"""


def name_of(step: int) -> str:
    """The name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's name, or None for other names."""
    digits = re.fullmatch(r"step-([0-9]{8,18})", checkpoint.name)
    return int(digits[1]) if digits and name_of(int(digits[1])) == checkpoint.name else None
