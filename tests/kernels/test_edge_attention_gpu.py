"""Tests of edge_attention that need a GPU: races, CUDA graphs, hidden waits, hubs, offsets beyond 2^31."""

import pytest
import torch
from helpers.cases import GPU_BACKENDS, assert_same_bits, dtype_name, same_bits
from helpers.edges import Call, assert_close_to_definition, call, ragged_graph, run
from helpers.streams import assert_nothing_waits, captured

from stgt_kernels import RaggedGraph, edge_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
each_backend = pytest.mark.parametrize("backend", GPU_BACKENDS)
all_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=dtype_name)


def hub(edges: int, nodes: int = 200) -> RaggedGraph:
    """Node 5 is the target of a third of the edges, and node 7 the source of another third."""
    edge_index = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0))
    edge_index[1, ::3], edge_index[0, 1::3] = 5, 7
    return RaggedGraph.from_edge_index(edge_index, nodes, edge_type=torch.arange(edges) % 6)


def hub_call(edges: int, dtype: torch.dtype, **options) -> Call:
    return call(hub(edges), 8, 32, dtype=dtype, edge_scale="types", clamp=5.0, **options)


@each_backend
@all_dtypes
@pytest.mark.parametrize("edges", [300, 5_000, 40_000])
def test_hubs(edges, dtype, backend):
    assert_close_to_definition(hub_call(edges, dtype), backend)


@each_backend
@all_dtypes
def test_50_repeats_give_the_same_bits(dtype, backend):
    case, results = hub_call(20_000, dtype, dropout_p=0.1), []
    for _ in range(50):
        torch.manual_seed(3)
        results.append(run(case, backend))
        assert_same_bits(results[-1], results[0])


def work_of(backend: str, dropout_p: float = 0.1):
    """A function that runs both passes, and q."""
    case = hub_call(5_000, torch.bfloat16)
    graph, table = case.graph.to("cuda"), case.tensors["edge_scale"].cuda().requires_grad_()
    q, k, v, dout = (t.cuda() for t in (*(case.tensors[name] for name in "qkv"), case.dout))

    def work() -> dict[str, torch.Tensor]:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        out = edge_attention(*leaves, graph, edge_scale=table, dropout_p=dropout_p, backend=backend)
        gradients = torch.autograd.grad(out, [*leaves, table], dout)
        return {"out": out.detach(), **dict(zip(("dq", "dk", "dv", "dtable"), gradients, strict=True))}

    return work, q


@each_backend
def test_nothing_waits_for_the_gpu(backend):
    work, _ = work_of(backend)
    assert_nothing_waits(work)


@each_backend
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
def test_cuda_graphs_capture_it(dropout_p, backend):
    """Replays read new inputs, and with dropout each draws a new mask."""
    work, q = work_of(backend, dropout_p)
    cuda_graph, results = captured(work)
    q.copy_(torch.randn_like(q))
    cuda_graph.replay()
    first = {name: tensor.clone() for name, tensor in results.items()}
    cuda_graph.replay()
    if dropout_p:
        assert not torch.equal(results["out"], first["out"])
        assert all(result.isfinite().all() for result in results.values())
    else:
        assert_same_bits(results, first)
        assert_same_bits(first, work())


@each_backend
def test_offsets_beyond_32_bits(backend):
    """q, k, v and the outputs have 2.1e9 elements each. The last nodes give the same among all as alone."""
    if torch.cuda.get_device_properties(0).total_memory < 70e9:
        pytest.skip("needs a GPU with 70 GB")
    N, H, D, last = 2**19 + 50, 32, 128, 50
    x = torch.zeros(N, H, D, dtype=torch.bfloat16, device="cuda")
    x[-last:] = torch.randn(last, H, D)
    assert x.numel() > 2**31
    alone = ragged_graph([last], 200).to("cuda")
    graph = RaggedGraph.from_edge_index(alone.to_edge_index() + N - last, N)

    def step(x, graph):
        leaf = x.detach().requires_grad_()
        out = edge_attention(leaf, leaf, leaf, graph, backend=backend)
        return out.detach()[-last:], torch.autograd.grad(out, leaf, x)[0][-last:]

    for actual, expected in zip(step(x, graph), step(x[-last:], alone), strict=True):
        assert same_bits(actual, expected)
