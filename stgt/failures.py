"""How a command ends that fails: its exit status, and its message."""

from __future__ import annotations

import re

import torch

from stgt.checkpoint import CheckpointError
from stgt.data.loader import LoaderError
from stgt.data.video import VideoError
from stgt.integrity import NonFiniteError
from stgt.signals import StoppedError


def exit_status(error: Exception) -> int | None:
    """2 for what the user can put right, 1 for a run that failed, 128 + signal for one told to stop; None for a bug."""
    if isinstance(error, StoppedError):
        return 128 + error.signum
    if isinstance(error, (NonFiniteError, LoaderError)) or _is_memory(error):
        return 1
    if isinstance(error, (ValueError, OSError, VideoError, CheckpointError)):
        return 2
    return None


def message_of(error: Exception) -> str:
    """What the user is told of an error."""
    message = str(error)
    if "in DataLoader worker process" in message:  # with the worker's traceback before it
        message = re.split(r"\n[\w.]*Error: ", message)[-1].rstrip("\n")
    if _is_memory(error):
        cause = message.partition("\n")[0] or "Python got none"
        message = f"there is not enough memory: {cause}"
    return message


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; PyTorch says so of a CPU's with a RuntimeError."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
