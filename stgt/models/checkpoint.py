"""Weights into a model with every tensor accounted for, and out under the names of released checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stgt.files import atomic_file, write_tensors
from stgt.integrity import require_finite
from stgt.models.names import released_name
from stgt.models.position import nearest
from stgt.models.weights import POSITION_IDS, TIED, Source, Weights, begins, read_weights, summary

logger = logging.getLogger(__name__)

TOWER, TIME, SPATIAL = "vision.tower.", "graph.position.temporal", "graph.position.spatial"
WORDS, _WORD_BIAS = "qformer.embeddings.word_embeddings.weight", "qformer.word_head.bias"

# What a whole tower has beyond the blocks that are run, and further blocks.
_BLOCK = re.compile(r"vision\.tower\.(?:transformer\.res)?blocks\.(\d+)\.")
_HEAD = re.compile(r"vision\.tower\.(?:(?:norm|fc_norm|ln_post|head|attn_pool)\.|(?:proj|mask_token)$)")


class MisfitError(ValueError):
    """Tensors that are missing, left over, or of another shape than the model's."""


def load_released(
    model: nn.Module,
    path: str | Path,
    *,
    allow_missing: Iterable[str] = (released_name(TOWER), released_name(SPATIAL)),
) -> list[str]:
    """Load a checkpoint of any known kind, above all a released one, into an STGT model; see `load_weights`.

    By default what released checkpoints leave out may be missing: the frozen tower and the spatial embedding.
    ("graph_cross_model.", …) loads a BLIP-2 checkpoint.
    """
    return load_weights(model, read_weights([path]), allow_missing=allow_missing)


def load_weights(model: nn.Module, weights: Weights, *, allow_missing: Iterable[str] = ()) -> list[str]:
    """Put weights into a model that has a ModelConfig as `config`.

    A temporal embedding of another length is resized as the model itself does for other clips; a vocabulary without
    [DEC] leaves the model's own vector for it. A tower's last blocks and heads, which are not run, are passed over.

    allow_missing: beginnings of names (see `begins`), ours, released or as in the first file; a group that the files
    have nothing of stays as it is (the spatial embedding not with pos2d="load"). Returns the groups left as they were.
    Raises MisfitError, which lists missing, unexpected and mis-shaped names; the model is then unchanged.
    """
    ours = model.state_dict()
    absent = []
    for group in allow_missing:
        spellings = {name: (name, released_name(name), weights.naming.theirs(name)) for name in ours}
        names = [name for name in ours if any(begins(spelling, [group]) for spelling in spellings[name])]
        if names == [SPATIAL] and model.config.graph.pos2d == "load":
            continue
        if names and not any(name in weights.sources for name in names):
            logger.warning("no %s in %s: it stays as it was", group, weights)
            absent.append(group)
            for name in names:
                ours.pop(name, None)
    found = _without_idle_tower(weights.sources, model.state_dict())
    _fit_sizes(found, ours, model.config.qformer.bos_token_id)
    _copy(weights, found, ours)
    return absent


def load_tower(tower: nn.Module, path: str | Path) -> None:
    """Load a vision tower from a file of its own, of a whole CLIP model or of a checkpoint that contains one.

    Parts that are not run (last blocks, final norm, heads, the text side) are passed over.
    Raises MisfitError, which lists missing, unexpected and mis-shaped names; the tower is then unchanged.
    """
    weights = read_weights([path])
    ours = {TOWER + name: tensor for name, tensor in tower.state_dict().items()}
    found = _without_idle_tower(weights.sources, ours)
    _copy(weights, {name: source for name, source in found.items() if name.startswith(TOWER)}, ours)


def export_released(model: nn.Module, path: str | Path) -> None:
    """Write a model under released names, tied and derived tensors included: `{"model": …}`, or .safetensors flat."""
    path = Path(path)
    state = {released_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    state[POSITION_IDS] = torch.arange(model.config.qformer.max_positions)[None]
    # Clones, since safetensors refuses two names of one storage.
    state |= {name: state[twin].clone() for name, twin in TIED.items()}
    if path.suffix == ".safetensors":
        write_tensors(path, state)
    else:
        with atomic_file(path) as partial, open(partial, "wb") as file:
            try:
                torch.save({"model": state}, file)
            except RuntimeError as error:  # closing the archive fails as well, and hides the operating system's error
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _without_idle_tower(sources: Mapping[str, Source], ours: Collection[str]) -> dict[str, Source]:
    """All but the tensors of a tower that the model does not run: its last blocks and heads, or all of it."""
    depth = max((int(match[1]) + 1 for match in map(_BLOCK.match, ours) if match), default=0)

    def idle(name: str) -> bool:
        if name in ours or not name.startswith(TOWER):
            return False
        block = _BLOCK.match(name)
        return depth == 0 or (int(block[1]) >= depth if block else _HEAD.match(name) is not None)

    return {name: source for name, source in sources.items() if not idle(name)}


def _fit_sizes(found: dict[str, Source], ours: Mapping[str, Tensor], bos_token_id: int) -> None:
    """Give tensors the model's sizes in the two cases where this has one meaning."""
    for name in (TIME, WORDS, _WORD_BIAS):
        if name not in found or name not in ours:
            continue
        tensor, own = found[name].tensor, ours[name]
        if tensor.ndim != own.ndim or tensor.shape[1:] != own.shape[1:] or len(tensor) == len(own):
            continue
        if name == TIME:
            logger.warning("the temporal embedding of %d frames is resized to %d", len(tensor), len(own))
            found[name] = found[name]._replace(tensor=nearest(tensor.float(), len(own)))
        elif len(tensor) == bos_token_id == len(own) - 1:
            logger.warning("%s has %d words, without [DEC]: what the model has for it stays", name, len(tensor))
            found[name] = found[name]._replace(tensor=torch.cat([tensor, own[-1:].to(tensor)]))


@torch.no_grad()
def _copy(weights: Weights, found: Mapping[str, Source], ours: Mapping[str, Tensor]) -> None:
    """Copy tensor by tensor once all names and shapes fit; the model's dtypes stay."""
    missing = [weights.naming.theirs(name) for name in ours.keys() - found.keys()]
    present = [weights.naming.theirs(name) for name in found]
    unexpected = [source.name for source in [*weights.unknown, *(found[name] for name in found.keys() - ours.keys())]]
    shapes = [
        f"{found[name].name}: {tuple(found[name].tensor.shape)} in the file, {tuple(ours[name].shape)} in the model"
        for name in sorted(found.keys() & ours.keys())
        if found[name].tensor.shape != ours[name].shape
    ]
    lines = []
    if missing:
        lines.append(f"  {len(missing)} missing: {summary(missing, present)}")
    if unexpected:
        lines.append(f"  {len(unexpected)} unexpected: {summary(unexpected, [weights.naming.theirs(n) for n in ours])}")
    if shapes:
        lines.append(f"  {len(shapes)} mis-shaped: {'; '.join(shapes)}")
    if lines:
        verb = "does" if len(weights.files) == 1 else "do"
        raise MisfitError("\n".join([f"{weights} {verb} not fit the model:", *lines]))
    require_finite({found[name].name: found[name].tensor for name in ours}, weights)
    for name, tensor in ours.items():
        tensor.copy_(found[name].tensor)
