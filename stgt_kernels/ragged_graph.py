"""Graphs of any sizes, batched without padding: the edges sorted by row and by column."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stgt_kernels.ops.numbers import integer
from stgt_kernels.ops.tensors import check_dense

MOST_TYPES = 256
MOST_INDEX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class RaggedGraph:
    """A batch of directed graphs with their edges sorted twice. Nodes are numbered from 0 to N - 1 over all graphs.

    An edge with source j and target i means that node i (the row) attends to node j (the column). There are N nodes, E
    edges and G graphs; all tensors are contiguous and on one device. Parallel edges and self loops are allowed. Edges
    are numbered in the order in which ``from_edge_index`` got them, and tensors with values for edges have this order.

    row_ptr: (N+1,) int32; the edges of row i are source[row_ptr[i]:row_ptr[i+1]], and the same slice of row_edge.
    source: (E,) int32; the column of each edge, sorted by rows.
    row_edge: (E,) int32; the number of each edge, sorted by rows.
    col_ptr: (N+1,) int32; the edges of column j are target[col_ptr[j]:col_ptr[j+1]], and the same slice of col_edge.
    target: (E,) int32; the row of each edge, sorted by columns.
    col_edge: (E,) int32; the number of each edge, sorted by columns.
    graph_ptr: (G+1,) int32; the nodes of graph g are graph_ptr[g] to graph_ptr[g+1] - 1.
    edge_type: (E,) uint8, the type of each edge, or None.
    types: the number of types that an edge may have; 0 without ``edge_type``.
    """

    row_ptr: Tensor
    source: Tensor
    row_edge: Tensor
    col_ptr: Tensor
    target: Tensor
    col_edge: Tensor
    graph_ptr: Tensor
    edge_type: Tensor | None = None
    types: int = 0

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int,
        *,
        batch: Tensor | None = None,
        edge_type: Tensor | None = None,
        types: int | None = None,
    ) -> "RaggedGraph":
        """Sorts edges in PyTorch Geometric's convention. It looks at the values, so it cannot run in compiled code.

        Args:
            edge_index: (2, E) int64; messages flow from ``edge_index[0]`` (the source, which is attended to) to
                ``edge_index[1]`` (the target, which attends). Any order.
            num_nodes: N, the nodes of all graphs together; 0 <= N < 2**31.
            batch: (N,) int64, the graph of each node, in ascending order, as in PyTorch Geometric's batches; no edge
                may join two graphs. The default is one graph.
            edge_type: (E,) integers, the type of each edge, from 0 to types - 1.
            types: how many types there are, at most 256; the default is the largest of ``edge_type`` plus 1. Tables of
                values for types have this many rows, so give it where a batch may lack the last type.

        Raises:
            ValueError: arguments of another rank, size, dtype or device, indices out of range, a batch that is not
                sorted, or an edge between two graphs.
        """
        num_nodes = _check_edge_index(edge_index, num_nodes)
        source, target = edge_index.unbind(0)
        graph_ptr = _graph_ptr(edge_index, num_nodes, batch)
        if edge_type is not None:
            types = _check_edge_type(edge_type, edge_index, types)
            edge_type = edge_type.to(torch.uint8).contiguous()
        elif types is not None:
            raise ValueError(f"from_edge_index: types={types} needs edge_type, got None")
        row_ptr, row_edge = _sorted_by(target, num_nodes)
        col_ptr, col_edge = _sorted_by(source, num_nodes)
        by_row = source.index_select(0, row_edge).int(), row_edge.int()
        by_column = target.index_select(0, col_edge).int(), col_edge.int()
        return cls(row_ptr, *by_row, col_ptr, *by_column, graph_ptr, edge_type, types or 0)

    @property
    def nodes(self) -> int:
        """Number of nodes of all graphs, N."""
        return self.row_ptr.shape[0] - 1

    @property
    def edges(self) -> int:
        """Number of edges of all graphs, E."""
        return self.source.shape[0]

    @property
    def graphs(self) -> int:
        """Number of graphs, G."""
        return self.graph_ptr.shape[0] - 1

    @property
    def device(self) -> torch.device:
        """The device of all tensors of the graph."""
        return self.row_ptr.device

    def to_edge_index(self) -> Tensor:
        """The edges as ``from_edge_index`` got them: (2, E) int64, source and target, in the same order."""
        nodes = torch.arange(self.nodes, device=self.device)
        target = torch.repeat_interleave(nodes, self.row_ptr.diff().long(), output_size=self.edges)
        by_row = torch.stack([self.source.long(), target])
        return torch.empty_like(by_row).index_copy(1, self.row_edge.long(), by_row)

    def degree(self) -> Tensor:
        """The number of edges that each node attends over, (N,) int64."""
        return self.row_ptr.diff().long()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "RaggedGraph":
        """The graph on another device. Raises TypeError or RuntimeError if that is no device."""
        device = torch.device(device)
        tensors, rest = _flatten(self)
        return _unflatten([None if t is None else t.to(device, non_blocking=non_blocking) for t in tensors], rest)


def _check_edge_index(edge_index: Tensor, num_nodes: int) -> int:
    """Returns the number of nodes."""
    _check_dense("edge_index", edge_index)
    if not isinstance(edge_index, Tensor) or edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"from_edge_index: edge_index must be a tensor (2, E), got {_describe(edge_index)}")
    if edge_index.dtype != torch.int64:
        raise ValueError(f"from_edge_index: edge_index must be int64, got {edge_index.dtype}")
    if edge_index.is_meta:
        raise ValueError("from_edge_index: edge_index must have values, got a tensor on the device meta")
    whole = integer(num_nodes)
    if whole is None or not 0 <= whole <= MOST_INDEX:
        raise ValueError(f"from_edge_index: num_nodes must be an integer, 0 <= num_nodes < 2**31, got {num_nodes!r}")
    if edge_index.shape[1] > MOST_INDEX:
        raise ValueError(f"from_edge_index: there must be fewer than 2**31 edges, got {edge_index.shape[1]}")
    outside = (edge_index < 0) | (edge_index >= num_nodes)
    if bool(outside.any()):
        side, edge = outside.nonzero()[0].tolist()
        raise ValueError(
            f"from_edge_index: edge_index must hold node numbers from 0 to num_nodes - 1 = {num_nodes - 1}, "
            f"got edge_index[{side}, {edge}] = {int(edge_index[side, edge])}"
        )
    return int(whole)


def _check_edge_type(edge_type: Tensor, edge_index: Tensor, types: int | None) -> int:
    """Returns the number of types."""
    edges = edge_index.shape[1]
    _check_dense("edge_type", edge_type)
    if not isinstance(edge_type, Tensor) or edge_type.shape != (edges,):
        raise ValueError(f"from_edge_index: edge_type must be a tensor (E,) with E={edges}, got {_describe(edge_type)}")
    if edge_type.is_floating_point() or edge_type.is_complex() or edge_type.dtype == torch.bool:
        raise ValueError(f"from_edge_index: edge_type must hold integers, got {edge_type.dtype}")
    if edge_type.device != edge_index.device:
        raise ValueError(
            f"from_edge_index: edge_type must be on edge_index's device {edge_index.device}, got {edge_type.device}"
        )
    if types is not None and ((whole := integer(types)) is None or not 1 <= whole <= MOST_TYPES):
        raise ValueError(f"from_edge_index: types must be an integer, 1 <= types <= {MOST_TYPES}, got {types!r}")
    low, high = (int(x) for x in torch.aminmax(edge_type.long())) if edges else (0, 0)
    most = (MOST_TYPES if types is None else types) - 1
    if low < 0 or high > most:
        raise ValueError(f"from_edge_index: edge_type must lie between 0 and {most}, got {low} to {high}")
    return high + 1 if types is None else int(types)


def _graph_ptr(edge_index: Tensor, num_nodes: int, batch: Tensor | None) -> Tensor:
    """Checks the batch, and returns where each graph's nodes begin."""
    device = edge_index.device
    if batch is None:
        return torch.tensor([0, num_nodes], dtype=torch.int32, device=device)
    _check_dense("batch", batch)
    if not isinstance(batch, Tensor) or batch.shape != (num_nodes,):
        raise ValueError(f"from_edge_index: batch must be a tensor (N,) with N={num_nodes}, got {_describe(batch)}")
    if batch.dtype != torch.int64:
        raise ValueError(f"from_edge_index: batch must be int64, got {batch.dtype}")
    if batch.device != device:
        raise ValueError(f"from_edge_index: batch must be on edge_index's device {device}, got {batch.device}")
    if num_nodes == 0:
        return torch.zeros(1, dtype=torch.int32, device=device)
    falls = batch[1:] < batch[:-1]
    if bool(falls.any()):
        at = int(falls.nonzero()[0]) + 1
        raise ValueError(
            f"from_edge_index: batch must be in ascending order, got batch[{at}] = {int(batch[at])} after "
            f"{int(batch[at - 1])}; sort the nodes by graph"
        )
    if int(batch[0]) < 0 or int(batch[-1]) >= MOST_INDEX:
        raise ValueError(
            f"from_edge_index: batch must hold graph numbers from 0 on, got {int(batch[0])} to {int(batch[-1])}"
        )
    graphs = batch.index_select(0, edge_index.flatten()).view(2, -1)
    crosses = graphs[0] != graphs[1]
    if bool(crosses.any()):
        at = int(crosses.nonzero()[0])
        raise ValueError(
            f"from_edge_index: an edge must stay within its graph, got edge {at} from node {int(edge_index[0, at])} of "
            f"graph {int(graphs[0, at])} to node {int(edge_index[1, at])} of graph {int(graphs[1, at])}"
        )
    bounds = torch.arange(int(batch[-1]) + 2, device=device)
    return torch.searchsorted(batch, bounds, out_int32=True)


def _sorted_by(node: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Where each node's edges begin when they are sorted by this end, and the order of the edges, int32 and int64."""
    ordered, order = torch.sort(node, stable=True)
    bounds = torch.arange(num_nodes + 1, device=node.device)
    return torch.searchsorted(ordered, bounds, out_int32=True), order


def _check_dense(name: str, value: object) -> None:
    if isinstance(value, Tensor):
        check_dense("from_edge_index", name, value)


def _describe(value: object) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


TENSORS = [field.name for field in fields(RaggedGraph) if field.name != "types"]


def _flatten(graph: RaggedGraph) -> tuple[list[Tensor | None], int]:
    return [getattr(graph, name) for name in TENSORS], graph.types


def _flatten_with_keys(graph: RaggedGraph) -> tuple[list[tuple[Any, Tensor | None]], int]:
    tensors, types = _flatten(graph)
    return [(pytree.GetAttrKey(name), t) for name, t in zip(TENSORS, tensors, strict=True)], types


def _unflatten(tensors, types: int) -> RaggedGraph:
    return RaggedGraph(*tensors, types=types)


pytree.register_pytree_node(
    RaggedGraph,
    _flatten,
    _unflatten,
    serialized_type_name="stgt_kernels.RaggedGraph",
    flatten_with_keys_fn=_flatten_with_keys,
)
