"""Attention over the edges of ragged graphs in plain PyTorch: the definition that every kernel is tested against."""

import torch
from torch import Tensor

from stgt_kernels.ops.edge_attention.dropout import keep_mask
from stgt_kernels.ragged_graph import RaggedGraph
from stgt_kernels.rounding import accumulator_dtype


def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: RaggedGraph,
    edge_scale: Tensor | None,
    edge_bias: Tensor | None,
    clamp: float,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns the output (N, H, D), and the scores scale * (q_i . k_j) of all edges, (E, H).

    q, k, v: (N, H, D). edge_scale, edge_bias: (E, H), or (types, H) for the graph's edge types; None for factors of 1
    and biases of 0. clamp: the largest size of a score times its factor, inf for no limit. seed: int64, one element;
    None without dropout. Half precision is computed in float32, which the scores stay in.
    """
    dtype = q.dtype
    wide = accumulator_dtype(dtype)
    source, target = graph.to_edge_index().unbind(0)
    q, k, v = (t.to(wide) for t in (q, k, v))
    scores = (gather(q, target) * gather(k, source)).sum(-1) * scale
    z = scores
    if edge_scale is not None:
        z = z * per_edge(edge_scale, graph).to(wide)
    # Scores that equal the limit have gradients, which torch.clamp gives them in PyTorch before 2.15 only.
    z = z.masked_fill(z > clamp, clamp).masked_fill(z < -clamp, -clamp)
    if edge_bias is not None:
        z = z + per_edge(edge_bias, graph).to(wide)
    probability = softmax_of_rows(z, target, graph.nodes)
    if dropout_p > 0:
        assert seed is not None
        keep, keep_prob = keep_mask(seed, graph.edges, q.shape[1], dropout_p)
        probability = probability * keep / keep_prob
    out = sum_of_rows(probability[..., None] * gather(v, source), target, graph.nodes)
    return out.to(dtype), scores


def softmax_of_rows(z: Tensor, target: Tensor, nodes: int) -> Tensor:
    """softmax over the edges of each row; a row whose scores are all -inf has probabilities of 0."""
    top = z.new_full((nodes, z.shape[1]), float("-inf"))
    top = top.scatter_reduce(0, target[:, None].expand_as(z), z.detach(), "amax")
    top = top.masked_fill(torch.isneginf(top), 0)
    exponential = torch.exp(z - gather(top, target))
    total = sum_of_rows(exponential, target, nodes)
    return exponential / gather(total.masked_fill(total == 0, 1), target)


def per_edge(values: Tensor, graph: RaggedGraph) -> Tensor:
    """Values (E, H) for each edge. They are given as such, or as a table (types, H) with a row for each type."""
    types = types_of(values, graph)
    return values if types is None else gather(values, types.long())


def types_of(values: Tensor, graph: RaggedGraph) -> Tensor | None:
    """The edge types that select rows of ``values`` if it is a table, and None if it has a row for each edge."""
    return graph.edge_type if values.shape[0] == graph.types else None


# PyTorch has two ways to select rows, and two ways to add them up. The order in which they add, in the gradient or in
# the result, is fixed for one way on a CPU, and for the other way on a GPU. The same input has to give the same bits.
def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index], whose gradient is added up in a fixed order."""
    return x[index] if x.is_cuda else x.index_select(0, index)


def sum_of_rows(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """out, whose row r is the sum of all x[e] with index[e] == r. The sums are added up in a fixed order."""
    out = x.new_zeros(rows, *x.shape[1:])
    return out.index_put((index,), x, accumulate=True) if x.is_cuda else out.index_add(0, index, x)
