"""Reads tensors from the weight files of many training programs. It never runs code that a file names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from stgt.structure import field, read_json, shown
from stgt.weights.unpickle import unpickle

logger = logging.getLogger(__name__)

# Under these keys, training programs save a state dict beside other values: plain PyTorch, Lightning, DeepSpeed.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Under these keys, they save an average of the weights over training.
_AVERAGES = ("model_ema", "ema", "ema_state_dict", "state_dict_ema")

# DDP, Lightning and torch.compile put these prefixes before all names of a model, in any order.
_BEFORE = re.compile(r"^(?:(?:module|model|_orig_mod|online_model)\.)+")
_AVERAGE = re.compile(r"^(?:(?:module|model|_orig_mod)\.)*(?:ema_model|model_ema|ema)\.")
# torch.compile, FSDP and activation checkpointing put these prefixes before the names of a submodule.
_INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A repository that was cloned without Git LFS has small texts in place of its large files, which begin like this.
_POINTER = b"version https://git-lfs.github.com/spec/"
# torch.optim.swa_utils.AveragedModel saves the number of averaged models under this name, beside the weights.
_AVERAGED = "n_averaged"


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint on the CPU, under the names that the model itself uses.

    path: a file; a folder in Hugging Face's format, with one or several weight files; or the index of several files.
    Pickled files are read with `weights_only`. NumPy's numbers and objects of other classes become empty placeholders.
    The state dict is found under "state_dict", "model", "module" and similar keys, nested in any order. The prefixes
    that DDP, Lightning, torch.compile, FSDP and averaged models put before names are removed.
    Raises FileNotFoundError if there is no such file, and ValueError if it is not a checkpoint, or if two files of a
    folder have a tensor of one name.
    """
    content: dict[str, Tensor] = {}
    places: dict[str, Path] = {}
    for file in _files(Path(path)):
        for name, tensor in _read_file(file).items():
            if name in places:
                raise ValueError(
                    f"{path}: {name} is in {places[name].name} and in {file.name}, expected in one of them"
                )
            content[name], places[name] = tensor, file
    return _own_names(content, Path(path))


def _files(path: Path) -> list[Path]:
    """The file itself, or the weight files of a folder."""
    if path.is_file():
        return _pieces(path) if path.name.endswith(".index.json") else [path]
    for name in ("model.safetensors", "pytorch_model.bin"):
        whole, index = path / name, path / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _pieces(index)
    if path.is_dir():
        raise FileNotFoundError(
            f"{path} has no weights in Hugging Face's format, expected model.safetensors, pytorch_model.bin or one of "
            "them with .index.json; other files are given by their own names"
        )
    raise FileNotFoundError(f"there is no checkpoint file {path}")


def _pieces(index: Path) -> list[Path]:
    """The files that an index of Hugging Face lists. They are in the same folder as the index."""
    pieces = field(read_json(index, dict), "weight_map", dict, str(index))
    for tensor, name in pieces.items():
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ValueError(f"{index}: {tensor!r} is in {shown(name)}, expected a file's name without a folder")
    names = sorted(set(pieces.values()))
    files = [index.parent / name for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise FileNotFoundError(f"{index} lists the file {name}, but there is no such file beside it")
    return files


def _read_file(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        begin = file.read(len(_POINTER))
    if begin == _POINTER:
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`")
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else unpickle(path)
    except (safetensors.SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {error}") from error
    content = _state_dict(content, path)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = f"; it has the keys {shown(list(map(str, content)))}" if content else ""
        raise ValueError(f"{path} holds no dictionary of tensors, expected the saved value of model.state_dict(){keys}")
    if others := [str(name) for name in content if str(name) not in tensors]:
        logger.info("%s: ignoring values that are not tensors: %s", path, ", ".join(others))
    if all(tensor.numel() == 0 for tensor in tensors.values()):
        raise ValueError(
            f"{path} holds only empty tensors, as DeepSpeed's ZeRO stage 3 saves them; run zero_to_fp32.py, which lies "
            "beside DeepSpeed's files, to make one file of all weights"
        )
    return tensors


def _state_dict(content: object, path: Path) -> Mapping:
    """The dictionary of tensors inside a checkpoint, however deep it is wrapped."""
    opened = []
    while isinstance(content, Mapping):
        if any(content is outer for outer in opened):
            raise ValueError(f"{path} holds a dictionary that contains itself, expected tensors inside it")
        opened.append(content)
        found = [key for key in (*_WRAPPERS, *_AVERAGES) if isinstance(content.get(key), Mapping) and content[key]]
        if not found:
            return content
        if found[0] in _WRAPPERS and found[-1] in _AVERAGES:
            logger.warning("%s: reading the weights under %r, not their average under %r", path, found[0], found[-1])
        content = content[found[0]]
    return {}


def _own_names(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors by their names without prefixes of wrappers. Averages are left out if the plain weights are there too."""
    averages = [name for name in tensors if _AVERAGE.match(name)]
    others = [name for name in tensors if not _AVERAGE.match(name) and name != _AVERAGED]
    if averages and others:
        logger.warning("%s: ignoring averages of the weights: %s, …", path, averages[0])
    names: dict[str, str] = {}
    for name in others or averages:
        own = _BEFORE.sub("", _AVERAGE.sub("", _INSIDE.sub("", name)))
        if names.setdefault(own, name) != name:
            raise ValueError(f"{path} holds {names[own]} and {name}, expected one tensor with the name {own}")
    return {own: tensors[name] for own, name in names.items()}
