"""RaggedGraph: what from_edge_index sorts, what comes back, and what it refuses."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from helpers.edges import ragged_graph
from torch.utils import _pytree as pytree

from stgt_kernels import RaggedGraph

EDGES = torch.tensor([[3, 0, 3, 1, 4, 0], [1, 1, 3, 1, 3, 0]])  # an edge to oneself, and node 2 without any


def raises(*parts):
    """A ValueError whose message holds all these, in order."""
    return pytest.raises(ValueError, match=".*".join(map(re.escape, parts)))


def test_edges_are_sorted_by_row_and_by_column_and_keep_their_numbers():
    graph = RaggedGraph.from_edge_index(EDGES, 5)
    assert graph.row_ptr.tolist() == [0, 1, 4, 4, 6, 6]
    assert graph.source.tolist() == [0, 3, 0, 1, 3, 4]
    assert graph.row_edge.tolist() == [5, 0, 1, 3, 2, 4]
    assert graph.col_ptr.tolist() == [0, 2, 3, 3, 5, 6]
    assert graph.target.tolist() == [1, 0, 1, 1, 3, 3]
    assert graph.col_edge.tolist() == [1, 5, 3, 0, 2, 4]
    assert (graph.nodes, graph.edges, graph.graphs, graph.types) == (5, 6, 1, 0)
    assert graph.degree().tolist() == [1, 3, 0, 2, 0]
    *indices, edge_type = pytree.tree_leaves(graph)
    assert edge_type is None and all(t.dtype == torch.int32 and t.is_contiguous() for t in indices)


@pytest.mark.parametrize("edges", [0, 1, 400])
def test_edge_index_comes_back_in_its_order(edges):
    edge_index = torch.randint(30, (2, edges))
    assert torch.equal(RaggedGraph.from_edge_index(edge_index, 30).to_edge_index(), edge_index)


def test_parallel_edges_keep_their_order():
    graph = RaggedGraph.from_edge_index(torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]), 2)
    assert graph.row_edge.tolist() == [0, 1, 2, 3] and graph.col_edge.tolist() == [3, 0, 1, 2]


def test_strides_do_not_matter():
    graph = RaggedGraph.from_edge_index(EDGES.T.contiguous().T, 5)
    assert torch.equal(graph.to_edge_index(), EDGES)


def test_graphs_of_a_batch():
    batch = torch.tensor([0, 0, 2, 2, 2])  # graph 1 has no nodes
    graph = RaggedGraph.from_edge_index(torch.tensor([[1, 4], [0, 2]]), 5, batch=batch)
    assert graph.graph_ptr.tolist() == [0, 2, 2, 5] and graph.graphs == 3


def test_a_batch_of_nothing():
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    for batch in (None, torch.zeros(0, dtype=torch.int64)):
        graph = RaggedGraph.from_edge_index(nothing, 0, batch=batch)
        assert (graph.nodes, graph.edges) == (0, 0) and torch.equal(graph.to_edge_index(), nothing)
    assert graph.graphs == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_types(dtype):
    edge_type = torch.tensor([1, 0, 4, 4, 0, 2], dtype=dtype)
    graph = RaggedGraph.from_edge_index(EDGES, 5, edge_type=edge_type)
    assert graph.types == 5 and graph.edge_type.dtype == torch.uint8 and torch.equal(graph.edge_type, edge_type.byte())
    assert RaggedGraph.from_edge_index(EDGES, 5, edge_type=edge_type, types=256).types == 256
    assert RaggedGraph.from_edge_index(torch.zeros(2, 0).long(), 5, edge_type=edge_type[:0]).types == 1


def test_integers_of_numpy_are_integers():
    graph = RaggedGraph.from_edge_index(EDGES, np.int64(5), edge_type=torch.zeros(6).long(), types=np.uint8(3))
    assert graph.nodes == 5 and type(graph.types) is int and graph.types == 3


def same(a: RaggedGraph, b: RaggedGraph) -> bool:
    (left, one), (right, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return one == other and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def test_copies_and_pickles():
    graph = ragged_graph([4, 9], 30, types=3)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)), graph.to("cpu")):
        assert same(graph, other) and other.types == 3
    assert graph.to("meta").device == torch.device("meta")


def test_it_is_a_pytree():
    graph = ragged_graph([4, 9], 30, types=3)
    leaves, tree = pytree.tree_flatten(graph)
    assert same(pytree.tree_unflatten(leaves, tree), graph)
    keys = [pytree.keystr(key) for key, _ in pytree.tree_flatten_with_path(graph)[0]]
    assert keys[:3] == [".row_ptr", ".source", ".row_edge"] and keys[-1] == ".edge_type"


class TestBadInput:
    @pytest.mark.parametrize("shape", [(6,), (3, 6), (6, 2), (1, 2, 6)])
    def test_rank(self, shape):
        with raises("edge_index must be a tensor (2, E)", str(shape)):
            RaggedGraph.from_edge_index(torch.zeros(shape, dtype=torch.int64), 5)

    def test_no_tensor(self):
        with raises("edge_index must be a tensor", "list"):
            RaggedGraph.from_edge_index([[0], [0]], 5)

    def test_no_values(self):
        with raises("edge_index must have values", "meta"):
            RaggedGraph.from_edge_index(EDGES.to("meta"), 5)

    def test_tensors_that_are_not_dense(self):
        with raises("edge_index must be a dense tensor"):
            RaggedGraph.from_edge_index(EDGES.to_sparse(), 5)
        for name, size in [("batch", 5), ("edge_type", 6)]:
            with raises(f"{name} must be a dense tensor"):
                RaggedGraph.from_edge_index(EDGES, 5, **{name: torch.zeros(size).long().to_sparse()})

    @pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
    def test_dtype(self, dtype):
        with raises("edge_index must be int64", str(dtype)):
            RaggedGraph.from_edge_index(EDGES.to(dtype), 5)

    @pytest.mark.parametrize(
        ("edge_index", "at"), [([[0, 5], [1, 2]], "[0, 1] = 5"), ([[0, 1], [-1, 2]], "[1, 0] = -1")]
    )
    def test_range(self, edge_index, at):
        with raises("from 0 to num_nodes - 1 = 4", f"edge_index{at}"):
            RaggedGraph.from_edge_index(torch.tensor(edge_index), 5)

    @pytest.mark.parametrize("num_nodes", [-1, 5.0, True, None, 2**31, "5"])
    def test_num_nodes(self, num_nodes):
        with raises("num_nodes must be an integer, 0 <= num_nodes < 2**31", repr(num_nodes)):
            RaggedGraph.from_edge_index(EDGES, num_nodes)

    @pytest.mark.parametrize(
        ("batch", "parts"),
        [
            (torch.zeros(4).long(), ("batch must be a tensor (N,) with N=5", "(4,)")),
            ([0] * 5, ("batch must be a tensor", "list")),
            (torch.zeros(5), ("batch must be int64", "torch.float32")),
            (torch.zeros(5, device="meta").long(), ("batch must be on edge_index's device cpu", "meta")),
            (torch.tensor([0, 0, 1, 0, 1]), ("batch must be in ascending order", "batch[3] = 0 after 1", "sort")),
            (torch.tensor([-1, 0, 0, 0, 0]), ("batch must hold graph numbers from 0", "-1 to 0")),
            (torch.tensor([0, 0, 1, 1, 1]), ("within its graph", "edge 0 from node 3 of graph 1 to node 1 of graph 0")),
        ],
    )
    def test_batch(self, batch, parts):
        with raises(*parts):
            RaggedGraph.from_edge_index(EDGES, 5, batch=batch)

    @pytest.mark.parametrize(
        ("edge_type", "types", "parts"),
        [
            (torch.zeros(5).long(), None, ("edge_type must be a tensor (E,) with E=6", "(5,)")),
            ([0] * 6, None, ("edge_type must be a tensor", "list")),
            (torch.zeros(6), None, ("edge_type must hold integers", "torch.float32")),
            (torch.zeros(6, device="meta").long(), None, ("edge_type must be on edge_index's device cpu", "meta")),
            (torch.tensor([0, 0, -1, 0, 0, 0]), None, ("between 0 and 255", "-1 to 0")),
            (torch.tensor([0, 0, 256, 0, 0, 0]), None, ("between 0 and 255", "0 to 256")),
            (torch.tensor([0, 0, 3, 0, 0, 0]), 3, ("between 0 and 2", "0 to 3")),
            (torch.zeros(6).long(), 0, ("types must be an integer, 1 <= types <= 256", "0")),
            (torch.zeros(6).long(), 257, ("types must be an integer", "257")),
            (torch.zeros(6).long(), True, ("types must be an integer", "True")),
            (None, 3, ("types=3 needs edge_type",)),
        ],
    )
    def test_edge_type(self, edge_type, types, parts):
        with raises(*parts):
            RaggedGraph.from_edge_index(EDGES, 5, edge_type=edge_type, types=types)
