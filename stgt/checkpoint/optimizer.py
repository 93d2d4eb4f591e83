"""The state of an optimizer in a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from stgt.checkpoint.shards import local_rows
from stgt.checkpoint.state import CheckpointError, has_checksums
from stgt.checkpoint.tensors import listed, misfits, open_tensors, require_finite
from stgt.distributed import ALONE, World

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


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path, world: World = ALONE) -> None:
    """Copy a checkpoint's optimizer state into an optimizer over the same model.

    If the parameters are cut, each process copies the rows that it holds. world: the processes that read together.
    Raises CheckpointError, which names the parameters, if entries are missing, unknown or not finite, or have another
    shape or dtype. A checkpoint of version 0.1.0 has no entries for parameters without state, and a warning names them.
    """
    trained, found = _trained(model, optimizer), {}
    stored = open_tensors(checkpoint, "optimizer", world)
    for full in stored.names:
        name, _, key = full.rpartition(":")
        found.setdefault(name, {})[key] = stored.described(full)
    problems = [f"{name} has entries, but is not trained here" for name in found.keys() - trained.keys()]
    absent = [name for name in trained if name not in found]
    if has_checksums(checkpoint):
        problems += [f"{name} has no entries" for name in absent]
    elif absent and found:
        logger.warning("%s has no optimizer state for %s; it starts again there", checkpoint, ", ".join(absent))
    for name in found.keys() & trained.keys():
        problems += _wrong_entries(name, found[name], trained[name])
    if problems:
        raise CheckpointError(f"{stored.place}: does not fit the optimizer:\n  {listed([], problems)}")
    kept = {name: parameter for name, parameter in trained.items() if _IDLE not in found.get(name, {_IDLE})}
    with world.agreed(CheckpointError):
        steps = {f"{name}:step": stored.read(f"{name}:step") for name in kept}
        moments = {
            full: stored.read_rows_of(full, parameter)
            for name, parameter in kept.items()
            for full in (f"{name}:{key}" for key in _MOMENTS)
        }
        require_finite(stored.place, steps | moments)
    for name, parameter in kept.items():
        # The kernels of fused AdamW read the step count on the parameter's device, and do not check where it is.
        state = {"step": steps[f"{name}:step"].to(parameter.device)}
        for key in _MOMENTS:
            state[key] = torch.empty_like(parameter.detach())
            local_rows(state[key]).copy_(moments[f"{name}:{key}"])
        optimizer.state[parameter] = state


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
