"""Finsta's own weights, which post-training writes beside the host."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from stgt.fields import from_dict
from stgt.files import write_tensors
from stgt.finsta.config import FinstaConfig
from stgt.finsta.hosts.host import Widths
from stgt.finsta.model.finsta import Finsta
from stgt.integrity import require_finite
from stgt.structure import field, read_json

SETTINGS, WEIGHTS = "finsta.json", "finsta.safetensors"


def save_finsta(finsta: Finsta, folder: Path) -> None:
    """Write `finsta.safetensors`. The settings of the post-training are in `finsta.json` beside it."""
    write_tensors(folder / WEIGHTS, finsta.state_dict())


def load_finsta(folder: Path) -> Finsta:
    """The Finsta model of a post-training that has ended, on the CPU and in evaluation mode.

    Raises ValueError if the folder holds none, as after the controls "steps" and "labels", or one that is damaged.
    """
    path, weights = folder / SETTINGS, folder / WEIGHTS
    settings = read_json(path, dict)
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file, expected the folder of a post-training with Finsta that has ended")
    widths = Widths(*field(settings, "widths", list, str(path)))
    finsta = Finsta(from_dict(FinstaConfig, field(settings, "finsta", dict, str(path))), widths)
    try:
        tensors = load_file(weights)
        require_finite(tensors, str(weights))
        finsta.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights}: does not hold the weights that {path} describes: {error}") from None
    return finsta.eval()
