"""The tensors of a model in a checkpoint, and the pretrained parts that a checkpoint only refers to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from stgt.checkpoint.names import MODEL
from stgt.checkpoint.state import CheckpointError, read_state
from stgt.checkpoint.tensors import listed, misfits, read_tensors, require_finite
from stgt.config import ModelConfig, differences, from_dict, to_dict
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
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        if not (without_tower and name.startswith(TOWER)) and name not in referenced:
            tensors[name] = tensor
    return tensors


def load_model(model: nn.Module, checkpoint: Path, *, convert: bool = False) -> None:
    """Copy a checkpoint's weights into the model.

    convert: whether weights of another dtype are converted to the model's dtype.
    Raises CheckpointError if a tensor is missing, unknown or not finite, or has another shape or dtype; the message
    lists these tensors and the settings that differ. Raises CheckpointError as well if the pretrained tower or language
    model that the checkpoint refers to has other weights here.
    """
    state = read_state(checkpoint)
    tower, language = state.get("tower"), state.get("language")
    tensors = read_tensors(checkpoint, "model")
    expected = model_tensors(model, without_tower=tower is not None, without_language=language is not None)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown to this model" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        problems += misfits(name, tensors[name], expected[name], convert=convert)
    if problems:
        theirs = from_dict(ModelConfig, state["config"]["model"])
        settings = differences(to_dict(model.config), to_dict(theirs), "model.")
        raise CheckpointError(f"{checkpoint}: is a checkpoint of another model:\n  {listed(settings, problems)}")
    require_finite(checkpoint / MODEL, tensors)
    if tower is not None and (here := tower_hash(model.vision.state_dict(), model.config.vision)) != tower["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on {tower['tower']} ({tower['pretrained']}) with weights "
            f"{tower['sha256'][:12]}…, but the tower here has {here[:12]}…"
        )
    if language is not None and (here := tensors_hash(_frozen_language(model))) != language["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on the language model {language['model']} with weights "
            f"{language['sha256'][:12]}…, but {model.config.language.model} here has {here[:12]}…"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


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
