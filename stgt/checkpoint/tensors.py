"""Reads the tensors of a checkpoint, and compares them with those that are expected."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stgt.checkpoint.state import CheckpointError, state_and_hashes, unreadable
from stgt.integrity import DamagedError, nonfinite, require_hash


def read_tensors(checkpoint: Path, group: str) -> dict[str, torch.Tensor]:
    """One group of tensors, on the CPU. Raises CheckpointError if one byte of its file was changed."""
    path = checkpoint / f"{group}.safetensors"
    hashes = state_and_hashes(checkpoint)[1]
    try:
        if hashes is not None:
            require_hash(path, hashes[path.name])
        return load_file(path)
    except (OSError, SafetensorError, KeyError, DamagedError) as error:
        raise unreadable(path, error) from error


def misfits(name: str, found: torch.Tensor, expected: torch.Tensor, *, convert: bool = False) -> list[str]:
    """The differences between a tensor that was read and the expected one, in shape or else in dtype."""
    if found.shape != expected.shape:
        return [f"{name} has shape {tuple(found.shape)}, here {tuple(expected.shape)}"]
    if found.dtype != expected.dtype and not convert:
        return [f"{name} is {found.dtype}, here {expected.dtype}"]
    return []


def listed(settings: list[str], problems: list[str]) -> str:
    more = [f"and {len(problems) - 12} more tensors"] if len(problems) > 12 else []
    return "\n  ".join([*settings, *sorted(problems)[:12], *more])


def require_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if names := nonfinite(tensors):
        raise CheckpointError(
            f"{path}: holds NaN or infinite numbers, expected finite ones, in {', '.join(names[:12])}"
        )
