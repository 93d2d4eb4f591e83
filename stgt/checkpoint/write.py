"""Writes checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from stgt.checkpoint.folders import checkpoints, rotate
from stgt.checkpoint.names import STATE, name_of
from stgt.checkpoint.state import FORMAT, CheckpointError, read_state
from stgt.files import atomic_folder, file_hash, save_tensors
from stgt.integrity import sealed


def write_checkpoint(
    run: Path, step: int, groups: dict[str, dict[str, torch.Tensor]], state: dict, *, keep: int
) -> Path:
    """Write `RUN/checkpoints/step-STEP` atomically, and remove all but the newest `keep` checkpoints and the best one.

    Each group of tensors becomes `<group>.safetensors`, and `state` (JSON values) becomes `state.json`. The best one
    has the step `state["best"]["step"]`. Raises CheckpointError, with the earlier checkpoints intact, if this fails.
    """
    final = run / "checkpoints" / name_of(step)
    if final in checkpoints(run):
        read_state(final)
        return final
    try:
        with atomic_folder(final) as partial:
            for name, tensors in groups.items():
                save_tensors(partial / f"{name}.safetensors", tensors)
            hashes = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
            (partial / STATE).write_text(sealed({"format": FORMAT, "files": hashes, **state}), "utf-8")
        best = state.get("best")
        rotate(run, keep, {final, *([] if best is None else [final.with_name(name_of(best["step"]))])})
    except OSError as error:
        intact = checkpoints(run)
        last = f"{intact[-1]} is intact" if intact else "there is no earlier one"
        raise CheckpointError(f"{error}; {last}") from error
    return final
