"""Batches of scene graphs, and the attention that others compute on them in plain PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels import RaggedGraph, SpatioTemporalGraph, edge_attention, graph_attention
from stgt_kernels.ops.edge_attention.reference import gather, softmax_of_rows, sum_of_rows

TYPES = 12
CLAMP = 5.0


@dataclass(frozen=True)
class Batch:
    """Graphs with a number of nodes between two bounds, and edges between pairs of their nodes, none twice."""

    name: str
    graphs: int
    least: int
    most: int
    edges: int


BATCHES = (
    Batch("64 texts of 4 to 12 nodes", 64, 4, 12, 1_900),
    Batch("512 frames of 4 to 16 nodes", 512, 4, 16, 23_000),
    Batch("64 clips of 60 to 140 nodes", 64, 60, 140, 38_000),
)
QUICK = (Batch("8 texts of 4 to 12 nodes", 8, 4, 12, 230), Batch("4 clips of 60 to 140 nodes", 4, 60, 140, 2_400))


@dataclass(frozen=True)
class Inputs:
    """A batch's graph, and the tensors that providers take.

    All providers compute the gradients of q, k and v, and most of them also those of the values of edges.
    """

    graph: RaggedGraph
    sizes: Tensor  # (G,): nodes of each graph
    heads: Tensor  # (4, N, H, D): q, k, v and the gradient of out
    table: Tensor  # (types, H)
    edge_vectors: Tensor  # (E, H, D)

    def to(self, device: torch.device) -> "Inputs":
        tensors = (self.sizes, self.heads, self.table, self.edge_vectors)
        return Inputs(self.graph.to(device), *(t.to(device) for t in tensors))

    def in_dtype(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(self.graph, self.sizes, *(t.to(dtype) for t in (self.heads, self.table, self.edge_vectors)))

    @property
    def most(self) -> int:
        return int(self.sizes.max())

    def node_slots(self) -> Tensor:
        """The place of each node in a batch of graphs that are padded to the largest: (N,), below G * most."""
        graph = torch.repeat_interleave(torch.arange(len(self.sizes), device=self.sizes.device), self.sizes)
        first = self.graph.graph_ptr[:-1].long()
        return graph * self.most + torch.arange(len(graph), device=graph.device) - first[graph]

    def padded(self, x: Tensor) -> Tensor:
        """(N, H, D) -> (G, H, most, D), zero where a graph has no such node."""
        dense = x.new_zeros(len(self.sizes) * self.most, *x.shape[1:])
        return dense.index_copy(0, self.node_slots(), x).unflatten(0, (-1, self.most)).transpose(1, 2)

    def unpadded(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(0, 1).index_select(0, self.node_slots())

    def dense_edges(self, values: Tensor, fill: float) -> Tensor:
        """Values of edges (E, ...) -> (G, most, most, ...)."""
        source, target = self.node_slots()[self.graph.to_edge_index()]
        dense = values.new_full((len(self.sizes) * self.most * self.most, *values.shape[1:]), fill)
        dense[target * self.most + source % self.most] = values
        return dense.unflatten(0, (-1, self.most, self.most))


def make(batch: Batch, H: int, D: int, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(batch.least, batch.most + 1, (batch.graphs,), generator=generator)
    first, pairs = sizes.cumsum(0) - sizes, sizes**2
    drawn = torch.randperm(int(pairs.sum()), generator=generator)[: batch.edges].sort().values
    last = pairs.cumsum(0)
    graph = torch.searchsorted(last, drawn, right=True)
    pair = drawn - (last - pairs)[graph]
    edge_index = torch.stack([pair % sizes[graph], pair // sizes[graph]]) + first[graph]
    return with_tensors(edge_index, sizes, H, D, generator).to(device)


def make_hub(nodes: int, edges: int, H: int, D: int, device: torch.device) -> Inputs:
    """One graph, in which node 0 is the target of the first half of the edges and the source of the others."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(nodes, (2, edges), generator=generator)
    edge_index[1, : edges // 2] = edge_index[0, edges // 2 :] = 0
    return with_tensors(edge_index, torch.tensor([nodes]), H, D, generator).to(device)


def with_tensors(edge_index: Tensor, sizes: Tensor, H: int, D: int, generator: torch.Generator) -> Inputs:
    """Inputs with random edge types and values. sizes: (G,), the nodes of each graph."""
    edges, nodes = edge_index.shape[1], int(sizes.sum())
    edge_type = torch.randint(TYPES, (edges,), generator=generator)
    ragged = RaggedGraph.from_edge_index(
        edge_index,
        nodes,
        batch=torch.repeat_interleave(torch.arange(len(sizes)), sizes),
        edge_type=edge_type,
        types=TYPES,
    )
    heads = torch.randn(4, nodes, H, D, generator=generator)
    table = torch.randn(TYPES, H, generator=generator)
    edge_vectors = torch.randn(edges, H, D, generator=generator)
    return Inputs(ragged, sizes, heads, table, edge_vectors)


Step = Callable[[], tuple[Tensor, ...]]
"""Runs forward and backward. It returns out (N, H, D), and the gradients of q, k and v of that shape."""


def ours(inputs: Inputs, backend: str, **values: Tensor) -> Step:
    """edge_attention with edge_scale or edge_bias."""
    values = values or {"edge_scale": inputs.table}
    clamp = CLAMP if "edge_scale" in values else None

    def attend(q, k, v, *learned):
        edges = dict(zip(values, learned, strict=True))
        return edge_attention(q, k, v, inputs.graph, **edges, clamp=clamp, backend=backend)

    return partial(step, attend, [*inputs.heads[:3], *values.values()], inputs.heads[3])


def transformer_conv(inputs: Inputs, dtype: torch.dtype | None = None) -> Step:
    """Computes torch_geometric's TransformerConv(edge_dim=...) without its projections: keys k + e and values v + e."""
    source, target = inputs.graph.to_edge_index()
    nodes = inputs.graph.nodes

    def attend(q, k, v, e):
        k_e, v_e = gather(k, source) + e, gather(v, source) + e
        score = (gather(q, target) * k_e).sum(-1) * q.shape[-1] ** -0.5
        return sum_of_rows(softmax_of_rows(score, target, nodes)[..., None] * v_e, target, nodes)

    tensors = [t.to(dtype or t.dtype) for t in (*inputs.heads[:3], inputs.edge_vectors)]
    return partial(step, attend, tensors, inputs.heads[3].to(dtype or tensors[0].dtype))


def torch_geometric_conv(inputs: Inputs) -> Step:
    """The layer of torch_geometric itself, without its projections."""
    from torch_geometric.nn import TransformerConv

    _, _, H, D = inputs.heads.shape
    conv = TransformerConv(H * D, D, heads=H, edge_dim=H * D)
    conv.lin_edge = torch.nn.Identity()
    edge_index = inputs.graph.to_edge_index()

    def attend(q, k, v, e):
        return conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=e.flatten(1))

    return partial(step, attend, [*inputs.heads[:3], inputs.edge_vectors], inputs.heads[3])


def padded_sdpa(inputs: Inputs) -> Step:
    """PyTorch's attention on padded graphs, with a bias for each pair and head. Padding is not timed.

    Rows without edges attend to all nodes alike, so no gradient comes into them.
    """
    bias = inputs.table[inputs.graph.edge_type.long()]
    dense = inputs.dense_edges(bias, torch.finfo(bias.dtype).min).permute(0, 3, 1, 2).contiguous()
    attends = (inputs.graph.degree() > 0)[:, None, None]
    q, k, v, dout = (inputs.padded(x) for x in (*inputs.heads[:3], inputs.heads[3] * attends))

    def attend(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def run():
        return tuple(inputs.unpadded(x) for x in step(attend, [q, k, v, dense], dout)[:4])

    return run


def banded(inputs: Inputs, backend: str) -> Step:
    """graph_attention on padded graphs, with one weight for all heads. Padding and the graph are not timed."""
    weight = inputs.table[:, 0][inputs.graph.edge_type.long()]
    graph = SpatioTemporalGraph.from_dense(inputs.dense_edges(weight, 0.0))
    q, k, v, dout = (inputs.padded(x) for x in inputs.heads)

    def attend(q, k, v):
        return graph_attention(q, k, v, graph, backend=backend)

    def run():
        return tuple(inputs.unpadded(x) for x in step(attend, [q, k, v], dout))

    return run


def step(attend: Callable[..., Tensor], tensors: list[Tensor], dout: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = attend(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, dout.view(out.shape))
