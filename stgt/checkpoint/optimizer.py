"""The state of an optimizer in a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from stgt.checkpoint.state import CheckpointError, has_checksums
from stgt.checkpoint.tensors import listed, misfits, read_tensors, require_finite

logger = logging.getLogger(__name__)

_MOMENTS = ("exp_avg", "exp_avg_sq")
_IDLE = "idle"


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, by "parameter:key". A parameter without state has one empty tensor, "parameter:idle"."""
    return {
        f"{name}:{key}": value
        for name, parameter in _trained(model, optimizer).items()
        for key, value in (optimizer.state.get(parameter) or {_IDLE: torch.empty(0)}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Copy a checkpoint's optimizer state into an optimizer over the same model.

    Raises CheckpointError, which names the parameters, if entries are missing, unknown or not finite, or have another
    shape or dtype. A checkpoint of version 0.1.0 has no entries for parameters without state, and a warning names them.
    """
    trained, found = _trained(model, optimizer), {}
    tensors = read_tensors(checkpoint, "optimizer")
    for full, value in tensors.items():
        name, _, key = full.rpartition(":")
        found.setdefault(name, {})[key] = value
    problems = [f"{name} has entries, but is not trained here" for name in found.keys() - trained.keys()]
    absent = [name for name in trained if name not in found]
    if has_checksums(checkpoint):
        problems += [f"{name} has no entries" for name in absent]
    elif absent and found:
        logger.warning("%s has no optimizer state for %s; it starts again there", checkpoint, ", ".join(absent))
    for name in found.keys() & trained.keys():
        problems += _wrong_entries(name, found[name], trained[name])
    path = checkpoint / "optimizer.safetensors"
    if problems:
        raise CheckpointError(f"{path}: does not fit the optimizer:\n  {listed([], problems)}")
    require_finite(path, tensors)
    for name, entries in found.items():
        if _IDLE not in entries:
            # The kernels of fused AdamW read the step count on the parameter's device, and do not check where it is.
            device = trained[name].device
            optimizer.state[trained[name]] = {key: value.to(device) for key, value in entries.items()}


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    ours = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


def _wrong_entries(name: str, entries: dict[str, torch.Tensor], parameter: nn.Parameter) -> list[str]:
    if entries.keys() == {_IDLE}:
        return []
    if entries.keys() != {"step", *_MOMENTS}:
        return [f"{name} has {', '.join(sorted(entries))}, expected step, {', '.join(_MOMENTS)}"]
    expected = {"step": torch.tensor(0.0)} | dict.fromkeys(_MOMENTS, parameter)
    return [line for key, tensor in expected.items() for line in misfits(f"{name}:{key}", entries[key], tensor)]
