"""The tensors of a model in a checkpoint, and the pretrained parts that a checkpoint only refers to."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch
from torch import nn

from stgt.checkpoint.shards import StoredTensors, local_rows
from stgt.checkpoint.state import CheckpointError, read_state
from stgt.checkpoint.tensors import listed, misfits, open_tensors, require_finite
from stgt.config import ModelConfig, differences, from_dict, to_dict
from stgt.distributed import ALONE, World
from stgt.files import tensors_hash
from stgt.weights.tower import tower_hash

TOWER, LANGUAGE = "vision.", "language."


def model_tensors(
    model: nn.Module, *, without_tower: bool = False, without_language: bool = False
) -> dict[str, torch.Tensor]:
    """Every tensor of the model by name. Tied tensors occur once, under the first of their names.

    without_language: leave out the frozen tensors of a language model.
    """
    tensors: dict[str, torch.Tensor] = {}
    referenced = _frozen_language(model) if without_language else {}
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if not (without_tower and name.startswith(TOWER)) and name not in referenced:
            tensors[name] = tensor.detach()
    return tensors


def load_model(
    model: nn.Module,
    checkpoint: Path,
    *,
    convert: bool = False,
    tower: dict | None = None,
    language: dict | None = None,
    world: World = ALONE,
) -> None:
    """Copy a checkpoint's weights into the model. If its tensors are cut, each process copies the rows that it holds.

    convert: whether weights of another dtype are converted to the model's dtype.
    tower, language: the references of this model. They are computed if they are not given and the checkpoint has them.
    world: the processes that read the checkpoint together.
    Raises CheckpointError if a tensor is missing, unknown or not finite, or has another shape or dtype; the message
    lists these tensors and the settings that differ. Raises CheckpointError as well if the pretrained tower or language
    model that the checkpoint refers to has other weights here.
    """
    state = read_state(checkpoint)
    theirs = {name: state.get(name) for name in ("tower", "language")}
    stored = open_tensors(checkpoint, "model", world)
    outside = {f"without_{name}": reference is not None for name, reference in theirs.items()}
    expected = model_tensors(model, **outside)
    if problems := _problems(stored, stored.names, expected, convert):
        config = from_dict(ModelConfig, state["config"]["model"])
        settings = differences(to_dict(model.config), to_dict(config), "model.")
        raise CheckpointError(f"{checkpoint}: is a checkpoint of another model:\n  {listed(settings, problems)}")
    if theirs["tower"] is not None:
        here = tower["sha256"] if tower else tower_hash(model.vision.state_dict(), model.config.vision)
        _require_same_tower(checkpoint, theirs["tower"], here)
    if theirs["language"] is not None:
        here = language["sha256"] if language else tensors_hash(_frozen_language(model))
        _require_same_language(checkpoint, theirs["language"], here, model.config.language.model)
    with world.agreed(CheckpointError):
        tensors = {name: stored.read_rows_of(name, tensor) for name, tensor in expected.items()}
        require_finite(stored.place, tensors)
    for name, tensor in expected.items():
        local_rows(tensor).copy_(tensors[name])


def load_tower(tower: nn.Module, checkpoint: Path) -> None:
    """Copy the weights that a checkpoint has for the vision tower. They are converted to the tower's dtypes.

    The errors are those of `load_model`.
    """
    if (theirs := read_state(checkpoint).get("tower")) is not None:
        _require_same_tower(checkpoint, theirs, tower_hash(tower.state_dict(), tower.config))
        return
    stored = open_tensors(checkpoint, "model")
    expected = {f"{TOWER}{name}": tensor for name, tensor in tower.state_dict().items()}
    names = {name for name in stored.names if name.startswith(TOWER)}
    if problems := _problems(stored, names, expected, convert=True):
        raise CheckpointError(f"{checkpoint}: has another vision tower:\n  {listed([], problems)}")
    tensors = {name: stored.read(name) for name in expected}
    require_finite(stored.place, tensors)
    for name, tensor in expected.items():
        tensor.copy_(tensors[name])


def _problems(stored: StoredTensors, names: Set[str], expected: dict[str, torch.Tensor], convert: bool) -> list[str]:
    """How the stored tensors of these names differ from the expected ones in names, shapes and dtypes."""
    problems = [f"{name} is missing" for name in expected.keys() - names]
    problems += [f"{name} is unknown to this model" for name in names - expected.keys()]
    for name in expected.keys() & names:
        problems += misfits(name, stored.described(name), expected[name], convert=convert)
    return problems


def _require_same_tower(checkpoint: Path, theirs: dict, here: str) -> None:
    if here != theirs["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on {theirs['tower']} ({theirs['pretrained']}) with weights "
            f"{theirs['sha256'][:12]}…, but the tower here has {here[:12]}…"
        )


def _require_same_language(checkpoint: Path, theirs: dict, here: str, name: str) -> None:
    if here != theirs["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on the language model {theirs['model']} with weights "
            f"{theirs['sha256'][:12]}…, but {name} here has {here[:12]}…"
        )


def tower_reference(model: nn.Module) -> dict | None:
    """The entry of a checkpoint for a frozen tower that open_clip can fetch again, or None if it stores the tower."""
    vision = model.config.vision
    if vision.pretrained is None or vision.open_blocks != 0 or Path(vision.pretrained).exists():
        return None
    sha256 = tower_hash(model.vision.state_dict(), vision)
    return {"tower": vision.tower, "pretrained": vision.pretrained, "sha256": sha256}


def language_reference(model: nn.Module) -> dict | None:
    """The entry of a checkpoint for the frozen weights of a pretrained language model, which it does not store."""
    config = model.config.language
    if config is None or config.model == "opt" or config.tune == "all":
        return None
    return {"model": config.model, "sha256": tensors_hash(_frozen_language(model))}


def _frozen_language(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a language model that are not trained."""
    tensors = {f"{LANGUAGE}{name}": tensor for name, tensor in model.language.state_dict(keep_vars=True).items()}
    return {name: tensor.detach() for name, tensor in tensors.items() if not tensor.requires_grad}
