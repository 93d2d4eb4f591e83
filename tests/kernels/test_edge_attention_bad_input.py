"""Every mistake of a caller of edge_attention raises before any work is done, and says what is wrong."""

import re

import pytest
import torch
from helpers.cases import BACKENDS
from helpers.edges import node_heads

from stgt_kernels import RaggedGraph, edge_attention

nan, inf = float("nan"), float("inf")
EDGES = torch.tensor([[0, 1, 2, 3], [1, 1, 2, 0]])
each_choice = pytest.mark.parametrize("backend", [*BACKENDS, "auto"])


def raises(*parts):
    """A ValueError whose message holds all these, in order."""
    return pytest.raises(ValueError, match=".*".join(map(re.escape, ("edge_attention", *parts))))


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Fails if a kernel, or the reference, is reached."""
    from stgt_kernels.ops.edge_attention import function, reference

    def reached(*_):
        raise AssertionError("work was done before the arguments were checked")

    monkeypatch.setattr(function, "implementation", reached)
    monkeypatch.setattr(reference, "edge_attention", reached)


def attend(backend, *, graph=None, typed=True, **changed):
    """A call that would work, but for what is changed: 5 nodes, 4 edges, 3 types, 2 heads of 8."""
    edge_type = torch.tensor([0, 2, 1, 0]) if typed else None
    graph = RaggedGraph.from_edge_index(EDGES, 5, edge_type=edge_type) if graph is None else graph
    tensors = {name: node_heads(5, 2, 8, seed=seed) for seed, name in enumerate("qkv")}
    return edge_attention(**{**tensors, "graph": graph, "backend": backend, **changed})


@each_choice
class TestNodes:
    @pytest.mark.parametrize("shape", [(5, 16), (1, 5, 2, 8), (5,)])
    def test_rank(self, backend, shape):
        with raises("q must be (N, H, D)", str(shape)):
            attend(backend, q=torch.randn(shape))

    @pytest.mark.parametrize("name", ["k", "v"])
    @pytest.mark.parametrize("shape", [(4, 2, 8), (5, 1, 8), (5, 2, 16), (5, 16)])
    def test_size(self, backend, name, shape):
        with raises(f"{name} must have q's shape (5, 2, 8)", str(shape)):
            attend(backend, **{name: torch.randn(shape)})

    @pytest.mark.parametrize("name", ["k", "v"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
    def test_dtype(self, backend, name, dtype):
        with raises(f"{name} must have q's dtype torch.float32", str(dtype)):
            attend(backend, **{name: node_heads(5, 2, 8).to(dtype)})

    @pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
    def test_dtype_of_all(self, backend, dtype):
        q = torch.zeros(5, 2, 8, dtype=dtype)
        with raises("q must be float32, float64, bfloat16 or float16", str(dtype)):
            attend(backend, q=q, k=q, v=q)

    @pytest.mark.parametrize("name", ["k", "v"])
    def test_device(self, backend, name):
        with raises(f"{name} must be on q's device cpu", "meta"):
            attend(backend, **{name: node_heads(5, 2, 8).to("meta")})

    @pytest.mark.parametrize("shape", [(5, 2, 0), (5, 2, 129), (5, 0, 8)])
    def test_heads(self, backend, shape):
        q = torch.randn(shape)
        with raises("H >= 1 and 1 <= D <= 128", str(shape)):
            attend(backend, q=q, k=q, v=q)

    def test_no_tensor(self, backend):
        with raises("q, k, v must be tensors and graph a RaggedGraph", "list"):
            attend(backend, v=[1.0])
        with raises("graph a RaggedGraph", "Tensor"):
            attend(backend, graph=EDGES)

    def test_graph_of_another_size(self, backend):
        with raises("q has N=5 nodes, but the graph has 6"):
            attend(backend, graph=RaggedGraph.from_edge_index(EDGES, 6))

    def test_graph_on_another_device(self, backend):
        with raises("the graph must be on q's device cpu", "meta"):
            attend(backend, graph=RaggedGraph.from_edge_index(EDGES, 5).to("meta"))


@each_choice
@pytest.mark.parametrize("name", ["edge_scale", "edge_bias"])
class TestValuesOfEdges:
    @pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 1), (2, 4)])
    def test_shape(self, backend, name, shape):
        with raises(f"{name} must be a tensor (E, H) or (types, H) with H=2", str(shape)):
            attend(backend, **{name: torch.randn(shape)})

    def test_no_tensor(self, backend, name):
        with raises(f"{name} must be a tensor", "float"):
            attend(backend, **{name: 1.0})

    @pytest.mark.parametrize("rows", [0, 2, 5])
    def test_rows(self, backend, name, rows):
        with raises(
            f"{name} must have a row for each of the graph's 4 edges, or for each of its 3 edge types", str(rows)
        ):
            attend(backend, **{name: torch.randn(rows, 2)})

    @pytest.mark.parametrize("rows", [0, 3])
    def test_rows_without_types(self, backend, name, rows):
        with raises(f"{name} must have a row for each of the graph's 4 edges, which have no types", str(rows)):
            attend(backend, typed=False, **{name: torch.randn(rows, 2)})

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
    def test_dtype(self, backend, name, dtype):
        with raises(f"with q in torch.float32, {name} must be in torch.float32", str(dtype)):
            attend(backend, **{name: torch.zeros(4, 2, dtype=dtype)})

    def test_another_half_precision(self, backend, name):
        half = {letter: node_heads(5, 2, 8).half() for letter in "qkv"}
        with raises(f"{name} must be in torch.float16 or torch.float32", "torch.bfloat16"):
            attend(backend, **half, **{name: torch.zeros(4, 2, dtype=torch.bfloat16)})

    def test_device(self, backend, name):
        with raises(f"{name} must be on q's device cpu", "meta"):
            attend(backend, **{name: torch.zeros(4, 2, device="meta")})


@each_choice
@pytest.mark.parametrize("name", ["q", "k", "v", "edge_scale", "edge_bias"])
def test_tensors_that_are_not_dense(backend, name):
    sparse = torch.zeros(4, 2) if name.startswith("edge") else torch.zeros(5, 2, 8)
    with raises(f"{name} must be a dense tensor", "torch.sparse_coo"):
        attend(backend, **{name: sparse.to_sparse()})


@each_choice
@pytest.mark.parametrize("value", ["False", None, 1])
def test_return_scores(backend, value):
    with raises("return_scores must be True or False", repr(value)):
        attend(backend, return_scores=value)


@each_choice
@pytest.mark.parametrize("scale", [nan, inf, -inf])
def test_scale(backend, scale):
    with raises("scale must be finite", str(scale)):
        attend(backend, scale=scale)


@each_choice
@pytest.mark.parametrize("clamp", [nan, inf, 0.0, -1.0])
def test_clamp(backend, clamp):
    with raises("clamp must be positive and finite, or None", str(clamp)):
        attend(backend, clamp=clamp)


@each_choice
@pytest.mark.parametrize("name", ["scale", "clamp", "dropout_p"])
def test_numbers_of_another_type(name, backend):
    with raises(f"{name} must be a number, got 'a'"):
        attend(backend, **{name: "a"})


@each_choice
@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, 1.5, nan, inf])
def test_dropout(backend, dropout_p):
    with raises("0 <= dropout_p < 1", str(dropout_p)):
        attend(backend, dropout_p=dropout_p)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of cuda, triton, cpu, reference or auto, got 'gpu'"):
        attend("gpu")


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_backend_that_cannot_run_these_tensors(backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with raises(f"backend='{backend}' cannot run"):
        attend(backend)
