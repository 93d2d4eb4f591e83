"""Writes checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from stgt.checkpoint.folders import checkpoints, rotate
from stgt.checkpoint.names import STATE, name_of
from stgt.checkpoint.shards import is_sharded, local_rows, write_shards
from stgt.checkpoint.state import FORMAT, CheckpointError, read_state
from stgt.distributed import ALONE, World
from stgt.files import atomic_folder, file_hash, save_tensors
from stgt.integrity import NonFiniteError, nonfinite, sealed


def write_checkpoint(
    run: Path, step: int, groups: dict[str, dict[str, torch.Tensor]], state: dict, *, keep: int, world: World = ALONE
) -> Path:
    """Write `RUN/checkpoints/step-STEP` atomically, and remove older checkpoints as `rotate` does.

    Each group of tensors becomes `<group>.safetensors`, or a folder `<group>` of safetensors if its tensors are cut
    into rows that the processes of `world` share. `state` (JSON values) becomes `state.json`. The best checkpoint has
    the step `state["best"]["step"]`. Every process must call this. Raises CheckpointError in all of them, with the
    earlier checkpoints intact, if this fails in one. Raises NonFiniteError if a number of a tensor is not finite,
    because nobody could read such a checkpoint.
    """
    _require_finite(run, step, groups, world)
    final = run / "checkpoints" / name_of(step)
    with world.agreed(CheckpointError), _intact(run):
        with ExitStack() as stack:
            partial = None
            with world.agreed(CheckpointError), _intact(run):
                if world.is_main and final in checkpoints(run):
                    read_state(final)
                elif world.is_main:
                    partial = stack.enter_context(atomic_folder(final))
            partial = world.collect(partial)[0]
            if partial is None:
                return final
            whole, hashes = {}, {}
            for name, tensors in groups.items():
                if any(map(is_sharded, tensors.values())):
                    write_shards(partial / name, tensors)
                    hashes |= _shared_hashes(partial, name, run, world)
                else:
                    whole[f"{name}.safetensors"] = tensors
            if world.is_main:
                for name, tensors in whole.items():
                    save_tensors(partial / name, tensors)
                    hashes[name] = file_hash(partial / name)
                (partial / STATE).write_text(sealed({"format": FORMAT, "files": hashes, **state}), "utf-8")
        if world.is_main:
            rotate(final, keep)
    return final


def _require_finite(run: Path, step: int, groups: dict[str, dict[str, torch.Tensor]], world: World) -> None:
    """Raise NonFiniteError in all processes if a tensor of one of them holds a NaN or an infinity."""
    own = [
        f"{group} {name}"
        for group, tensors in groups.items()
        for name in nonfinite({name: local_rows(tensor) for name, tensor in tensors.items()})
    ]
    if names := next(filter(None, world.collect(own)), None):
        more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
        found = checkpoints(run)
        last = f"{found[-1]} is older than this" if found else "there is no earlier one"
        raise NonFiniteError(
            f"{', '.join(names[:3])}{more}: NaN or infinite numbers after step {step}, so there is no checkpoint of "
            f"this step; {last}"
        )


def _shared_hashes(folder: Path, group: str, run: Path, world: World) -> dict[str, str]:
    """The SHA-256 of the shards of a group, by their names in `folder`. The processes share the work.

    Raises CheckpointError in all processes if one cannot read, or if they do not see the same shards.
    """
    with world.agreed(CheckpointError), _intact(run):
        names = sorted(f"{group}/{path.name}" for path in (folder / group).iterdir())
    if any(others != names for others in world.collect(names)):
        raise CheckpointError(f"{run}: its processes see other files, expected a file system that all of them share")
    with world.agreed(CheckpointError), _intact(run):
        own = {name: file_hash(folder / name) for name in names[world.rank :: world.size]}
    return {name: value for hashes in world.collect(own) for name, value in hashes.items()}


@contextmanager
def _intact(run: Path) -> Iterator[None]:
    """Replace an error of the operating system by a CheckpointError that names the last checkpoint."""
    try:
        yield
    except OSError as error:
        found = checkpoints(run)
        last = f"{found[-1]} is intact" if found else "there is no earlier one"
        raise CheckpointError(f"{error}; {last}") from error
