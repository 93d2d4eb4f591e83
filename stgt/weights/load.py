"""Loads weights into a model, accounting for every tensor, and writes them under the names of released checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stgt.files import atomic_file, write_tensors
from stgt.integrity import require_finite
from stgt.weights.files import POSITION_IDS, TIED, Source, Weights, begins, read_weights, summary
from stgt.weights.names import released_name
from stgt.weights.resize import nearest

logger = logging.getLogger(__name__)

TOWER, TIME, SPATIAL = "vision.tower.", "graph.position.temporal", "graph.position.spatial"
WORDS, _WORD_BIAS = "qformer.embeddings.word_embeddings.weight", "qformer.word_head.bias"

# Tensors of a whole tower: those of its blocks, and those after the blocks, which the model does not run.
_BLOCK = re.compile(r"vision\.tower\.(?:transformer\.res)?blocks\.(\d+)\.")
_HEAD = re.compile(r"vision\.tower\.(?:(?:norm|fc_norm|ln_post|head|attn_pool)\.|(?:proj|mask_token)$)")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_EXPECTED = "float16, bfloat16, float32 or float64"


class MisfitError(ValueError):
    """The tensors in the files do not fit the model: some are missing, unexpected, or of another shape or kind."""


def load_released(
    model: nn.Module,
    path: str | Path,
    *,
    allow_missing: Iterable[str] = (released_name(TOWER), released_name(SPATIAL)),
) -> list[str]:
    """Load a released checkpoint, or one of any other known kind, into an STGT model; see `load_weights`.

    By default the frozen tower and the spatial embedding may be missing, since released checkpoints leave them out. To
    load a BLIP-2 checkpoint, add "graph_cross_model." to allow_missing.
    """
    return load_weights(model, read_weights([path]), allow_missing=allow_missing)


def load_weights(model: nn.Module, weights: Weights, *, allow_missing: Iterable[str] = ()) -> list[str]:
    """Copy weights into a model that has a ModelConfig as `config`.

    A temporal embedding of another length is resized, as the model itself does for longer or shorter clips. If the
    vocabulary lacks [DEC], the model keeps its own vector for it. The last blocks and heads of a tower are ignored if
    the model does not run them.

    allow_missing: beginnings of names (see `begins`): our names, the released names or the names in the first file. If
    the files have no tensor of such a group, the model keeps its own tensors. The exception is the spatial embedding
    with pos2d="load", which must be present. Returns the groups that were kept.
    Raises MisfitError, which lists missing, unexpected and mis-shaped names, and tensors that do not hold plain
    floating-point numbers. The model is then unchanged.
    """
    ours = model.state_dict()
    absent = []
    for group in allow_missing:
        spellings = {name: (name, released_name(name), weights.naming.theirs(name)) for name in ours}
        names = [name for name in ours if any(begins(spelling, [group]) for spelling in spellings[name])]
        if names == [SPATIAL] and model.config.graph.pos2d == "load":
            continue
        if names and not any(name in weights.sources for name in names):
            logger.warning("%s is not in %s: the model keeps its own", group, weights)
            absent.append(group)
            for name in names:
                ours.pop(name, None)
    found = _without_idle_tower(weights.sources, model.state_dict())
    _fit_sizes(found, ours, model.config.qformer.bos_token_id)
    _copy(weights, found, ours)
    return absent


def load_tower(tower: nn.Module, path: str | Path) -> None:
    """Load a vision tower from a file of the tower alone, of a whole CLIP model, or of a checkpoint with a tower.

    Parts that the tower does not run are ignored: last blocks, the final norm, heads, and the text model.
    Raises MisfitError, which lists missing, unexpected and mis-shaped names, and tensors that do not hold plain
    floating-point numbers. The tower is then unchanged.
    """
    weights = read_weights([path])
    ours = {TOWER + name: tensor for name, tensor in tower.state_dict().items()}
    found = _without_idle_tower(weights.sources, ours)
    _copy(weights, {name: source for name, source in found.items() if name.startswith(TOWER)}, ours)


def export_released(model: nn.Module, path: str | Path) -> None:
    """Write a model under released names, including tied and derived tensors.

    A path that ends with .safetensors gets a flat file of tensors, and any other path a pickled `{"model": …}`.
    """
    path = Path(path)
    state = {released_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    state[POSITION_IDS] = torch.arange(model.config.qformer.max_positions)[None]
    # These are clones, since safetensors refuses two names for one storage.
    state |= {name: state[twin].clone() for name, twin in TIED.items()}
    if path.suffix == ".safetensors":
        write_tensors(path, state)
    else:
        with atomic_file(path) as partial, open(partial, "wb") as file:
            try:
                torch.save({"model": state}, file)
            except RuntimeError as error:  # closing the archive fails too, which hides the OSError
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _without_idle_tower(sources: Mapping[str, Source], ours: Collection[str]) -> dict[str, Source]:
    """The tensors without those of a tower that the model does not run: last blocks and heads, or the whole tower."""
    depth = max((int(match[1]) + 1 for match in map(_BLOCK.match, ours) if match), default=0)

    def idle(name: str) -> bool:
        if name in ours or not name.startswith(TOWER):
            return False
        block = _BLOCK.match(name)
        return depth == 0 or (int(block[1]) >= depth if block else _HEAD.match(name) is not None)

    return {name: source for name, source in sources.items() if not idle(name)}


def _fit_sizes(found: dict[str, Source], ours: Mapping[str, Tensor], bos_token_id: int) -> None:
    """Change the size of a tensor to the model's in the two cases in which this has only one meaning."""
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
            logger.warning("%s has %d words without [DEC]: the model keeps its own values for [DEC]", name, len(tensor))
            found[name] = found[name]._replace(tensor=torch.cat([tensor, own[-1:].to(tensor)]))


@torch.no_grad()
def _copy(weights: Weights, found: Mapping[str, Source], ours: Mapping[str, Tensor]) -> None:
    """Copy the tensors if all names and shapes fit. The model keeps its dtypes."""
    missing = [weights.naming.theirs(name) for name in ours.keys() - found.keys()]
    present = [weights.naming.theirs(name) for name in found]
    unexpected = [source.name for source in [*weights.unknown, *(found[name] for name in found.keys() - ours.keys())]]
    shapes = [
        f"{found[name].name}: {tuple(found[name].tensor.shape)} in the file, {tuple(ours[name].shape)} in the model"
        for name in sorted(found.keys() & ours.keys())
        if found[name].tensor.shape != ours[name].shape
    ]
    kinds: dict[str, list[str]] = {}
    for name in found.keys() & ours.keys():
        if ours[name].is_floating_point() and (kind := _not_plain(found[name].tensor)):
            kinds.setdefault(kind, []).append(found[name].name)
    lines = []
    if missing:
        lines.append(f"  {len(missing)} missing: {summary(missing, present)}")
    if unexpected:
        lines.append(f"  {len(unexpected)} unexpected: {summary(unexpected, [weights.naming.theirs(n) for n in ours])}")
    if shapes:
        lines.append(f"  {len(shapes)} mis-shaped: {'; '.join(shapes)}")
    for kind, names in sorted(kinds.items()):
        others = {*present} - {*names}
        lines.append(f"  {len(names)} in {kind}, expected dense tensors in {_EXPECTED}: {summary(names, others)}")
    if lines:
        verb = "does" if len(weights.files) == 1 else "do"
        raise MisfitError("\n".join([f"{weights} {verb} not fit the model:", *lines]))
    require_finite({found[name].name: _held(found[name].tensor) for name in ours}, weights)
    for name, tensor in ours.items():
        tensor.copy_(found[name].tensor)


def _not_plain(tensor: Tensor) -> str | None:
    """The kind of a tensor that does not hold its numbers as they are, such as "torch.int8". For others it is None.

    Integers stand for scaled numbers, whose scales are elsewhere, and a meta tensor has no numbers.
    """
    if tensor.is_meta:
        return "PyTorch's form without values (meta)"
    if tensor.layout != torch.strided:
        return str(tensor.layout)
    return None if tensor.dtype in _FLOATS else str(tensor.dtype)


def _held(tensor: Tensor) -> Tensor:
    """A tensor as float32 holds it, in which large numbers of float64 are infinite."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor
