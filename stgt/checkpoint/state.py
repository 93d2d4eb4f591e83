"""The file `state.json` of a checkpoint: its values, its own checksum, and those of the other files."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from stgt.checkpoint.names import STATE, step_of
from stgt.fields import COUNT
from stgt.files import write_text
from stgt.integrity import DamagedError, read_sealed, sealed
from stgt.structure import field, shown

logger = logging.getLogger(__name__)

FORMAT = 2
"""The version of a checkpoint's format, in state.json. Checkpoints of stgt 0.1.0 have neither it nor checksums"""
_FIELDS = {"step": int, "world": int, "global_batch": int, "replaced": int, "scaler": dict, "config": dict}

_PARTS = {
    "best": {"step": int, "value": float},
    "tower": {"tower": str, "sha256": str},
    "language": {"model": str, "sha256": str},
    "scaler": {
        "scale": float,
        "growth_factor": float,
        "backoff_factor": float,
        "growth_interval": int,
        "_growth_tracker": int,
    },
}
"""The types of values in parts of the state that some runs do not have"""
_LEAST = {"step": 0, "world": 1, "global_batch": 1, "replaced": 0}
PROCESSES = 100_000
"""The most processes that a checkpoint may name. Each has states of random generators, whose names are listed"""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or used for this model."""


def read_state(checkpoint: Path) -> dict:
    """The `state` that `write_checkpoint` was given. Raises CheckpointError if one byte of its file has changed."""
    return state_and_hashes(checkpoint)[0]


def update_state(checkpoint: Path, **values: object) -> None:
    """Replace some values of a checkpoint's state atomically. Raises OSError if the disk cannot be written."""
    state, hashes = state_and_hashes(checkpoint)
    write_text(checkpoint / STATE, sealed({"format": FORMAT, "files": hashes, **state, **values}))


def state_and_hashes(checkpoint: Path) -> tuple[dict, dict[str, str] | None]:
    """A checkpoint's state and the SHA-256 of its files, or None in place of these for checkpoints of version 0.1.0.

    Raises CheckpointError if `state.json` cannot be read, was changed, or does not fit its folder.
    """
    path = checkpoint / STATE
    try:
        state, has_checksum = read_sealed(path)
    except (OSError, DamagedError) as error:
        raise unreadable(path, error) from error
    version, hashes = state.pop("format", None), state.pop("files", None)
    if has_checksum and version != FORMAT:
        raise CheckpointError(f"{path}: has format {version!r}, expected {FORMAT}: another version of stgt wrote it")
    if not has_checksum and version is not None:
        raise unreadable(path, DamagedError(f"{path}: its own checksum is missing, so the file was damaged"))
    if not has_checksum:
        _warn_of_no_checksums(checkpoint)
    if has_checksum and not (isinstance(hashes, dict) and all(isinstance(each, str) for each in hashes.values())):
        raise CheckpointError(f"{path}: 'files' is {shown(hashes)}, expected the SHA-256 of each file")
    _require_fields(state, path)
    expected = step_of(checkpoint)
    if expected is not None and state.get("step", expected) != expected:
        raise CheckpointError(f"{path}: 'step' is {state['step']!r}, expected {expected}, as in the name of its folder")
    return state, hashes


def _require_fields(state: dict, path: Path) -> None:
    """Raise CheckpointError for values of other types than those that `write_checkpoint` writes."""
    try:
        for name, kind in _FIELDS.items():
            if name in state or name in ("step", "config"):
                field(state, name, kind, str(path))
        for name, least in _LEAST.items():
            most = PROCESSES if name == "world" else COUNT
            if name in state and not least <= state[name] <= most:
                raise ValueError(f"{path}: {name!r} is {state[name]}, expected at least {least} and at most {most}")
        field(state["config"], "model", dict, f"{path}: config")
        for name, kinds in _PARTS.items():
            # The scaler is empty unless the run computes in fp16.
            if state.get(name) is not None and (name != "scaler" or state[name]):
                part = field(state, name, dict, str(path))
                for key, kind in kinds.items():
                    field(part, key, kind, f"{path}: {name}")
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def has_checksums(checkpoint: Path) -> bool:
    """Whether a checkpoint has checksums, which version 0.1.0 did not write. Errors are those of `read_state`."""
    return state_and_hashes(checkpoint)[1] is not None


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file of a checkpoint that cannot be read, with the reason."""
    reason = str(error).removeprefix(f"{path}: ")
    return CheckpointError(f"{path}: cannot be read: {reason}; remove its folder to use the checkpoint before it")


@functools.cache
def _warn_of_no_checksums(checkpoint: Path) -> None:
    logger.warning("%s was written by version 0.1.0, without checksums: damage to it may go unnoticed", checkpoint)
