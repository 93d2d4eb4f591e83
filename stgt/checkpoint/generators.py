"""The states of random generators in a checkpoint."""

from __future__ import annotations

from pathlib import Path

from stgt.checkpoint.state import CheckpointError
from stgt.checkpoint.tensors import listed, misfits, read_tensors, require_finite
from stgt.randomness import random_state, restore_random_state


def load_random(checkpoint: Path, rank: int, world: int) -> None:
    """Restore the generators of process `rank` from a checkpoint that `world` processes wrote.

    Raises CheckpointError for states that do not fit.
    """
    tensors = read_tensors(checkpoint, "random")
    expected, path = random_state(), checkpoint / "random.safetensors"
    names = {f"{process}.{name}" for process in range(world) for name in expected}
    on_gpu = {f"{process}.cuda" for process in range(world)}  # a run may move from a machine with a GPU or to one
    problems = [f"{name} is missing" for name in names - tensors.keys() - on_gpu]
    problems += [f"{name} is unknown" for name in tensors.keys() - names - on_gpu]
    own = {name: tensors[full] for name in (*expected, "cuda") if (full := f"{rank}.{name}") in tensors}
    for name in own.keys() & expected.keys():
        problems += misfits(f"{rank}.{name}", own[name], expected[name])
    if problems:
        raise CheckpointError(f"{path}: holds the states of other generators:\n  {listed([], problems)}")
    require_finite(path, own)
    try:
        restore_random_state(own)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not hold the state of a generator: {error}") from error
