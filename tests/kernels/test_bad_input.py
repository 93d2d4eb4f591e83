"""Every mistake of a caller raises before any work is done. The message names argument, value and expectation."""

import re

import numpy as np
import pytest
import torch
from helpers.cases import BACKENDS, heads

from stgt_kernels import (
    GraphAttention,
    SpatioTemporalGraph,
    dispatch,
    graph_attention,
    spatio_temporal_graph,
    token_similarity,
)

nan, inf = float("nan"), float("inf")


def raises(*parts):
    """Expects a ValueError whose message holds these parts in this order."""
    return pytest.raises(ValueError, match=".*".join(map(re.escape, parts)))


def a_graph(B, T, P):
    return SpatioTemporalGraph(torch.zeros(B, T, P, 3, P))


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Fails if a kernel, or the reference, is reached."""
    from stgt_kernels.ops.graph_attention import function as attention
    from stgt_kernels.ops.graph_attention import reference as attention_reference
    from stgt_kernels.ops.spatio_temporal_graph import function as graph
    from stgt_kernels.ops.spatio_temporal_graph import reference as graph_reference

    def reached(*_):
        raise AssertionError("work was done before the arguments were checked")

    for module in (attention, graph):
        monkeypatch.setattr(module, "implementation", reached)
    monkeypatch.setattr(attention_reference, "graph_attention", reached)
    monkeypatch.setattr(graph_reference, "spatio_temporal_graph", reached)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("op", [spatio_temporal_graph, token_similarity])
class TestGraph:
    def build(self, op, x, backend, threshold=0.5, **options):
        if op is spatio_temporal_graph:
            options["threshold"] = threshold
        return op(x, backend=backend, **options)

    @pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (1, 2, 3, 4, 5)])
    def test_rank(self, op, backend, shape):
        with raises(op.__name__, "x must be a tensor (B, T, P, C)", str(shape)):
            self.build(op, torch.randn(shape), backend)

    def test_no_tensor(self, op, backend):
        with raises(op.__name__, "x must be a tensor", "list"):
            self.build(op, [[1.0]], backend)

    @pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
    def test_empty(self, op, backend, shape):
        with raises(op.__name__, "x must not be empty", str(shape)):
            self.build(op, torch.randn(shape), backend)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
    def test_dtype(self, op, backend, dtype):
        with raises(op.__name__, "x must be float32, float64, bfloat16 or float16", str(dtype)):
            self.build(op, torch.zeros(1, 2, 3, 4).to(dtype), backend)

    @pytest.mark.parametrize("window", [-1, 1.0, True, np.bool_(1), np.int8(-1), torch.tensor(1), None, nan, inf, "1"])
    @pytest.mark.parametrize("frames", [1, 3])
    def test_window(self, op, backend, frames, window):
        with raises(op.__name__, "window must be an integer of at least 0", repr(window)):
            self.build(op, torch.randn(1, frames, 4, 5), backend, window=window)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("threshold", [1.001, -1.001, inf, -inf, nan, None, "high", 10**400, torch.zeros(2)])
def test_threshold(backend, threshold):
    with raises("spatio_temporal_graph", "-1 <= threshold <= 1", repr(threshold)):
        spatio_temporal_graph(torch.randn(1, 2, 3, 4), threshold=threshold, backend=backend)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
class TestAttention:
    """Each test changes one argument of a call that would work."""

    def attend(self, backend, *, q=None, k=None, v=None, graph=None, **options):
        tensors = [heads(2, 3, 40, 8) if t is None else t for t in (q, k, v)]
        graph = a_graph(2, 2, 20) if graph is None else graph
        return graph_attention(*tensors, graph, backend=backend, **options)

    @pytest.mark.parametrize("shape", [(3, 40, 8), (1, 2, 3, 40, 8), (40,)])
    def test_rank(self, backend, shape):
        with raises("graph_attention", "q must be (B, H, N, D)", str(shape)):
            self.attend(backend, q=torch.randn(shape))

    @pytest.mark.parametrize("name", ["k", "v"])
    @pytest.mark.parametrize("shape", [(1, 3, 40, 8), (2, 1, 40, 8), (2, 3, 39, 8), (2, 3, 40, 16), (3, 40, 8)])
    def test_size(self, backend, name, shape):
        with raises("graph_attention", f"{name} must have q's shape (2, 3, 40, 8)", str(shape)):
            self.attend(backend, **{name: torch.randn(shape)})

    @pytest.mark.parametrize("name", ["k", "v"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
    def test_dtype(self, backend, name, dtype):
        with raises("graph_attention", f"{name} must have q's dtype torch.float32", str(dtype)):
            self.attend(backend, **{name: heads(2, 3, 40, 8).to(dtype)})

    @pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
    def test_dtype_of_all(self, backend, dtype):
        q = torch.zeros(2, 3, 40, 8, dtype=dtype)
        with raises("graph_attention", "q must be float32, float64, bfloat16 or float16", str(dtype)):
            self.attend(backend, q=q, k=q, v=q)

    @pytest.mark.parametrize("name", ["k", "v"])
    def test_device(self, backend, name):
        with raises("graph_attention", f"{name} must be on q's device cpu", "meta"):
            self.attend(backend, **{name: heads(2, 3, 40, 8).to("meta")})

    def test_no_tensor(self, backend):
        with raises("graph_attention", "q, k, v must be tensors", "list"):
            self.attend(backend, v=[1.0])
        with raises("graph_attention", "graph a SpatioTemporalGraph", "(2, 40, 40) torch.float32 on cpu"):
            self.attend(backend, graph=torch.zeros(2, 40, 40))

    @pytest.mark.parametrize("D", [0, 129, 256])
    def test_head_dim(self, backend, D):
        q = torch.randn(2, 3, 40, D)
        with raises("graph_attention", "1 <= D <= 128", str((2, 3, 40, D))):
            self.attend(backend, q=q, k=q, v=q)

    @pytest.mark.parametrize(("B", "T", "P"), [(1, 2, 20), (3, 2, 20), (2, 3, 20), (2, 2, 19), (2, 1, 20)])
    def test_graph_of_other_sizes(self, backend, B, T, P):
        with raises("graph_attention", "B=2, N=40", f"B={B}", f"{T}*{P} = {T * P}"):
            self.attend(backend, graph=a_graph(B, T, P))

    @pytest.mark.parametrize(
        ("features", "weights"),
        [
            (torch.float32, torch.float16),
            (torch.float32, torch.float64),
            (torch.float64, torch.float32),
            (torch.bfloat16, torch.float64),
            (torch.bfloat16, torch.bfloat16),
        ],
    )
    def test_graph_of_another_dtype(self, backend, features, weights):
        q = heads(2, 3, 40, 8, dtype=features)
        with raises("graph_attention", f"q in {features}", "weights in", f"got {weights}"):
            self.attend(backend, q=q, k=q, v=q, graph=SpatioTemporalGraph(a_graph(2, 2, 20).weight.to(weights)))

    def test_graph_on_another_device(self, backend):
        with raises("graph_attention", "graph must be on q's device cpu", "meta"):
            self.attend(backend, graph=a_graph(2, 2, 20).to("meta"))

    @pytest.mark.parametrize("shape", [(2, 40, 40), (2, 2, 20, 2, 20), (2, 2, 20, 3, 19)])
    def test_weights_that_are_not_banded(self, backend, shape):
        graph = SpatioTemporalGraph(torch.zeros(shape))
        with raises("graph_attention", "graph.weight must be (B, T, P, 2*window+1, P)", str(shape)):
            self.attend(backend, graph=graph)

    @pytest.mark.parametrize("scale", [nan, inf, -inf])
    def test_scale(self, backend, scale):
        with raises("graph_attention", "scale must be finite", str(scale)):
            self.attend(backend, scale=scale)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_numbers_of_hundreds_of_digits(self, backend, sign):
        with raises("graph_attention", "scale must be finite", str(sign * inf)):
            self.attend(backend, scale=sign * 10**400)
        with raises("graph_attention", "0 <= dropout_p < 1"):
            self.attend(backend, dropout_p=sign * 10**400)

    @pytest.mark.parametrize("dropout_p", [None, "a", torch.ones(2)], ids=["none", "text", "tensor"])
    def test_dropout_of_another_type(self, backend, dropout_p):
        with raises("graph_attention", "dropout_p must be a number, got"):
            self.attend(backend, dropout_p=dropout_p)

    def test_a_scale_that_requires_gradients(self, backend):
        with raises("graph_attention", "scale gets no gradient, so it must not require one"):
            self.attend(backend, scale=torch.tensor(0.5, requires_grad=True))

    @pytest.mark.parametrize("dropout_p", [-0.1, 1.0, 1.5, nan, inf])
    def test_dropout(self, backend, dropout_p):
        with raises("graph_attention", "0 <= dropout_p < 1", str(dropout_p)):
            self.attend(backend, dropout_p=dropout_p)


def test_from_dense():
    weight = torch.ones(2, 12, 12)
    cases = [
        ((weight[0],), "weight must be a tensor (B, N, N)", "(12, 12)"),
        (([1.0],), "weight must be a tensor (B, N, N)", "list"),
        ((weight.to_sparse(),), "weight must be a dense tensor", "torch.sparse_coo"),
        ((weight[:, :5],), "weight must be a tensor (B, N, N)", "(2, 5, 12)"),
        ((weight.long(),), "floating-point", "torch.int64"),
        ((weight, 5), "frames must be an integer that divides the number of tokens N=12", "got 5"),
        ((weight, 2.0), "frames must be an integer", "got 2.0"),
        ((weight, 0), "frames must be an integer", "got 0"),
        ((weight, 3, 1.0), "window must be an integer of at least 0", "1.0"),
        ((weight, 3, -1), "window must be an integer of at least 0", "-1"),
        ((weight, 3, 1), "64 edges", "window=1"),
    ]
    for arguments, *parts in cases:
        with raises("from_dense", *parts):
            SpatioTemporalGraph.from_dense(*arguments)


@pytest.mark.parametrize(("width", "count"), [(10, 3), (8, 0), (8, -2), (0, 2), (-8, 2)])
def test_module_heads(width, count):
    message = "embed_dim must be a positive multiple of num_heads"
    with raises("GraphAttention", message, f"embed_dim={width}", f"num_heads={count}"):
        GraphAttention(width, count)


def test_module_head_dim():
    with raises("GraphAttention", "512 / 2 = 256 channels", "at most 128"):
        GraphAttention(512, 2)


@pytest.mark.parametrize("dropout", [None, "half"])
def test_module_dropout_of_another_type(dropout):
    with raises("GraphAttention", "dropout must be a number", repr(dropout)):
        GraphAttention(8, 2, dropout=dropout)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, nan])
def test_module_dropout(dropout):
    with raises("GraphAttention", "0 <= dropout < 1", str(dropout)):
        GraphAttention(8, 2, dropout=dropout)


def test_unknown_backend():
    with raises("backend must be one of cuda, triton, cpu, reference or auto", "'gpu'"):
        spatio_temporal_graph(torch.randn(1, 2, 3, 4), threshold=0.5, backend="gpu")
    with raises("backend must be one of", "'gpu'"):
        graph_attention(*[heads(2, 3, 40, 8)] * 3, a_graph(2, 2, 20), backend="gpu")
    with raises("backend must be one of", "'gpu'"), dispatch.use_backend("gpu"):
        pass
    with raises("backend must be one of", "'gpu'"):
        dispatch.why_not("gpu", "cpu")
    with raises("backend must be one of", "'gpu'"):
        GraphAttention(8, 2, backend="gpu")


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_backend_that_cannot_run_these_tensors(backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with raises("spatio_temporal_graph", f"backend='{backend}' cannot run"):
        spatio_temporal_graph(torch.randn(1, 2, 3, 4), threshold=0.5, backend=backend)
    with raises("graph_attention", f"backend='{backend}' cannot run"):
        graph_attention(*[heads(2, 3, 40, 8)] * 3, a_graph(2, 2, 20), backend=backend)


SPARSE, NESTED = torch.zeros(2, 3, 40, 8).to_sparse(), torch.nested.nested_tensor([torch.zeros(3, 40, 8)] * 2)
each_layout = pytest.mark.parametrize("tensor", [SPARSE, NESTED], ids=["sparse", "nested"])


@each_layout
@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_tensors_that_are_not_dense(backend, tensor):
    with raises("spatio_temporal_graph", "x must be a dense tensor"):
        spatio_temporal_graph(tensor, threshold=0.5, backend=backend)
    q = heads(2, 3, 40, 8)
    for number, name in enumerate("qkv"):
        operands = [tensor if i == number else q for i in range(3)]
        with raises("graph_attention", f"{name} must be a dense tensor"):
            graph_attention(*operands, a_graph(2, 2, 20), backend=backend)
    with raises("graph_attention", "graph.weight must be a dense tensor"):
        graph_attention(q, q, q, SpatioTemporalGraph(tensor), backend=backend)


@pytest.mark.parametrize("value", ["False", None, 1, torch.zeros(2)], ids=["text", "none", "number", "tensor"])
def test_flags(value):
    with raises("spatio_temporal_graph", "differentiable must be True or False", repr(value)):
        spatio_temporal_graph(torch.randn(1, 2, 3, 4), threshold=0.5, differentiable=value)
    with raises("graph_attention", "return_lse must be True or False", repr(value)):
        graph_attention(*[heads(2, 3, 40, 8)] * 3, a_graph(2, 2, 20), return_lse=value)
    with raises("GraphAttention", "bias must be True or False", repr(value)):
        GraphAttention(8, 2, bias=value)


@pytest.mark.parametrize("weight", [None, [[1.0]], "weights"])
def test_a_graph_of_no_tensor(weight):
    with raises("SpatioTemporalGraph", "weight must be a tensor", type(weight).__name__):
        SpatioTemporalGraph(weight)


@pytest.mark.parametrize("value", [None, "8", 8.0, torch.tensor(8), True], ids=repr)
def test_module_sizes_that_are_no_integers(value):
    with raises("GraphAttention", "both integers", f"embed_dim={value!r}"):
        GraphAttention(value, 2)
    with raises("GraphAttention", "both integers", f"num_heads={value!r}"):
        GraphAttention(8, value)


def test_a_module_of_wide_heads_is_refused_before_memory_is_taken_for_it():
    with raises("GraphAttention", "channels", "at most 128"):
        GraphAttention(10**400, 2)


@pytest.mark.parametrize(
    "x", [None, [1.0], torch.zeros(40, 8), torch.zeros(2, 40, 7)], ids=["none", "list", "rank", "width"]
)
def test_module_input(x):
    with raises("GraphAttention", "x must be a tensor (B, N, C) with C=8"):
        GraphAttention(8, 2)(x, a_graph(2, 2, 20))
