"""The public ops. Their docstrings are the contract that every backend keeps."""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from stgt_kernels import dispatch
from stgt_kernels.graph import SpatioTemporalGraph, clamped_window, storage_dtype
from stgt_kernels.ops import numbers
from stgt_kernels.ops.autograd import own_view
from stgt_kernels.ops.dense_attention.functional import packed_attention as packed_attention
from stgt_kernels.ops.edge_attention.functional import edge_attention as edge_attention
from stgt_kernels.ops.graph_attention import reference as graph_attention_reference
from stgt_kernels.ops.graph_attention.function import GraphAttentionFunction
from stgt_kernels.ops.linear.functional import linear as linear
from stgt_kernels.ops.spatio_temporal_graph import reference as spatio_temporal_graph_reference
from stgt_kernels.ops.spatio_temporal_graph.function import SpatioTemporalGraphFunction
from stgt_kernels.ops.tensors import check_dense, check_dtype, check_operands, in_autocast_dtype
from stgt_kernels.rounding import compared_threshold


def spatio_temporal_graph(
    x: Tensor, *, threshold: float, window: int = 1, differentiable: bool = False, backend: str = "auto"
) -> SpatioTemporalGraph:
    """Builds the graph of similar tokens in the same or neighbouring frames (paper Eq. 6-7).

    ``S_ij = x_i . x_j / (|x_i| |x_j|)``;  ``W_ij = S_ij`` if ``S_ij >= threshold`` and
    ``|frame_i - frame_j| <= window``, else 0. Similarities are accumulated in float32 (float64 for float64), and are
    compared with the threshold in that precision.

    Args:
        x: (B, T, P, C), any strides; float32, bfloat16, float16, and float64 on the CPU. Under autocast, float32 is
            converted to autocast's dtype. A token of zeros has similarity 0 to all others. A token with NaN or infinity
            has no edges. The size of any other token does not matter, from the smallest number to the largest.
        threshold: -1 <= threshold <= 1. The computed similarity of identical tokens differs from 1 by rounding. So a
            threshold that is closer to 1 than ``stgt_kernels.rounding.similarity_error(C, dtype)``, which is 2e-6 to
            7e-6 for C up to 1408, is taken as 1 minus that error, and 1.0 keeps the edges between identical tokens. -1
            keeps every pair of finite tokens whose similarity is not 0, since a weight of 0 stands for no edge.
        window: the most frames that the two ends of an edge may be apart, at least 0. A window of T or more is taken as
            T - 1, which joins all frames.
        differentiable: whether gradients reach x through the kept edges. Without it the graph is a constant, as in the
            released model. A token whose channels all lie below the accumulator's smallest normal number (1.2e-38 in
            float32) gets no gradient from its edges, because the gradient would not be finite.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.

    Returns:
        SpatioTemporalGraph. Its weights are float32 for float32 and float64 for float64. For bfloat16 and float16 they
        are float16, or float32 if the graph is differentiable.

    Raises:
        ValueError: x is no dense tensor or has another rank or dtype, threshold or window is out of range,
            differentiable is no bool, or a backend that was asked for cannot run.
    """
    return _build("spatio_temporal_graph", x, _checked_threshold(threshold), window, differentiable, backend)


def token_similarity(
    x: Tensor, *, window: int = 1, differentiable: bool = False, backend: str = "auto"
) -> SpatioTemporalGraph:
    """Cosine similarity of all token pairs of the same or neighbouring frames: the graph without its threshold.

    Its arguments, its result and its errors are those of ``spatio_temporal_graph``.
    """
    return _build("token_similarity", x, None, window, differentiable, backend)


@overload
def graph_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: SpatioTemporalGraph,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def graph_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: SpatioTemporalGraph,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def graph_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: SpatioTemporalGraph,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the edges of a graph, each score multiplied by its edge's weight (paper Eq. 8-12).

    ``z_ij = scale * (q_i . k_j) * W_ij`` where ``W_ij != 0``, else -inf;  ``out_i = sum_j softmax_j(z_ij) v_j``.

    Args:
        q, k, v: (B, H, N, D) with N = T*P of the graph and 1 <= D <= 128; float32, bfloat16, float16, and float64 on
            the CPU; any strides. Tensors with a contiguous last dimension are read in place, so views of (B, N, H, D)
            projections or of a packed QKV cost nothing. The kernels compute scores, softmax and sums in float32
            (float64 for float64). The reference multiplies matrices in q's dtype, and so rounds more in half precision.
            Under autocast, all three get autocast's dtype, unless they are float64.
        graph: weights in float32 for float32, float64 for float64, and in float16 or float32 for bfloat16 and float16.
            Weights that require gradients must be float32 or float64. Autocast does not change them.
        scale: the factor of the scores; the default is ``D ** -0.5``.
        dropout_p: the probability, 0 <= dropout_p < 1, that an edge is dropped after the softmax. The mask is a
            function of (b, h, i, j) and of a seed, which is drawn from the device's default generator. It is the same
            on every backend.
        return_lse: whether the log-sum-exp of z over each row is returned, too.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.

    Returns:
        out (B, H, N, D) in q's dtype, laid out so that ``out.transpose(1, 2).reshape(B, N, H * D)`` copies nothing.
        With ``return_lse`` also lse (B, H, N) in float32 (float64 for float64). A row without edges has output 0, lse
        -inf and gradients 0. The results are differentiable once in q, k, v, and in the graph's weights if they require
        grad. The same input gives the same bits, forward and backward.

    Raises:
        ValueError: an argument has another type, a tensor is not dense, shapes, dtypes or devices do not fit each other
            or the graph, D > 128, scale is not finite, dropout_p is out of range, or a backend that was asked for
            cannot run.
    """
    _check_tensors(q, k, v, graph)
    q, k, v = in_autocast_dtype(q, k, v)
    _check_attention(q, k, v, graph)
    factor = numbers.finite_scale("graph_attention", scale, q.shape[-1])
    dropout_p = numbers.dropout_probability("graph_attention", "dropout_p", dropout_p)
    return_lse = numbers.flag("graph_attention", "return_lse", return_lse)
    seed = torch.randint(2**63 - 1, (1,), device=q.device) if dropout_p > 0 else None
    backend = dispatch.choose(backend, q.device, q.dtype, "graph_attention", "D", q.shape[-1])
    if backend == "reference":
        with dispatch.without_autocast(q.device):  # q, k and v have autocast's dtype already
            out, lse = graph_attention_reference.graph_attention(q, k, v, graph, factor, dropout_p, seed)
    else:
        weight, live = graph.weight, graph.live
        q, k, v, weight = (own_view(t) for t in (q, k, v, weight))
        out, lse = GraphAttentionFunction.apply(q, k, v, weight, live, seed, factor, dropout_p, backend)
    return (out, lse) if return_lse else out


def _build(
    op: str, x: Tensor, threshold: float | None, window: int, differentiable: bool, backend: str
) -> SpatioTemporalGraph:
    if isinstance(x, Tensor):
        check_dense(op, "x", x)
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError(f"{op}: x must be a tensor (B, T, P, C), got {_describe(x)}")
    if x.dtype == torch.float32 and (autocast := dispatch.autocast_dtype(x.device)) is not None:
        x = x.to(autocast)
    check_dtype(op, "x", x)
    if 0 in x.shape:
        raise ValueError(f"{op}: x must not be empty, got {tuple(x.shape)}")
    window = clamped_window(op, window, x.shape[1])
    differentiable = numbers.flag(op, "differentiable", differentiable)
    if not differentiable:
        x = x.detach()
    if threshold is not None:
        threshold = compared_threshold(threshold, x.shape[-1], x.dtype)
    backend = dispatch.choose(backend, x.device, x.dtype, op, "P", x.shape[2])
    if backend == "reference":
        with dispatch.without_autocast(x.device):  # the reference computes similarities in float32 at least
            return spatio_temporal_graph_reference.spatio_temporal_graph(x, threshold, window, differentiable)
    weight, live, _ = SpatioTemporalGraphFunction.apply(own_view(x), threshold, window, differentiable, backend)
    return SpatioTemporalGraph._with_live(weight, live)


def _checked_threshold(threshold: float) -> float:
    try:
        value = float(threshold)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not -1 <= value <= 1:
        raise ValueError(f"spatio_temporal_graph: threshold must satisfy -1 <= threshold <= 1, got {threshold!r}")
    return value


def _check_tensors(q: object, k: object, v: object, graph: object) -> None:
    if not all(isinstance(t, Tensor) for t in (q, k, v)) or not isinstance(graph, SpatioTemporalGraph):
        got = ", ".join(_describe(t) for t in (q, k, v, graph))
        raise ValueError(f"graph_attention: q, k, v must be tensors and graph a SpatioTemporalGraph, got {got}")


def _check_attention(q: Tensor, k: Tensor, v: Tensor, graph: SpatioTemporalGraph) -> None:
    op = "graph_attention"
    check_dense(op, "q", q)
    if q.ndim != 4:
        raise ValueError(f"{op}: q must be (B, H, N, D), got {tuple(q.shape)}")
    check_operands(op, q, k, v)
    B, H, N, D = q.shape
    if not 1 <= D <= dispatch.MAX_HEAD_DIM:
        limit = dispatch.MAX_HEAD_DIM
        raise ValueError(f"{op}: the head dimension must satisfy 1 <= D <= {limit}, got q {tuple(q.shape)}")
    weight = graph.weight
    check_dense(op, "graph.weight", weight)
    if weight.ndim != 5 or weight.shape[2] != weight.shape[4] or weight.shape[3] % 2 == 0:
        raise ValueError(f"{op}: graph.weight must be (B, T, P, 2*window+1, P), got {tuple(weight.shape)}")
    if graph.batch_size != B or graph.nodes != N:
        raise ValueError(
            f"{op}: q has B={B}, N={N}, but the graph has B={graph.batch_size}, "
            f"N = T*P = {graph.frames}*{graph.patches} = {graph.nodes}"
        )
    if weight.device != q.device:
        raise ValueError(f"{op}: the graph must be on q's device {q.device}, got {weight.device}")
    accepted = {storage_dtype(q.dtype), storage_dtype(q.dtype, differentiable=True)}
    if weight.dtype not in accepted:
        names = " or ".join(sorted(map(str, accepted)))
        raise ValueError(
            f"{op}: q in {q.dtype} takes a graph with weights in {names}, got {weight.dtype}; "
            "build it from features of q's dtype, or convert it with graph.to(...)"
        )
    if weight.requires_grad and torch.is_grad_enabled() and weight.dtype == torch.float16:
        raise ValueError(
            f"{op}: graph weights that require gradients must be float32, got {weight.dtype}, in which most gradients "
            "would become 0; q, k and v may stay in half precision"
        )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} on {value.device}"
    return type(value).__name__
