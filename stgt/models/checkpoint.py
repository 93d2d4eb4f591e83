"""Weights under the names of released checkpoints (STGT's and, for the Q-Former, LAVIS's), in and out."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")

# Ours to theirs, applied in this order.
_NAMES = [
    (r"^vision\.tower\.", "visual_encoder."),
    (r"^graph\.position\.temporal$", "graph_cross_model.time_embed"),
    (r"^graph\.position\.spatial$", "graph_cross_model.pos_2D_embed"),
    (r"^graph\.blocks\.(\d+)\.", r"graph_cross_model.resblocks.\1."),
    (r"^graph\.", "graph_cross_model."),
    (r"(resblocks\.\d+)\.proj\.", r"\1.proj_fc."),
    (r"(resblocks\.\d+)\.cls_block\.", r"\1.message_attn."),
    (r"(resblocks\.\d+)\.residual_block\.", r"\1."),
    (r"(resblocks\.\d+)\.graph_attention\.q_proj\.", r"\1.graphattn.W_Q."),
    (r"(resblocks\.\d+)\.graph_attention\.k_proj\.", r"\1.graphattn.W_K."),
    (r"(resblocks\.\d+)\.graph_attention\.v_proj\.", r"\1.graphattn.W_V."),
    (r"(resblocks\.\d+)\.graph_attention\.out_proj\.", r"\1.graphattn.W_O."),
    (r"^qformer\.query_tokens$", "query_tokens"),
    (r"^qformer\.embeddings\.", "Qformer.bert.embeddings."),
    (r"^qformer\.bert\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^qformer\.bert\.encoder\.", "Qformer.bert.encoder."),
    (r"attention\.attention\.(query|key|value)\.", r"attention.self.\1."),
    (r"^qformer\.word_head\.bias$", "Qformer.cls.predictions.bias"),
    (r"^qformer\.word_head\.dense\.", "Qformer.cls.predictions.transform.dense."),
    (r"^qformer\.word_head\.layernorm\.", "Qformer.cls.predictions.transform.LayerNorm."),
]

_WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
_POSITIONS = "Qformer.bert.embeddings.position_embeddings.weight"
_POSITION_IDS = "Qformer.bert.embeddings.position_ids"
_DECODER = "Qformer.cls.predictions.decoder.weight"
_DECODER_BIAS = "Qformer.cls.predictions.decoder.bias"
_WORD_BIAS = "Qformer.cls.predictions.bias"
_SPATIAL = "graph_cross_model.pos_2D_embed"


def released_name(name: str) -> str:
    """The name that released checkpoints use for one of our tensors."""
    for ours, theirs in _NAMES:
        name = re.sub(ours, theirs, name)
    return name


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint file on the CPU; pickled files are read with `weights_only`, so that no code runs.

    A nested "model" or "state_dict" is unpacked. Raises FileNotFoundError, or ValueError for what is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {error}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no dictionary of tensors")
    return dict(content)


def load_released(
    model: nn.Module, path: str | Path, *, allow_missing: Iterable[str] = ("visual_encoder.", _SPATIAL)
) -> list[str]:
    """Load a checkpoint with released names into an STGT model.

    allow_missing: beginnings of released names; a group that the file has nothing of stays as it is. By default those
    that released checkpoints leave out, the frozen tower and the spatial embedding (this one not with pos2d="load").
    ("graph_cross_model.", …) loads a BLIP-2 checkpoint. Returns the groups left as they were.
    Raises ValueError that lists missing, unexpected and mis-shaped names; the model is then unchanged.
    """
    found = read_tensors(path)
    ours = {released_name(name): tensor for name, tensor in model.state_dict().items()}
    if _DECODER in found and _WORDS in found and not torch.equal(found[_DECODER], found[_WORDS]):
        raise ValueError(f"{path}: {_DECODER} differs from {_WORDS}, but this model has one tensor for both")
    for derived in (_POSITION_IDS, _DECODER, _DECODER_BIAS):
        found.pop(derived, None)
    absent = []
    for group in allow_missing:
        if group == _SPATIAL and model.config.graph.pos2d == "load":
            continue
        names = [name for name in ours if name.startswith(group)]
        if names and not any(name in found for name in names):
            logger.warning("%s has no %s: it stays as it was", path, group)
            absent.append(group)
            for name in names:
                del ours[name]
    _copy(found, ours, path)
    return absent


def load_tower(tower: nn.Module, path: str | Path) -> None:
    """Load a vision tower from a file of its own, of a whole CLIP model or of a released checkpoint.

    Tensors of parts that are not run (last blocks, final norm, heads, the text side) are passed over.
    Raises ValueError that lists missing and mis-shaped names; the tower is then unchanged.
    """
    found = read_tensors(path)
    ours = tower.state_dict()
    for prefix in ("visual_encoder.", "visual.trunk.", "visual.", ""):
        if any(prefix + name in found for name in ours):
            break
    _copy({name: found[prefix + name] for name in ours if prefix + name in found}, ours, path)


def export_released(model: nn.Module, path: str | Path) -> None:
    """Write a model under released names, tied and derived tensors included: `{"model": …}`, or .safetensors flat."""
    path = Path(path)
    state = {released_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    state[_POSITION_IDS] = torch.arange(len(state[_POSITIONS]))[None]
    # Clones, since safetensors refuses two names of one storage.
    state[_DECODER], state[_DECODER_BIAS] = state[_WORDS].clone(), state[_WORD_BIAS].clone()
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, partial)
    else:
        torch.save({"model": state}, partial)
    os.replace(partial, path)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensor by tensor once all names and shapes fit; the target's dtypes stay."""
    shapes = [
        f"{name}: {tuple(source[name].shape)} in the file, {tuple(target[name].shape)} in the model"
        for name in sorted(source.keys() & target.keys())
        if source[name].shape != target[name].shape
    ]
    problems = {
        "missing": sorted(target.keys() - source.keys()),
        "unexpected": sorted(source.keys() - target.keys()),
        "mis-shaped": shapes,
    }
    if any(problems.values()):
        lines = [f"  {len(names)} {kind}: " + _listing(names) for kind, names in problems.items() if names]
        raise ValueError("\n".join([f"{path} does not fit the model:", *lines]))
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _listing(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
