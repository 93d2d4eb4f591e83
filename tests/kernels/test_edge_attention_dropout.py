"""Dropout in edge_attention: one mask on every backend, the same forward and backward, and a fair one."""

import pytest
import torch
from helpers.cases import DTYPES, assert_share, device_of, dtype_name, each_backend, each_kernel, on, same_bits
from helpers.edges import assert_close_to_definition, call, ragged_graph, run

from stgt_kernels import RaggedGraph, edge_attention
from stgt_kernels.ops.edge_attention.dropout import keep_mask
from stgt_kernels.ops.graph_attention import philox


def seed_after(manual_seed: int, backend: str) -> torch.Tensor:
    """The seed that edge_attention draws first after torch.manual_seed."""
    torch.manual_seed(manual_seed)
    return torch.randint(2**63 - 1, (1,), device=device_of(backend)).cpu()


@each_backend
@pytest.mark.parametrize("H", [1, 3, 8, 9, 20])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_mask_is_the_documented_one(backend, H, p):
    """The probabilities are read off with one-hot values, from a graph in which each row has one edge."""
    edges = 130
    graph = RaggedGraph.from_edge_index(torch.stack([torch.arange(edges), torch.randperm(edges)]), edges)
    q = torch.randn(edges, H, 4)
    v = torch.ones(edges, H, 4)
    keep, keep_prob = keep_mask(seed_after(5, backend), edges, H, p)
    q, v = on(backend, q, v)
    torch.manual_seed(5)
    out = edge_attention(q, q, v, graph.to(q.device), dropout_p=p, backend=backend).cpu()
    target = graph.to_edge_index()[1]
    torch.testing.assert_close(out[target, :, 0], keep / keep_prob)


@each_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("H", [2, 9])
def test_forward_and_backward_against_the_definition(H, dtype, backend):
    case = call(ragged_graph([10, 1, 30], 400, types=4), H, 20, dtype=dtype, edge_scale="types", dropout_p=0.3)
    seed = seed_after(0, backend)
    torch.manual_seed(0)
    actual = run(case, backend)
    assert_close_to_definition(case, backend, actual, seed)


@each_backend
def test_one_draw_from_the_default_generator_each_call(backend):
    case = call(ragged_graph([30], 200), 2, 8)
    q, k, v = on(backend, *(case.tensors[name] for name in "qkv"))
    graph = case.graph.to(q.device)

    def draw(p):
        return edge_attention(q, k, v, graph, dropout_p=p, backend=backend)

    torch.manual_seed(0)
    first, second = draw(0.2), draw(0.2)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    draw(0.0)  # takes nothing from the generator
    assert same_bits(draw(0.2), first) and same_bits(draw(0.2), second)


@each_kernel
def test_scores_know_no_dropout(backend):
    case = call(ragged_graph([30], 200), 2, 8)
    q, k, v = on(backend, *(case.tensors[name] for name in "qkv"))
    options = dict(graph=case.graph.to(q.device), return_scores=True, backend=backend)
    assert same_bits(edge_attention(q, k, v, **options)[1], edge_attention(q, k, v, dropout_p=0.5, **options)[1])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_the_mask_is_fair(p):
    """Shares, and pairs of neighbouring draws along each axis, are within 4.5 standard deviations of independence."""
    keep, keep_prob = keep_mask(torch.tensor([(1 << 62) + 12345]), 3000, 12, p)
    another, _ = keep_mask(torch.tensor([12345]), 3000, 12, p)
    assert keep_prob == philox.keep_prob(p)

    assert_share(keep, keep_prob)
    assert_share(keep & another, keep_prob**2)
    for axis in range(2):
        for step in (1, 2, 4, 8):
            size = keep.shape[axis] - step
            assert_share(keep.narrow(axis, 0, size) & keep.narrow(axis, step, size), keep_prob**2)
