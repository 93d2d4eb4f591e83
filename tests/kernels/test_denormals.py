"""On a CPU, attention gives 0 in place of denormal numbers, which would slow down all arithmetic that reads them."""

import platform

import pytest
import torch
from torch import Tensor

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels import RaggedGraph, SpatioTemporalGraph, edge_attention, graph_attention, spatio_temporal_graph

SIZE, D = 96, 16
TINY = torch.finfo(torch.float32).tiny
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors are not slowed down by such numbers")


def attended(op: str, backend: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Results and gradients of attention in which every second key has a probability of about exp(-90)."""
    torch.manual_seed(0)
    scores = torch.where(torch.arange(SIZE) % 2 == 0, 0.0, torch.linspace(-80, -100, SIZE))
    q, k, v = torch.zeros(1, 1, SIZE, D), torch.zeros(1, 1, SIZE, D), torch.randn(1, 1, SIZE, D)
    q[..., 0], k[..., 0] = 1.0, scores
    if op == "graph_attention":
        graph = spatio_temporal_graph(torch.ones(1, 1, SIZE, 4, dtype=dtype), threshold=0.5).unweighted()
    else:
        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (q, k, v))
        graph = RaggedGraph.from_edge_index(torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)).T, SIZE)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (q, k, v)]
    function = graph_attention if op == "graph_attention" else edge_attention
    out = function(*leaves, graph, scale=1.0, backend=backend)
    gradients = torch.autograd.grad(out, leaves, torch.randn(out.shape).to(dtype))
    return dict(zip(("out", "dq", "dk", "dv"), (out.detach(), *gradients), strict=True))


def denormals(x: Tensor) -> int:
    """How many numbers would be denormal in float32."""
    return int(((x != 0) & (x.abs() < TINY)).sum())


@x86
@pytest.mark.parametrize("op", ["graph_attention", "edge_attention"])
def test_there_is_no_denormal_result(op):
    found, exact = attended(op, "cpu"), attended(op, "reference", torch.float64)
    assert {name: denormals(x) for name, x in found.items()} == dict.fromkeys(found, 0)
    assert denormals(exact["dv"]) > SIZE and denormals(exact["dk"]) > SIZE // 4
    for name, expected in exact.items():
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)


@x86
def test_other_arithmetic_of_the_process_has_denormal_results_afterwards():
    attended("graph_attention", "cpu")
    halves = torch.full((10**6,), TINY) * 0.5  # enough numbers for all threads
    assert denormals(halves) == len(halves)


def tiny_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, SpatioTemporalGraph, RaggedGraph]:
    """x, q, k, v and two graphs. Every second token, all queries and half of the weights are denormal numbers."""
    generator = torch.Generator().manual_seed(0)
    x, q, k, v = (torch.randn(2, 8 * 64, 2, 16, generator=generator).transpose(1, 2) for _ in range(4))
    x = x.reshape(2, 8, 64, 32)
    x[:, :, ::2] *= TINY / 100
    weight = torch.rand(2, 8, 64, 3, 64, generator=generator)
    weight[..., ::2] *= TINY / 100
    edges = torch.randint(8 * 64, (2, 20_000), generator=generator)
    return x, q * (TINY / 100), k * 1e37, v, SpatioTemporalGraph(weight), RaggedGraph.from_edge_index(edges, 8 * 64)


def results(x, q, k, v, graph, ragged) -> dict[str, Tensor]:
    queries, keys, values = (t[0].transpose(0, 1) for t in (q, k, v))
    return {
        "spatio_temporal_graph": spatio_temporal_graph(x, threshold=0.1, backend="cpu").weight,
        "graph_attention": graph_attention(q, k, v, graph, scale=500.0, backend="cpu"),
        "edge_attention": edge_attention(queries, keys, values, ragged, scale=500.0, backend="cpu"),
    }


@pytest.fixture
def flush_denormal():
    """Whether PyTorch takes denormal numbers of the calling thread for 0. A processor may lack this."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot take denormal numbers for 0")
    torch.set_flush_denormal(False)
    yield torch.set_flush_denormal
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("count", [1, 2])
def test_the_callers_treatment_of_denormal_numbers_changes_nothing(flush_denormal, threads, count):
    """torch.set_flush_denormal is for one thread, so the part of the work that this one computes would differ."""
    threads(count)
    inputs = tiny_inputs()
    expected = results(*inputs)
    assert expected["spatio_temporal_graph"][:, :, 0].count_nonzero() > 100
    flush_denormal(True)
    found = results(*inputs)
    halved = torch.tensor(TINY) / 2
    flush_denormal(False)
    assert halved == 0  # the calling thread goes on as before
    assert {name: torch.equal(found[name], x) for name, x in expected.items()} == dict.fromkeys(expected, True)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_denormal_weight_is_an_edge(backend):
    graph = spatio_temporal_graph(torch.ones(1, 1, 4, 4), threshold=0.5)
    graph = type(graph)(graph.weight * (TINY / 4))
    v = torch.eye(4)[None, None]
    out = graph_attention(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), v, graph, backend=backend)
    torch.testing.assert_close(out, torch.full((1, 1, 4, 4), 0.25))


def test_a_denormal_similarity_is_an_edge():
    x = torch.zeros(1, 1, 2, 8)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1.0
    x[0, 0, 1, 0] = TINY / 8
    for backend in ("cpu", "reference"):
        weight = spatio_temporal_graph(x, threshold=0.0, backend=backend).weight.view(2, 2)
        assert torch.equal(weight, torch.tensor([[1.0, TINY / 8], [TINY / 8, 1.0]])), backend


def test_linear_layers_give_denormal_numbers_as_pytorch_does():
    x, weight, dout = torch.full((64, 32), TINY), torch.eye(32) / 4, torch.full((64, 32), 0.25)
    assert torch.equal(torch.ops.stgt_kernels.linear_fwd(x, weight, None), x / 4)
    dx, dweight, dbias = torch.ops.stgt_kernels.linear_bwd(dout * TINY, x / TINY, weight)
    assert torch.equal(dx, dout * TINY / 4)
    assert torch.equal(dweight, torch.full((32, 32), 64 * TINY / 4)) and torch.equal(dbias, dweight[0])
