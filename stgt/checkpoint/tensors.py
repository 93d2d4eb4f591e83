"""Reads the tensors of a checkpoint, and compares them with those that are expected."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from stgt.checkpoint.shards import StoredTensors
from stgt.checkpoint.state import CheckpointError, state_and_hashes, unreadable
from stgt.distributed import ALONE, World
from stgt.integrity import DamagedError, nonfinite, require_hash


def read_tensors(checkpoint: Path, group: str) -> dict[str, torch.Tensor]:
    """One group of whole tensors, on the CPU. Raises CheckpointError if one byte of its files was changed."""
    stored = open_tensors(checkpoint, group)
    return {name: stored.read(name) for name in stored.names}


def open_tensors(checkpoint: Path, group: str, world: World = ALONE) -> StoredTensors:
    """One group of tensors, after its files were compared with their checksums.

    The processes of `world` share the comparison, and all must call this. Raises CheckpointError in all of them if one
    byte was changed.
    """
    with world.agreed(CheckpointError):
        hashes, path = state_and_hashes(checkpoint)[1], checkpoint / f"{group}.safetensors"
        shards = sorted(name for name in hashes or () if name.startswith(f"{group}/"))
        files = [checkpoint / name for name in shards] or [path]
        try:
            for path in files[world.rank :: world.size] if hashes is not None else ():
                require_hash(path, hashes[path.relative_to(checkpoint).as_posix()])
        except (OSError, KeyError, DamagedError) as error:
            raise unreadable(path, error) from error
    place = checkpoint / group if shards else path
    try:
        return StoredTensors(place, files)
    except (OSError, SafetensorError, DamagedError) as error:
        raise unreadable(place, error) from error


def misfits(name: str, found: torch.Tensor, expected: torch.Tensor, *, convert: bool = False) -> list[str]:
    """The differences between a tensor that was read and the expected one, in shape or else in dtype."""
    if found.shape != expected.shape:
        return [f"{name} has shape {tuple(found.shape)}, here {tuple(expected.shape)}"]
    if found.dtype != expected.dtype and not convert:
        return [f"{name} is {found.dtype}, here {expected.dtype}"]
    return []


def listed(settings: list[str], problems: list[str]) -> str:
    """The lines of a message: all settings that differ, and the first twelve problems with tensors."""
    more = [f"and {len(problems) - 12} more tensors"] if len(problems) > 12 else []
    return "\n  ".join([*settings, *sorted(problems)[:12], *more])


def require_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError that names the tensors of the file `path` that hold NaN or infinite numbers."""
    if names := nonfinite(tensors):
        raise CheckpointError(
            f"{path}: holds NaN or infinite numbers, expected finite ones, in {', '.join(names[:12])}"
        )
