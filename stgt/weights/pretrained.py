"""Saves and loads a complete model as a folder of `config.json` and `model.safetensors`, also on the Hugging Face hub.

`config.json` has the checksum of the weights, and loading refuses other weights. It also has a checksum of itself. If
the configuration was changed, that may be on purpose, so it is read with a warning.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import nn

from stgt import fields
from stgt.causes import cause_of
from stgt.checkpoint.names import STATE
from stgt.config import ModelConfig, Precision, from_dict, to_dict
from stgt.data_config import Decoder
from stgt.files import atomic_file, file_hash, save_tensors
from stgt.integrity import require_finite, require_hash, seal_of, sealed
from stgt.paths import given_path
from stgt.structure import read_json
from stgt.weights.files import read_weights
from stgt.weights.load import TOWER, load_weights

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_KIND = {"model_type": "stgt"}
HEADS = {"matching": "vtm_weight", "generation": "vtg_weight"}
"""The heads that a training can leave out, and the weight in `LossConfig` that is then 0"""


@dataclass(frozen=True)
class Training:
    """Facts about the training of a model, which its folder holds beside the weights."""

    untrained: tuple[Literal["matching", "generation"], ...] = ()
    """The heads that the training left out, which commands then do not use"""
    frames: int | None = None
    """The number of frames that were read of each video. None stands for the number of temporal embeddings"""
    decoder: Decoder = "auto"
    """The reader of videos, as in `DataConfig`"""
    precision: Precision = "fp32"
    """The dtype of the computation, as in `TrainConfig`"""

    def __post_init__(self) -> None:
        fields.require_types(self)
        if self.frames is not None:
            fields.require_counts(self, frames=fields.LONGEST)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a model that `save` wrote; a configuration that is no JSON any more counts as one."""
    if not (folder / CONFIG).is_file():
        return False
    try:
        content = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return (folder / WEIGHTS).is_file()  # reading the folder then tells what is wrong with its configuration
    return isinstance(content, dict) and _KIND.items() <= content.items()


def save(model: nn.Module, folder: str | Path, training: Training) -> None:
    """Write a model's configuration and all its tensors, including those of its tower, which is then not fetched again.

    training: the facts about its training that the configuration then has as well.
    Raises ValueError for weights that are not finite, and for a folder that holds a run or files of another model.
    """
    folder, config = given_path(folder), model.config
    require_replaceable(folder)
    if model.vision is not None:
        config = replace(config, vision=replace(config.vision, pretrained=None))
    require_finite(model.state_dict(), f"the model to write to {folder}")
    # Both files are put in place at the end: first the weights, since the configuration makes the folder a model.
    with atomic_file(folder / CONFIG) as described, atomic_file(folder / WEIGHTS) as weights:
        save_tensors(weights, model.state_dict(), metadata={"format": "pt"})
        files = {WEIGHTS: file_hash(weights)}
        described.write_text(sealed(_KIND | {"files": files} | asdict(training) | to_dict(config)), "utf-8")


def require_replaceable(folder: Path) -> None:
    """Raise ValueError if saving a model would spoil a run, a checkpoint, or files of another model in this folder.

    Weights alone are no reason, because a call of `save` that was killed may have left them.
    """
    foreign = ("checkpoints", STATE) if is_pretrained(folder) else ("checkpoints", STATE, CONFIG, "tokenizer")
    if found := [name for name in foreign if (folder / name).exists()]:
        raise ValueError(
            f"{folder} holds a run or other files ({found[0]}), expected a new folder or one that save_pretrained wrote"
        )


def has_tower(folder: Path) -> bool:
    """Whether the vision tower's weights are in a folder that `save` wrote. Raises ValueError for a damaged file."""
    try:
        with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
            return any(name.startswith(TOWER) for name in file.keys())  # noqa: SIM118 (the file is not a dictionary)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: cannot be read: {error}") from None


def load(cls: type[nn.Module], name: str | Path, tower: bool, revision: str | None) -> nn.Module:
    """The model of class `cls` in a folder or on the hub; see `STGT.from_pretrained`."""
    config_file, weights_file = find(name, revision)
    config, _, files = _read(config_file)
    weights = read_weights([weights_file])
    stored = any(tensor.startswith(TOWER) for tensor in weights.sources)
    if tower and not stored and config.vision.pretrained is None:
        raise ValueError(
            f"{weights_file} has no vision tower, and {config_file} does not say where to fetch it "
            "(vision.pretrained); tower=False makes a model that is given the tower's tokens"
        )
    model = cls(config, tower=tower)
    load_weights(model, weights, allow_missing=() if stored else (TOWER,))
    _require_whole(weights_file, files)
    return model.eval()


def find(name: str | Path, revision: str | None = None) -> tuple[Path, Path]:
    """The paths of the configuration and the weights of a folder, or of a model on the hub, which is downloaded.

    Raises ValueError if the folder or file is not such a model, and OSError if the hub does not have it.
    """
    folder = given_path(name)
    if folder.is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise ValueError(
                    f"{folder} has no {file}, expected a folder that save_pretrained or `stgt convert` wrote; "
                    "`stgt convert` makes one from a run's folder"
                )
        return folder / CONFIG, folder / WEIGHTS
    if folder.exists():
        raise ValueError(
            f"{folder} is a file, expected a folder; `stgt convert {folder} --out FOLDER` makes one from it"
        )
    from huggingface_hub import hf_hub_download

    try:
        return tuple(Path(hf_hub_download(str(name), file, revision=revision)) for file in (CONFIG, WEIGHTS))
    except Exception as error:  # the hub's client lets its network library's own errors through
        raise OSError(
            f"{str(name)!r} is no folder here, and the Hugging Face hub did not give its {CONFIG} and {WEIGHTS} "
            f"({cause_of(error)}); where the hub cannot be reached, give a folder that was downloaded"
        ) from error


def download(name: str) -> Path:
    """The folder of a model of the hub on this machine, with its tokenizer if it has one.

    Raises OSError if the hub does not have the model.
    """
    from huggingface_hub import snapshot_download

    folder = find(name)[0].parent
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, "tokenizer/*"]))
    except Exception as error:  # the model is there, and its tokenizer may be in the cache as well
        logger.warning("the hub did not give the tokenizer of %s (%s)", name, error)
        return folder


def read_config(file: Path) -> ModelConfig:
    """The configuration in a file. Raises ValueError, which names the file, if it is not a configuration of STGT."""
    return _read(file)[0]


def read_training(file: Path) -> Training:
    """The facts about the training in a configuration's file. Raises ValueError as `read_config` does."""
    return _read(file)[1]


def _read(file: Path) -> tuple[ModelConfig, Training, object]:
    """The configuration of a folder, the facts about its training, and the checksums of its files.

    Folders that version 0.1.0 wrote have None in place of the checksums.
    """
    values = read_json(file, dict)
    kind = values.pop("model_type", None)
    if kind != _KIND["model_type"]:
        raise ValueError(f"{file} describes a model of type {kind!r}, expected 'stgt'")
    files, own = values.pop("files", None), values.pop("sha256", None)
    facts = {name: values.pop(name) for name in fields.hints(Training) if name in values}
    if own is not None and not seal_of(file.read_bytes()):
        logger.warning("%s was changed after it was written; remove its value sha256 if you did so on purpose", file)
    try:
        return from_dict(ModelConfig, values), fields.from_dict(Training, facts), files
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _require_whole(weights_file: Path, files: object) -> None:
    if files is None:
        return
    if not isinstance(files, dict) or not isinstance(files.get(WEIGHTS), str):
        raise ValueError(f"{weights_file}: its checksum is missing among the values 'files' of {CONFIG}")
    require_hash(weights_file, files[WEIGHTS])
