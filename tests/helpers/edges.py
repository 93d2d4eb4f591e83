"""Ragged graphs for the tests of edge attention, and the comparison with the definition that most of them end in."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from helpers.cases import device_of, moved, on
from helpers.poison import poisoned_memory
from stgt_kernels import RaggedGraph, edge_attention
from stgt_kernels.ops.edge_attention import reference
from stgt_kernels.ops.edge_attention.dropout import keep_mask
from stgt_kernels.testing import assert_close

NAMES = ("q", "k", "v", "edge_scale", "edge_bias")
LAYOUTS = ("contiguous", "packed", "padded", "strided", "transposed", "heads_first")


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def ragged_graph(sizes: list[int], edges: int, *, types: int = 0, seed: int = 0) -> RaggedGraph:
    """Random edges within graphs of these sizes. Some nodes have no edge, some edges are parallel or self loops."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(sizes, dtype=torch.int64)
    start, batch = size.cumsum(0) - size, torch.repeat_interleave(torch.arange(len(sizes)), size)
    graph = torch.multinomial(size.double() ** 2, edges, True, generator=generator) if edges else torch.zeros(0).long()
    ends = torch.rand(2, edges, generator=generator, dtype=torch.float64)
    edge_index = (ends * size[graph]).long() + start[graph]
    edge_type = torch.randint(types, (edges,), generator=generator) if types else None
    return RaggedGraph.from_edge_index(
        edge_index, int(size.sum()), batch=batch, edge_type=edge_type, types=types or None
    )


def node_heads(
    N: int, H: int, D: int, *, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0
) -> Tensor:
    """Gaussian (N, H, D) in one of the memory layouts that callers have; memory around the values is NaN."""
    generator = torch.Generator().manual_seed(2000 + seed)
    values = torch.randn(N, H, D, generator=generator, dtype=torch.float64).to(dtype)
    nan = float("nan")
    memory = {
        "contiguous": lambda: torch.full((N, H, D), nan, dtype=dtype),
        "packed": lambda: torch.full((N, 3, H, D), nan, dtype=dtype)[:, 1],
        "padded": lambda: torch.full((N + 2, H, D + 5), nan, dtype=dtype)[1 : N + 1, :, 3 : D + 3],
        "strided": lambda: torch.full((N, H, 2 * D), nan, dtype=dtype)[..., ::2],
        "transposed": lambda: torch.full((N, D, H), nan, dtype=dtype).transpose(1, 2),
        "heads_first": lambda: torch.full((H, N, D), nan, dtype=dtype).transpose(0, 1),
    }[layout]()
    return memory.copy_(values)


@dataclass
class Call:
    """A call of edge_attention with the gradients that come in."""

    graph: RaggedGraph
    tensors: dict[str, Tensor]  # those of NAMES that are given
    dout: Tensor
    dscores: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors["q"].dtype


def call(
    graph: RaggedGraph,
    H: int = 2,
    D: int = 16,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    edge_scale: str = "edges",
    edge_bias: str = "edges",
    dscores: bool = True,
    seed: int = 0,
    **options,
) -> Call:
    """Random arguments. edge_scale and edge_bias: ``edges``, ``types`` or ``none``."""
    generator = torch.Generator().manual_seed(3000 + seed)

    def values(kind: str) -> Tensor | None:
        rows = {"edges": graph.edges, "types": graph.types, "none": None}[kind]
        return None if rows is None else torch.randn(rows, H, generator=generator, dtype=torch.float64).to(wide(dtype))

    tensors = {
        name: node_heads(graph.nodes, H, D, dtype=dtype, layout=layout, seed=seed + i) for i, name in enumerate("qkv")
    }
    tensors |= {"edge_scale": values(edge_scale), "edge_bias": values(edge_bias)}
    dout = node_heads(graph.nodes, H, D, dtype=dtype, layout=layout, seed=seed + 7)
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return Call(graph, given, dout, values("edges") if dscores else None, options)


def with_gradients(attend, case: Call) -> dict[str, Tensor]:
    """out, scores and the gradients of everything that was given; attend takes the tensors by name."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in case.tensors.items()}
    out, scores = attend(**leaves)
    outputs, gradients = (out,), (case.dout,)
    if case.dscores is not None:
        outputs, gradients = (out, scores), (case.dout, case.dscores)
    results = torch.autograd.grad(outputs, list(leaves.values()), gradients)
    named = {f"d{name}": gradient for name, gradient in zip(leaves, results, strict=True)}
    return {"out": out.detach(), "scores": scores.detach(), **named}


def run(case: Call, backend: str) -> dict[str, Tensor]:
    """The results of a backend; the kernels run in poisoned memory."""
    tensors = on(backend, case.tensors)
    dout, dscores = moved((case.dout, case.dscores), device_of(backend))
    graph = case.graph.to(device_of(backend))
    case = Call(graph, tensors, dout, dscores, case.options)

    def attend(q, k, v, **values):
        return edge_attention(q, k, v, graph, return_scores=True, backend=backend, **values, **case.options)

    with nullcontext() if backend == "reference" else poisoned_memory():
        results = with_gradients(attend, case)
    return {name: tensor.cpu() for name, tensor in results.items()}


def defined(case: Call, dtype: torch.dtype, seed: Tensor | None = None) -> dict[str, Tensor]:
    """The same by the definition, computed in ``dtype``. seed: that of dropout."""
    options = {"scale": case.tensors["q"].shape[-1] ** -0.5, "clamp": float("inf"), "dropout_p": 0.0} | case.options
    tensors = {name: t.to(dtype) if name in "qkv" else t.to(wide(dtype)) for name, t in case.tensors.items()}
    dscores = None if case.dscores is None else case.dscores.to(wide(dtype))

    def attend(q, k, v, edge_scale=None, edge_bias=None):
        return reference.edge_attention(q, k, v, case.graph, edge_scale, edge_bias, **options, seed=seed)

    return with_gradients(attend, Call(case.graph, tensors, case.dout.to(dtype), dscores))


def assert_close_to_definition(case: Call, backend: str, actual: dict[str, Tensor] | None = None, seed=None) -> None:
    """Fails if a backend's results err more than ``stgt_kernels.testing.assert_close`` allows."""
    actual = run(case, backend) if actual is None else actual
    plain, exact, terms = defined(case, case.dtype, seed), defined(case, torch.float64, seed), term_sizes(case, seed)
    for name, value in actual.items():
        assert value.dtype == plain[name].dtype, name
        assert_close(value, plain[name], exact[name], name, terms=terms.get(name, 0.0))


def term_sizes(case: Call, seed: Tensor | None) -> dict[str, float]:
    """How large the terms are that the results are sums of, at most over all elements.

    They may nearly cancel: the gradient of a row's score is p (dp - delta), where both may be far larger than their
    difference. The rounding errors of terms are independent, so their size is the root of the sum of their squares.
    delta is one number for a whole row, so its error is the same for all edges of the row, and adds up over them.
    """
    graph, options = case.graph, case.options
    q, k, v = (case.tensors[name].double() for name in "qkv")
    source, target = graph.to_edge_index()
    factor = options.get("scale", q.shape[-1] ** -0.5)
    scores = (q[target] * k[source]).sum(-1) * factor
    scale, bias = (
        torch.full_like(scores, default) if values is None else reference.per_edge(values.double(), graph)
        for default, values in ((1.0, case.tensors.get("edge_scale")), (0.0, case.tensors.get("edge_bias")))
    )
    limit = options.get("clamp", float("inf"))
    p = reference.softmax_of_rows((scores * scale).clamp(-limit, limit) + bias, target, graph.nodes)
    kept = torch.ones_like(p)
    if seed is not None:
        mask, keep_prob = keep_mask(seed, graph.edges, q.shape[1], options["dropout_p"])
        kept = mask / keep_prob
    dp = (case.dout.double()[target].square() * v[source].square()).sum(-1) * kept.square()
    delta = reference.sum_of_rows(p.square() * dp, target, graph.nodes) + delta_from_out(case, p * kept)
    dz = p.square() * dp
    row = p * delta.sqrt()[target]  # The error of delta in the gradient of each score.
    dscore = dz * scale.square() + (0 if case.dscores is None else case.dscores.double().square())
    dscore = dscore * factor**2
    squares = {
        "scores": (q[target].square() * k[source].square()).sum(-1) * factor**2,
        "out": reference.sum_of_rows((p * kept).square()[..., None] * v[source].square(), target, graph.nodes),
        "dv": reference.sum_of_rows(
            (p * kept).square()[..., None] * case.dout.double()[target].square(), source, graph.nodes
        ),
        "dq": reference.sum_of_rows(dscore[..., None] * k[source].square(), target, graph.nodes)
        + squared_by_row((row * scale * factor)[..., None] * k[source], target, target, graph.nodes),
        "dk": reference.sum_of_rows(dscore[..., None] * q[target].square(), source, graph.nodes)
        + squared_by_row((row * scale * factor)[..., None] * q[target], source, target, graph.nodes),
        "dedge_scale": per_row(dz * scores.square(), row * scores, case, "edge_scale"),
        "dedge_bias": per_row(dz, row, case, "edge_bias"),
    }
    return {name: x.nan_to_num(0, 0, 0).amax().sqrt().item() for name, x in squares.items() if x.numel()}


def delta_from_out(case: Call, p: Tensor) -> Tensor:
    """The squared error of delta = sum(dout * out) that comes from out, in units of the dtype's floor.

    out is a sum over the edges of a row, and each of its partial sums is rounded. They are at most the sum of the
    absolute terms. Each of the n errors is half an eps of this sum. They are independent, so together they are sqrt(n)
    times this. The floor is eight times half an eps, so they are sqrt(n)/8 floors. Twice as much is allowed.
    """
    source, target = case.graph.to_edge_index()
    nodes, v = case.graph.nodes, case.tensors["v"].double()
    largest = reference.sum_of_rows(p[..., None] * v[source].abs(), target, nodes)
    n = torch.bincount(target, minlength=nodes)[:, None]
    return n / 16 * (case.dout.double() * largest).square().sum(-1)


def squared_by_row(x: Tensor, index: Tensor, target: Tensor, size: int) -> Tensor:
    """For each index, the squares of the sums of x over the edges of one row, added up over the rows."""
    both, place = torch.unique(torch.stack([index, target]), dim=1, return_inverse=True)
    sums = reference.sum_of_rows(x, place, both.shape[1])
    return reference.sum_of_rows(sums.square(), both[0], size)


def per_row(squares: Tensor, row: Tensor, case: Call, name: str) -> Tensor:
    """The squares of edges, and those of errors that a row shares. A table of this name has the sums for its types."""
    values = case.tensors.get(name)
    types = None if values is None else reference.types_of(values, case.graph)
    if types is None:
        return squares + row.square()
    _, target = case.graph.to_edge_index()
    shared = squared_by_row(row, types.long(), target, case.graph.types)
    return reference.sum_of_rows(squares, types.long(), case.graph.types) + shared
