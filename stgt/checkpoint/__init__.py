"""Checkpoints of a run: folders of safetensors and one JSON file, which are complete or absent. Nothing is pickled.

A checkpoint `RUN/checkpoints/step-00000500/` holds `model.safetensors` (every tensor of the model), a file for each
other group of tensors that the trainer passes (`optimizer`, `random`), and `state.json`, which has the checksums of all
these files and of itself. If the processes of a run share its weights, the folders `model/` and `optimizer/` take the
place of these two files, and hold a safetensors file of each process. A checkpoint is written under another name,
forced to the disk, and renamed. A crash, a signal or a full disk at any moment does not change the checkpoints before
it.

A folder that is not named after a step, or that lacks `state.json` or the weights, is not a checkpoint. It is passed
over with a warning, and never removed. A damaged checkpoint is refused when it is read, and never removed. A run goes
on from an older checkpoint only if its user removes the damaged one.
"""

from stgt.checkpoint.folders import (
    checkpoints,
    chosen_checkpoint,
    latest_checkpoint,
    newest_checkpoint,
    require_free_names,
    require_kept,
    rotate,
)
from stgt.checkpoint.generators import load_random
from stgt.checkpoint.model import (
    TOWER,
    language_reference,
    load_model,
    load_tower,
    model_tensors,
    tower_reference,
)
from stgt.checkpoint.names import STATE
from stgt.checkpoint.optimizer import load_optimizer, optimizer_tensors
from stgt.checkpoint.state import CheckpointError, read_state, update_state
from stgt.checkpoint.tensors import read_tensors
from stgt.checkpoint.write import write_checkpoint

__all__ = [
    "STATE",
    "TOWER",
    "CheckpointError",
    "checkpoints",
    "chosen_checkpoint",
    "language_reference",
    "latest_checkpoint",
    "load_model",
    "load_optimizer",
    "load_random",
    "load_tower",
    "model_tensors",
    "newest_checkpoint",
    "optimizer_tensors",
    "read_state",
    "read_tensors",
    "require_free_names",
    "require_kept",
    "rotate",
    "tower_reference",
    "update_state",
    "write_checkpoint",
]
