"""The public function. Its docstring is the contract that every backend keeps."""

from typing import Literal, overload

import torch
from torch import Tensor

from stgt_kernels import dispatch
from stgt_kernels.ops import numbers
from stgt_kernels.ops.autograd import own_view
from stgt_kernels.ops.edge_attention import arguments, reference
from stgt_kernels.ops.edge_attention.function import EdgeAttentionFunction
from stgt_kernels.ops.tensors import in_autocast_dtype
from stgt_kernels.ragged_graph import RaggedGraph


@overload
def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: RaggedGraph,
    *,
    edge_scale: Tensor | None = None,
    edge_bias: Tensor | None = None,
    clamp: float | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_scores: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: RaggedGraph,
    *,
    edge_scale: Tensor | None = None,
    edge_bias: Tensor | None = None,
    clamp: float | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_scores: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: RaggedGraph,
    *,
    edge_scale: Tensor | None = None,
    edge_bias: Tensor | None = None,
    clamp: float | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_scores: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the edges of ragged graphs, with a factor and a bias for each edge and head.

    For each edge e from row i to column j, and each head:
    ``s_e = scale * (q_i . k_j)``;  ``z_e = clip(s_e * edge_scale_e, -clamp, clamp) + edge_bias_e``;
    ``out_i = sum_e softmax(z)_e v_j``, where the softmax and the sum run over the edges of row i.

    Args:
        q, k, v: (N, H, D), one row for each node of the graph, 1 <= D <= 128; any strides (a contiguous last dimension
            is read in place). float32, bfloat16, float16, and float64 on the CPU. Scores, softmax and sums are computed
            in float32 (float64 for float64). Under autocast, all three get autocast's dtype, unless they are float64.
        graph: any number of nodes and edges, parallel edges and self loops included.
        edge_scale, edge_bias: (E, H), a row for each edge in the order that ``RaggedGraph.from_edge_index`` got; or
            (types, H), a row for each type, which ``graph.edge_type`` selects. A tensor with ``graph.types`` rows is
            taken as a row for each type, also in a graph with that many edges. Each of the two has q's dtype or
            float32 (for a q in float64, only float64). They are computed with in float32 (float64 for float64), also
            under autocast. A bias of -inf takes an edge away. Without a tensor, all factors are 1 and all biases 0.
        clamp: the largest size of ``s_e * edge_scale_e``, which carries no gradient where it is larger. None for no
            limit.
        scale: the factor of the scores; the default is ``D ** -0.5``.
        dropout_p: the probability, 0 <= dropout_p < 1, that an edge is dropped in one head after the softmax. The mask
            is a function of the edge's number, of the head, and of a seed, which is drawn from the device's default
            generator. It is the same on every backend.
        return_scores: whether the scores s are returned, too.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.

    Returns:
        out (N, H, D) in q's dtype, contiguous, and with ``return_scores`` the scores s (E, H) in float32 (float64 for
        float64): q . k times ``scale``, before ``edge_scale``, ``clamp`` and ``edge_bias``, in the order of the edges.
        A row without edges gives 0, and so does one whose biases are all -inf. The results are differentiable once in
        q, k, v, edge_scale and edge_bias. The same input gives the same bits, forward and backward, with any number of
        threads. Beyond inputs and gradients, memory holds a few numbers for each edge and head.

    Raises:
        ValueError: an argument has another type, a tensor is not dense, shapes, dtypes or devices do not fit each other
            or the graph, D > 128, scale is not finite, clamp is not positive and finite, dropout_p is out of range, or
            a backend that was asked for cannot run.
    """
    arguments.check_tensors(q, k, v, graph)
    q, k, v = in_autocast_dtype(q, k, v)
    arguments.check(q, k, v, graph)
    edge_scale = arguments.edge_values("edge_scale", edge_scale, q, graph)
    edge_bias = arguments.edge_values("edge_bias", edge_bias, q, graph)
    factor = numbers.finite_scale(arguments.OP, scale, q.shape[-1])
    limit = numbers.clamp_limit(arguments.OP, clamp)
    dropout_p = numbers.dropout_probability(arguments.OP, "dropout_p", dropout_p)
    return_scores = numbers.flag(arguments.OP, "return_scores", return_scores)
    seed = torch.randint(2**63 - 1, (1,), device=q.device) if dropout_p > 0 else None
    backend = dispatch.choose(backend, q.device, q.dtype, "edge_attention", "edge D", q.shape[-1])
    if backend == "reference":
        with dispatch.without_autocast(q.device):
            out, scores = reference.edge_attention(
                q, k, v, graph, edge_scale, edge_bias, limit, factor, dropout_p, seed
            )
    else:
        scale_type, bias_type = (None if t is None else reference.types_of(t, graph) for t in (edge_scale, edge_bias))
        q, k, v = (own_view(t) for t in (q, k, v))
        edge_scale, edge_bias, bias_type = (own_view(t) for t in (edge_scale, edge_bias, bias_type))
        rows, columns = (graph.row_ptr, graph.source, graph.row_edge), (graph.col_ptr, graph.target, graph.col_edge)
        tensors = (q, k, v, edge_scale, edge_bias, *rows, *columns, scale_type, bias_type, seed)
        out, scores, _ = EdgeAttentionFunction.apply(*tensors, limit, factor, dropout_p, backend)
    return (out, scores) if return_scores else out
