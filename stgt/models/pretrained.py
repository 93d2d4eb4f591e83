"""A model as a folder, here or on the Hugging Face hub: `config.json` and `model.safetensors`, complete in itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from torch import nn

from stgt.config import ModelConfig, from_dict, to_dict
from stgt.files import atomic_file, write_tensors
from stgt.models.checkpoint import TOWER, load_weights
from stgt.models.weights import read_weights
from stgt.structure import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_KIND = {"model_type": "stgt"}


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a model that `save` wrote."""
    try:
        content = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and _KIND.items() <= content.items()


def save(model: nn.Module, folder: str | Path) -> None:
    """Write a model's configuration and every tensor of it; a tower that it has is inside, and not fetched again."""
    folder, config = Path(folder), model.config
    if model.vision is not None:
        config = replace(config, vision=replace(config.vision, pretrained=None))
    with atomic_file(folder / CONFIG) as described:  # it takes its place last: without it, the folder is no model
        described.write_text(json.dumps(_KIND | to_dict(config), indent=1) + "\n", "utf-8")
        write_tensors(folder / WEIGHTS, model.state_dict(), metadata={"format": "pt"})


def has_tower(folder: Path) -> bool:
    """Whether the vision tower's weights are in a folder that `save` wrote."""
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        return any(name.startswith(TOWER) for name in file.keys())  # noqa: SIM118 (it is no dictionary)


def load(cls: type[nn.Module], name: str | Path, tower: bool, revision: str | None) -> nn.Module:
    """The model of class `cls` in a folder or on the hub; see `STGT.from_pretrained`."""
    config_file, weights_file = find(name, revision)
    config, weights = read_config(config_file), read_weights([weights_file])
    stored = any(tensor.startswith(TOWER) for tensor in weights.sources)
    if tower and not stored and config.vision.pretrained is None:
        raise ValueError(
            f"{weights_file} has no vision tower, and {config_file} does not say where to fetch it "
            "(vision.pretrained); tower=False makes a model that is given the tower's tokens"
        )
    model = cls(config, tower=tower)
    load_weights(model, weights, allow_missing=() if stored else (TOWER,))
    return model.eval()


def find(name: str | Path, revision: str | None = None) -> tuple[Path, Path]:
    """The configuration's and the weights' files of a folder, or of a model on the hub, which is fetched.

    Raises ValueError for what holds no such model, OSError where the hub does not give it.
    """
    folder = Path(name)
    if folder.is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise ValueError(
                    f"{folder} has no {file}, expected a folder that save_pretrained or `stgt convert` wrote; "
                    "`stgt convert` makes one of a run's folder"
                )
        return folder / CONFIG, folder / WEIGHTS
    if folder.exists():
        raise ValueError(f"{folder} is a file, expected a folder; `stgt convert {folder} --out FOLDER` makes one of it")
    from huggingface_hub import hf_hub_download

    try:
        return tuple(Path(hf_hub_download(str(name), file, revision=revision)) for file in (CONFIG, WEIGHTS))
    except Exception as error:  # the hub's client lets its network library's own errors through
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        raise OSError(
            f"{str(name)!r} is no folder here, and the Hugging Face hub did not give its {CONFIG} and {WEIGHTS} "
            f"({type(error).__name__}: {reason}); where the hub cannot be reached, give a folder that was downloaded"
        ) from error


def read_config(file: Path) -> ModelConfig:
    """The model that a folder holds; ValueError, naming the file, if its configuration is not one of ours."""
    values = read_json(file, dict)
    kind = values.pop("model_type", None)
    if kind != _KIND["model_type"]:
        raise ValueError(f"{file} describes a model of type {kind!r}, expected 'stgt'")
    try:
        return from_dict(ModelConfig, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
