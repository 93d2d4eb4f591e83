"""Our kernels inside the released STGT (``CrossGraphTransformer``): one call, which can be taken back."""

from dataclasses import dataclass
from operator import attrgetter
from types import MethodType

import torch
from torch import Tensor, nn

from stgt_kernels.dispatch import MAX_HEAD_DIM, check_name
from stgt_kernels.functional import graph_attention, spatio_temporal_graph
from stgt_kernels.graph import SpatioTemporalGraph, storage_dtype

# What tells a graph block of the release from any other module; no class is imported.
_ATTENTION = ("num_heads", "d_k", "dropout.p", "W_Q", "W_K", "W_V", "W_O")
_BLOCK = ("build_graph", "sim_th", "graphattn", *(f"graphattn.{name}" for name in _ATTENTION))
_SETTINGS = "_stgt_kernels"


@dataclass(frozen=True)
class _Settings:
    backend: str
    mask_nodes: int
    """Tokens that the block's mask of frames was made for"""
    window: int | None
    """Frames between tokens that the mask links; None if it links all"""


class Acceleration:
    """What ``accelerate`` changed. ``undo()``, or leaving a ``with`` block, gives the model its own methods back.

    blocks: the names of the accelerated blocks in the model.
    """

    def __init__(self, blocks: dict[str, nn.Module], settings: dict[str, _Settings]):
        self.blocks = tuple(blocks)
        self._replaced: list[tuple[nn.Module, str, object]] = []
        for name, block in blocks.items():
            self._set(block, _SETTINGS, settings[name])
            self._set(block.graphattn, _SETTINGS, settings[name])
            self._set(block, "build_graph", MethodType(_build_graph, block))
            self._set(block.graphattn, "forward", MethodType(_attend, block.graphattn))

    def _set(self, module: nn.Module, name: str, value: object) -> None:
        # On the instance, where it hides the class's method; an attribute that is there already comes back.
        self._replaced.append((module, name, vars(module).get(name)))
        setattr(module, name, value)

    def undo(self) -> None:
        """Take everything back; a second time does nothing."""
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
    """Lets the graph blocks of the released STGT build their graphs and attend along them with our kernels.

    Every block inside ``model`` (itself, wrapped in DDP, part of a larger model) that has the release's attributes gets
    another ``build_graph`` and another ``graphattn.forward``. Parameters, state dict, hooks and all else stay; outputs
    and gradients are the same but for rounding, in training, too, where attention weights are dropped with the same
    probability, by other draws. Three things differ: clips of any number of frames work, a token without a link gives
    0 instead of NaN, and no (T*P, T*P) matrix is ever made, so the graph that the block hands on is a
    ``SpatioTemporalGraph``. Threshold (``sim_th``) and dropout are read at every call. A deep copy stays accelerated.

    Args:
        model: on any device, in float32, bfloat16, float16, under autocast, and in float64 on the CPU. Compile it
            afterwards, not before.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.

    Returns:
        A handle whose ``undo()`` takes it back, which the end of ``with accelerate(model):`` does as well.

    Raises:
        ValueError: nothing in the model is such a block (the message names the closest module and what it lacks), it is
            accelerated already, its heads are wider than 128, or its ``g_mask`` links other pairs than those of frames
            at most so many apart.
    """
    check_name(backend)
    if not isinstance(model, nn.Module):
        raise ValueError(f"accelerate: model must be an nn.Module, got {type(model).__name__}")
    lacking = {name: _lacking(module) for name, module in model.named_modules()}
    blocks = {name: model.get_submodule(name) for name, lacks in lacking.items() if not lacks}
    if not blocks:
        raise ValueError(_nothing_found(model, lacking))
    settings = {}
    for name, block in blocks.items():
        place = f"accelerate: block {name!r} ({type(block).__name__})"
        if _SETTINGS in vars(block):
            raise ValueError(f"{place} is accelerated already; undo() that first")
        if block.graphattn.d_k > MAX_HEAD_DIM:
            raise ValueError(f"{place} has heads of width {block.graphattn.d_k}, expected at most {MAX_HEAD_DIM}")
        mask = getattr(block, "g_mask", None)
        try:
            window = _window(mask)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        settings[name] = _Settings(backend, 0 if mask is None else len(mask), window)
    return Acceleration(blocks, settings)


def _build_graph(self: nn.Module, x: Tensor, t: int) -> SpatioTemporalGraph:
    """A block's graph. x: (B, T*P, C), t: T."""
    settings: _Settings = getattr(self, _SETTINGS)
    frames, nodes = int(t), x.shape[1]
    if frames < 1 or nodes % frames:
        raise ValueError(f"build_graph: t must divide the number of tokens {nodes}, got t={frames}")
    window = settings.window
    if window is None:
        # The mask joins every pair of the frames that it was built for, so its window was at least their number less 1.
        # The paper's window is 1.
        window = max(1, settings.mask_nodes * frames // nodes - 1)
    x = x.unflatten(1, (frames, nodes // frames))
    return spatio_temporal_graph(x, threshold=self.sim_th, window=window, backend=settings.backend)


def _attend(self: nn.Module, x: Tensor, graph_mask: SpatioTemporalGraph | Tensor) -> tuple[Tensor, None]:
    """Graph attention with its four projections. x: (B, N, C); dense weights (B, N, N) will do, too."""
    q, k, v = (project(x).unflatten(-1, (self.num_heads, self.d_k)) for project in (self.W_Q, self.W_K, self.W_V))
    graph = graph_mask
    if not isinstance(graph, SpatioTemporalGraph):
        graph = SpatioTemporalGraph.from_dense(graph)
    if graph.weight.dtype not in (storage_dtype(q.dtype), storage_dtype(q.dtype, differentiable=True)):
        graph = graph.to(storage_dtype(q.dtype, differentiable=True))
    out = graph_attention(
        *(tensor.transpose(1, 2) for tensor in (q, k, v)),
        graph,
        dropout_p=self.dropout.p if self.dropout.training else 0.0,
        backend=getattr(self, _SETTINGS).backend,
    )
    return self.W_O(out.transpose(1, 2).flatten(2)), None


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


def _window(mask: Tensor | None) -> int | None:
    """The w of a mask (T*P, T*P) of tokens whose frames are at most w apart; None if it links all or is not there.

    The mask's own numbers say where the first frame ends: there the rows begin to differ. Raises ValueError for another
    mask.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise ValueError(f"g_mask must be a square matrix of tokens, got {tuple(getattr(mask, 'shape', ()))}")
    linked = mask == mask[0, 0]  # as a token is to itself
    if linked.all():
        return None
    patches = int((linked == linked[0]).all(1).long().argmin())
    reach = int(linked[0].long().argmin())
    frame = torch.arange(len(mask), device=mask.device) // max(patches, 1)
    window = reach // max(patches, 1) - 1
    band = (frame[:, None] <= frame + window) & (frame[:, None] >= frame - window)
    if patches == 0 or not torch.equal(linked, band):
        raise ValueError(f"g_mask {tuple(mask.shape)} does not link the frames at most so many apart, and only those")
    return window
