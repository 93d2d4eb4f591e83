"""Our kernels inside the released STGT (``CrossGraphTransformer``). One call puts them there, and can be undone."""

from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from stgt_kernels.dispatch import MAX_HEAD_DIM, check_name
from stgt_kernels.functional import graph_attention, spatio_temporal_graph
from stgt_kernels.graph import SpatioTemporalGraph, storage_dtype, version_of
from stgt_kernels.integrations.comparison import require_same

# A module that has these attributes is a graph block of the released model. None of its classes is imported.
_ATTENTION = ("num_heads", "d_k", "dropout.p", "W_Q", "W_K", "W_V", "W_O")
_BLOCK = ("build_graph", "sim_th", "graphattn", *(f"graphattn.{name}" for name in _ATTENTION))
_SETTINGS = "_stgt_kernels"


@dataclass(frozen=True)
class _Settings:
    backend: str
    mask: Tensor | None
    """The block's mask of frames"""
    window: int | None
    """The most frames between two tokens that the mask joins; None if it joins all"""
    differentiable: bool = False
    """Whether gradients pass through the weights of the block's graph"""
    version: int | None = -1
    """How often the mask had been changed in place when its window was found; -1 if that is not known"""

    def __reduce__(self):
        # The count of a copied mask starts anew.
        return _Settings, (self.backend, self.mask, self.window, self.differentiable)

    def are_for(self, mask: Tensor | None) -> bool:
        """Whether the window is that of this mask. Compiled code cannot see whether a mask was changed in place."""
        return mask is self.mask and (torch.compiler.is_compiling() or _mask_version(mask) == self.version)


class Acceleration:
    """The changes that ``accelerate`` made. ``undo()``, or leaving a ``with`` block, restores the model's own methods.

    blocks: the names of the accelerated blocks in the model.
    """

    def __init__(self, blocks: dict[str, nn.Module], settings: dict[str, _Settings]):
        self.blocks = tuple(blocks)
        self._replaced: list[tuple[nn.Module, str, object]] = []
        for name, block in blocks.items():
            # Bound methods would not do here: pickle would look for them in the class of the module.
            self._set(block, _SETTINGS, settings[name])
            self._set(block, "build_graph", partial(_build_graph, block))
            for module in block.graphattn.modules():
                # A wrapper, as for activation checkpointing, keeps its own method, which calls the module inside.
                if "W_Q" in dict(module.named_children()):
                    self._set(module, _SETTINGS, settings[name])
                    self._set(module, "forward", partial(_attend, module))

    def _set(self, module: nn.Module, name: str, value: object) -> None:
        # The attribute of the instance hides the method of the class. An attribute that was there is restored later.
        self._replaced.append((module, name, vars(module).get(name)))
        setattr(module, name, value)

    def undo(self) -> None:
        """Restores everything. A second call does nothing."""
        while self._replaced:
            module, name, before = self._replaced.pop()
            if before is None:
                delattr(module, name)
            else:
                setattr(module, name, before)

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()


def accelerate(model: nn.Module, *, backend: str = "auto") -> Acceleration:
    """Makes the graph blocks of the released STGT build their graphs and attend along them with our kernels.

    Every block that has the release's attributes gets another ``build_graph`` and another ``graphattn.forward``. A
    block may be ``model`` itself, or be wrapped in DDP or in a larger model. Parameters, state dict and hooks stay as
    they are. Outputs and gradients are the same except for rounding. In training, attention weights are dropped with
    the same probability, but the random draws are others.

    Three things differ. Clips of any number of frames work. A token without an edge gives 0 instead of NaN. No
    (T*P, T*P) matrix is made, so the graph that a block passes on is a ``SpatioTemporalGraph``. The threshold
    (``sim_th``), the mask (``g_mask``) and dropout are read at every call, except that compiled code does not notice a
    mask that is changed in place, as ``load_state_dict`` changes a buffer. A deep copy of the model stays accelerated,
    and so does a model that ``torch.save`` wrote whole; neither of them can be undone. Use DDP, since replicas of
    ``nn.DataParallel`` would compute with the parameters of the first device.

    Code that was changed, as in a subclass with other weights, is noticed: each block builds a graph of random tokens
    and attends along one, once with its own code and once with ours. This takes the memory and time of a call of the
    block's own ``build_graph`` for one clip. If a block's own code cannot run alone, as on the meta device, or if its
    mask joins more than 8192 tokens, the logger ``stgt_kernels`` warns that it was not compared.

    Args:
        model: a model on any device, in float32, bfloat16 or float16, under autocast, or in float64 on the CPU. Compile
            it afterwards, not before.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.

    Returns:
        A handle. Its ``undo()`` restores the model, as does the end of ``with accelerate(model):``.

    Raises:
        ValueError: no module is such a block (the message names the closest module and what it lacks), a block is
            accelerated already, its heads are wider than 128, its ``g_mask`` is not one that joins all frames up to
            some distance, or its own code computes something else than the release does.
    """
    check_name(backend)
    if not isinstance(model, nn.Module):
        raise ValueError(f"accelerate: model must be an nn.Module, got {type(model).__name__}")
    lacking = {name: _lacking(module) for name, module in model.named_modules()}
    found = {name: model.get_submodule(name) for name, lacks in lacking.items() if not lacks}
    # A wrapper, as for activation checkpointing, hands out the method of the block inside.
    blocks = {name: block for name, block in found.items() if getattr(block.build_graph, "__self__", block) is block}
    if not blocks:
        raise ValueError(_nothing_found(model, lacking))
    settings = {}
    for name, block in blocks.items():
        place = f"accelerate: block {name!r} ({type(block).__name__})"
        if _SETTINGS in vars(block):
            raise ValueError(
                f"{place} is accelerated already; undo() that first. If this model is a copy, it has no undo(): copy "
                "or save a model before it is accelerated"
            )
        if block.graphattn.d_k > MAX_HEAD_DIM:
            raise ValueError(f"{place} has heads of width {block.graphattn.d_k}, expected at most {MAX_HEAD_DIM}")
        mask = getattr(block, "g_mask", None)
        try:
            window, frames, patches = _band(mask)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        # The reference runs wherever the model's own code does.
        plain = _Settings("reference", mask, window, version=_mask_version(mask))
        differentiable = require_same(
            block, place, partial(_graph, plain, block), partial(_attention, plain), frames, patches
        )
        settings[name] = replace(plain, backend=backend, differentiable=differentiable)
    return Acceleration(blocks, settings)


def _build_graph(self: nn.Module, x: Tensor, t: int) -> SpatioTemporalGraph:
    """Takes the place of a block's method. x: (B, T*P, C). t: the number of frames, T."""
    settings: _Settings = getattr(self, _SETTINGS)
    mask = getattr(self, "g_mask", None)
    if not settings.are_for(mask):
        version = -1 if torch.compiler.is_compiling() else _mask_version(mask)
        settings = replace(settings, mask=mask, window=_band(mask)[0], version=version)
        setattr(self, _SETTINGS, settings)
    return _graph(settings, self, x, t)


def _attend(self: nn.Module, x: Tensor, graph_mask: SpatioTemporalGraph | Tensor) -> tuple[Tensor, None]:
    """Takes the place of a graph attention's method. The arguments are those of `_attention`."""
    return _attention(getattr(self, _SETTINGS), self, x, graph_mask)


def _graph(settings: _Settings, block: nn.Module, x: Tensor, t: int) -> SpatioTemporalGraph:
    """Builds a block's graph. x: (B, T*P, C). t: the number of frames, T."""
    frames, nodes = int(t), x.shape[1]
    if frames < 1 or nodes % frames:
        raise ValueError(f"build_graph: t must divide the number of tokens {nodes}, got t={frames}")
    window = settings.window
    if window is None:
        # The mask joins every pair of the frames that it was built for, so its window was at least their number less 1.
        # The paper's window is 1.
        made_for = 0 if settings.mask is None else len(settings.mask)
        window = max(1, made_for * frames // nodes - 1)
    x = x.unflatten(1, (frames, nodes // frames))
    differentiable = settings.differentiable and x.requires_grad
    return spatio_temporal_graph(
        x, threshold=block.sim_th, window=window, differentiable=differentiable, backend=settings.backend
    )


def _attention(
    settings: _Settings, module: nn.Module, x: Tensor, graph_mask: SpatioTemporalGraph | Tensor
) -> tuple[Tensor, None]:
    """Graph attention with its four projections. x: (B, N, C). graph_mask: a graph, or dense weights (B, N, N)."""
    heads = module.num_heads, module.d_k
    q, k, v = (project(x).unflatten(-1, heads) for project in (module.W_Q, module.W_K, module.W_V))
    graph = graph_mask
    if not isinstance(graph, SpatioTemporalGraph):
        graph = SpatioTemporalGraph.from_dense(graph)
    if graph.weight.dtype not in (storage_dtype(q.dtype), storage_dtype(q.dtype, differentiable=True)):
        graph = graph.to(storage_dtype(q.dtype, differentiable=True))
    out = graph_attention(
        *(tensor.transpose(1, 2) for tensor in (q, k, v)),
        graph,
        dropout_p=module.dropout.p if module.dropout.training else 0.0,
        backend=settings.backend,
    )
    return module.W_O(out.transpose(1, 2).flatten(2)), None


def _lacking(module: nn.Module) -> list[str]:
    """The attributes of a graph block that a module does not have."""
    lacks = []
    for path in _BLOCK:
        try:
            attrgetter(path)(module)
        except AttributeError:
            lacks.append(path)
    return lacks


def _nothing_found(model: nn.Module, lacking: dict[str, list[str]]) -> str:
    closest = min(lacking, key=lambda name: len(lacking[name]))
    message = (
        f"accelerate: no module of this {type(model).__name__} is a graph block of the released STGT, "
        f"which has {', '.join(_BLOCK)}"
    )
    if len(lacking[closest]) < len(_BLOCK):
        kind = type(model.get_submodule(closest)).__name__
        message += f"; the closest, {closest or 'the model itself'} ({kind}), lacks {', '.join(lacking[closest])}"
    return message


def _mask_version(mask: Tensor | None) -> int | None:
    """How often a mask was changed in place. None without a mask, and where PyTorch does not count."""
    return None if mask is None else version_of(mask)


def _band(mask: Tensor | None) -> tuple[int | None, int, int]:
    """The window of a mask (T*P, T*P) that joins tokens whose frames are at most the window apart, and its T and P.

    The window is None if there is no mask, or if it joins all tokens. T and P are then unknown, and values that suit a
    comparison are returned. In other masks, the first frame ends where the rows begin to differ. Raises ValueError for
    a mask that is not of this form.
    """
    if mask is None:
        return None, 4, 256  # the release has 256 patches
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ValueError(f"g_mask must be a square matrix of tokens, got {tuple(getattr(mask, 'shape', ()))}")
    if mask.is_meta:
        raise ValueError("g_mask is on the meta device and has no values; build the block's mask on a real device")
    nodes = len(mask)
    joined = mask == mask[0, 0]  # every token is joined to itself
    if joined.all():
        return (None, 2, nodes // 2) if nodes % 2 == 0 else (None, 1, nodes)
    patches = int((joined == joined[0]).all(1).long().argmin())
    reach = int(joined[0].long().argmin())
    frame = torch.arange(nodes, device=mask.device) // max(patches, 1)
    window = reach // max(patches, 1) - 1
    band = (frame[:, None] <= frame + window) & (frame[:, None] >= frame - window)
    if patches == 0 or not torch.equal(joined, band):
        raise ValueError(f"g_mask {tuple(mask.shape)} does not join all frames up to some distance, and only those")
    return window, nodes // patches, patches
