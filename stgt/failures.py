"""The exit status and the message of a command that fails."""

from __future__ import annotations

import re

import torch

from stgt.checkpoint import CheckpointError
from stgt.data.loader import LoaderError
from stgt.data.video import VideoError
from stgt.integrity import NonFiniteError
from stgt.signals import StoppedError


def exit_status(error: Exception) -> int | None:
    """The exit status for an error, or None for a bug.

    It is 2 for a mistake that the user can correct, 1 for a run that failed, and 128 + signal for a run that a signal
    stopped.
    """
    if isinstance(error, StoppedError):
        return 128 + error.signum
    if isinstance(error, (NonFiniteError, LoaderError)) or _is_memory(error):
        return 1
    if isinstance(error, (ValueError, OSError, VideoError, CheckpointError)):
        return 2
    return None


def message_of(error: Exception) -> str:
    """The message that the user gets for an error."""
    message = str(error)
    if "in DataLoader worker process" in message:  # the worker's traceback comes before its own message
        message = re.split(r"\n[\w.]*Error: ", message)[-1].rstrip("\n")
    if _is_memory(error):
        cause = message.partition("\n")[0] or "Python got none"
        message = f"there is not enough memory: {cause}"
    return message


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out. PyTorch raises a plain RuntimeError if a CPU's memory runs out."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
