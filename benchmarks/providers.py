"""The kernels, and the alternatives that they are compared with. Each is checked before it is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import flex
from benchmarks.inputs import DTYPES, AttentionInputs, Problem
from stgt_kernels import SpatioTemporalGraph, dispatch, graph_attention, spatio_temporal_graph

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Provider:
    """One way to compute a result. ``prepare`` makes the function that is timed; ``prepare`` itself is not timed."""

    name: str
    prepare: Callable
    why_not: Callable[[Problem, torch.device, bool], str | None] = lambda problem, device, backward: None
    """The reason why it cannot compute a problem on a device, with or without a backward pass; None if it can"""
    compiled: bool = False
    bound: bool = False
    """Whether it computes less than the problem asks, so that its time is only a lower bound"""
    backend: str | None = None
    """The name of the backend of stgt_kernels, or None if the provider is an alternative"""


def frame_mask(T: int, P: int, window: int, device: torch.device | str = "cpu") -> Tensor:
    """(T*P, T*P) bool: which pairs of tokens are at most ``window`` frames apart."""
    frame = torch.arange(T, device=device).repeat_interleave(P)
    return (frame[:, None] - frame[None, :]).abs() <= window


def dense_graph(x: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """The graph as the released model builds it: (B, T, P, C) to (B, N, N) weights of all pairs. mask: (N, N)."""
    unit = F.normalize(x.flatten(1, 2), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    return torch.where((similarity >= threshold) & mask, similarity, 0)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, dropout_p: float = 0.0) -> Tensor:
    """Graph attention as the released model computes it, on all pairs of tokens. weight: (B, N, N)."""
    weight = weight[:, None]
    score = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 * weight
    probability = torch.softmax(score.masked_fill(weight == 0, float("-inf")), -1)
    if dropout_p:
        probability = F.dropout(probability, dropout_p)
    return probability @ v


def released_attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """``dense_attention`` as the released model runs it: in half precision under autocast, with a float32 softmax."""
    with torch.autocast(q.device.type, q.dtype, enabled=q.dtype != torch.float32):
        return dense_attention(q, k, v, weight)


def neighbours(x: Tensor, window: int) -> Tensor:
    """(B, ..., T, P, D) to (B, ..., T, (2w+1)*P, D): tokens of each frame and its neighbours; zeros beyond the clip."""
    padded = F.pad(x, (0, 0, 0, 0, window, window))
    return padded.unfold(-3, 2 * window + 1, 1).movedim(-1, -3).flatten(-3, -2)


def band_graph(x: Tensor, threshold: float, window: int) -> Tensor:
    """The graph in plain PyTorch over the band: (B, T, P, (2w+1)*P)."""
    unit = F.normalize(x, dim=-1)
    similarity = unit @ neighbours(unit, window).transpose(-1, -2)
    return torch.where(similarity >= threshold, similarity, 0)


def band_attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Graph attention in plain PyTorch over the band. weight: (B, T, P, 2w+1, P)."""
    T, P, O = weight.shape[1:4]
    q, k, v = (x.unflatten(2, (T, P)) for x in (q, k, v))
    weight = weight.flatten(3)[:, None]
    score = (q @ neighbours(k, O // 2).transpose(-1, -2)) * q.shape[-1] ** -0.5 * weight
    probability = torch.softmax(score.masked_fill(weight == 0, float("-inf")), -1)
    return (probability @ neighbours(v, O // 2)).flatten(2, 3)


def _on_dense_weights(function: Callable, inputs: AttentionInputs) -> Attention:
    weight = inputs.graph.to_dense().to(inputs.q.dtype)
    return lambda q, k, v: function(q, k, v, weight)


def _on_banded_weights(function: Callable, inputs: AttentionInputs) -> Attention:
    weight = inputs.graph.weight.to(inputs.q.dtype)
    return lambda q, k, v: function(q, k, v, weight)


def _kernels(backend: str, inputs: AttentionInputs) -> Attention:
    return lambda q, k, v: graph_attention(q, k, v, inputs.graph, backend=backend)


def _cannot_run(backend: str, problem: Problem, device: torch.device, backward: bool) -> str | None:
    return dispatch.why_not(backend, device, DTYPES[problem.dtype])


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


DENSE = Provider("eager dense", partial(_on_dense_weights, released_attention))
COMPILED_DENSE = Provider(
    "compiled dense", lambda inputs: _on_dense_weights(compiled(released_attention), inputs), compiled=True
)
SDPA = Provider("SDPA, all pairs, no weights", lambda inputs: F.scaled_dot_product_attention, bound=True)
BAND = Provider("PyTorch over the band", partial(_on_banded_weights, band_attention))
COMPILED_BAND = Provider(
    "compiled PyTorch over the band",
    lambda inputs: _on_banded_weights(compiled(band_attention), inputs),
    lambda problem, device, backward: (
        "torch 2.13 compiles wrong gradients (dk off by 1.05) on a CPU" if backward and device.type == "cpu" else None
    ),
    compiled=True,
)
FLEX = Provider("FlexAttention", flex.prepare, flex.why_not, compiled=True)
FLEX_BANDED = Provider("FlexAttention, banded weights", partial(flex.prepare, banded=True), flex.why_not, compiled=True)
FLEX_AUTOTUNED = Provider(
    "FlexAttention, max-autotune",
    partial(flex.prepare, mode="max-autotune-no-cudagraphs"),
    flex.why_not_autotuned,
    compiled=True,
)
FLEX_FLASH = Provider(
    "FlexAttention, FLASH backend", partial(flex.prepare, backend="FLASH"), flex.why_not_flash, compiled=True
)
KERNELS = tuple(
    Provider(f"stgt_kernels {backend}", partial(_kernels, backend), partial(_cannot_run, backend), backend=backend)
    for backend in ("cpu", "triton", "cuda")
)
ATTENTION = (
    DENSE,
    COMPILED_DENSE,
    SDPA,
    FLEX,
    FLEX_BANDED,
    FLEX_AUTOTUNED,
    FLEX_FLASH,
    BAND,
    COMPILED_BAND,
    *KERNELS,
)
"""Providers of attention: ``prepare(AttentionInputs)`` gives a function of q, k, v."""


def _dense_builder(function: Callable, problem: Problem, device: torch.device) -> Callable[[Tensor], Tensor]:
    mask = frame_mask(problem.T, problem.P, problem.band, device)
    return lambda x: function(x, mask, problem.threshold)


def _band_builder(function: Callable, problem: Problem, device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x, problem.threshold, problem.band)


def _kernel_builder(backend: str, problem: Problem, device: torch.device) -> Callable[[Tensor], SpatioTemporalGraph]:
    return lambda x: spatio_temporal_graph(x, threshold=problem.threshold, window=problem.band, backend=backend)


GRAPH = (
    Provider("eager dense", partial(_dense_builder, dense_graph)),
    Provider("compiled dense", lambda *args: _dense_builder(compiled(dense_graph), *args), compiled=True),
    Provider("PyTorch over the band", partial(_band_builder, band_graph)),
    Provider("compiled PyTorch over the band", lambda *args: _band_builder(compiled(band_graph), *args), compiled=True),
    *(
        Provider(
            f"stgt_kernels {backend}", partial(_kernel_builder, backend), partial(_cannot_run, backend), backend=backend
        )
        for backend in ("cpu", "triton", "cuda")
    ),
)
"""Providers of the graph: ``prepare(problem, device)`` gives a function of x (B, T, P, C)."""


def as_banded(graph: SpatioTemporalGraph | Tensor, problem: Problem) -> SpatioTemporalGraph:
    """Converts the result of any provider of the graph to banded storage."""
    if isinstance(graph, SpatioTemporalGraph):
        return graph
    if graph.ndim == 3:
        return SpatioTemporalGraph.from_dense(graph, problem.T, problem.band)
    weight = graph.unflatten(-1, (2 * problem.band + 1, problem.P))
    return SpatioTemporalGraph(weight)
