"""A row of graph_attention depends on its edges alone: rows without edges, skipped tiles, NaN and infinity."""

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    assert_same_bits,
    dtype_name,
    each_backend,
    each_kernel,
    heads,
    run_attention,
    same_bits,
    video_graph,
)

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.graph import live_tiles, storage_dtype

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
B, H, T, P, D = 2, 2, 3, 70, 24  # a frame has two tiles
N = T * P


def inputs(dtype):
    return [heads(B, H, N, D, dtype=dtype, seed=seed) for seed in range(3)]


def gradient(dtype):
    return heads(B, H, N, D, dtype=dtype, seed=7)


def random_graph(dtype, density=0.3, seed=0):
    """A graph whose weights may require gradients."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(B, N, N, generator=generator, dtype=torch.float64) * 0.9 + 0.1
    weight = weight.masked_fill(torch.rand(B, N, N, generator=generator) >= density, 0)
    return SpatioTemporalGraph.from_dense(weight.to(storage_dtype(dtype, differentiable=True)), frames=T)


@each_backend
@all_dtypes
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_rows_without_edges_are_zero(backend, dtype, dropout_p):
    dense = random_graph(dtype).to_dense()
    empty = [0, 5, 63, 64, 69, 70, N - 1]
    dense[0, empty] = 0
    dense[:, :, 9] = 0  # no row has an edge to this column
    dlse = torch.ones(B, H, N, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    graph = SpatioTemporalGraph.from_dense(dense, frames=T)
    result = run_attention(*inputs(dtype), graph, gradient(dtype), dlse, backend=backend, dropout_p=dropout_p)
    for name in ("out", "dq"):
        assert not result[name][0, :, empty].any(), name
        assert result[name][1, :, empty].any(), name
    for name in ("dk", "dv"):
        assert not result[name][:, :, 9].any(), name
    assert torch.isneginf(result["lse"][0, :, empty]).all()
    assert not torch.isnan(result["lse"]).any()
    dweight = SpatioTemporalGraph(result["dweight"]).to_dense()
    assert not dweight[dense == 0].any() and dweight[dense != 0].any()
    for name in ("out", "dq", "dk", "dv", "dweight"):
        assert result[name].isfinite().all(), name


@each_backend
@all_dtypes
def test_a_graph_without_any_edge(backend, dtype):
    weight = torch.zeros(B, N, N, dtype=storage_dtype(dtype, differentiable=True))
    graph = SpatioTemporalGraph.from_dense(weight, frames=T)
    result = run_attention(*inputs(dtype), graph, gradient(dtype), backend=backend)
    assert torch.isneginf(result.pop("lse")).all()
    for name, tensor in result.items():
        assert torch.equal(tensor, torch.zeros_like(tensor)), name


@each_backend
def test_one_node(backend):
    """A token whose one edge is to itself gives its value and its gradient. Its weight has no gradient."""
    q, k, v, dout = (heads(1, 2, 1, 88, seed=seed) for seed in range(4))
    graph = SpatioTemporalGraph.from_dense(torch.full((1, 1, 1), 0.5))
    result = run_attention(q, k, v, graph, dout, backend=backend)
    torch.testing.assert_close(result["out"], v)
    torch.testing.assert_close(result["dv"], dout)
    torch.testing.assert_close(result["lse"], (q * k).sum(-1) * 88**-0.5 * 0.5)
    assert_attention_errors(result, q, k, v, graph, dout)  # dq, dk and dweight are rounding errors around 0


@each_kernel
@all_dtypes
@pytest.mark.parametrize("seed", range(3))
def test_dead_tiles_are_skipped(dtype, seed, backend):
    """A tile that the map calls dead is not read, forward and backward, so edges put there change nothing."""
    graph = random_graph(dtype, density=0.9, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    live = torch.rand(graph.live.shape, generator=generator) < 0.3
    if backend in GPU_BACKENDS:  # a GPU processes all tiles of a block if one of them is live
        live = live[:, :, :1, :, :1].expand_as(live)
    tile = live.repeat_interleave(64, 2)[:, :, :P].repeat_interleave(64, 4)[..., :P]
    alive = SpatioTemporalGraph(graph.weight.masked_fill(~tile, 0))
    assert torch.equal(live_tiles(alive.weight), alive.live) and not alive.live.all()

    def run(weight):
        torch.manual_seed(0)
        graph = SpatioTemporalGraph._with_live(weight, alive.live)
        return run_attention(*inputs(dtype), graph, gradient(dtype), backend=backend, dropout_p=0.1 * seed)

    expected = run(alive.weight)
    assert_same_bits(run(graph.weight), expected)
    assert_same_bits(run(graph.weight.masked_fill(~tile, float("nan"))), expected)


@each_kernel
@all_dtypes
def test_live_tiles_without_edges_change_nothing(dtype, backend):
    graph = video_graph(B, T, P, threshold=0.9, dtype=dtype)
    everything = SpatioTemporalGraph._with_live(graph.weight, torch.ones_like(graph.live))
    q, k, v = inputs(dtype)
    expected = run_attention(q, k, v, graph, gradient(dtype), backend=backend)
    assert_same_bits(run_attention(q, k, v, everything, gradient(dtype), backend=backend), expected)


def reach(graph, sample, token):
    """The rows with an edge to the token, the columns of these rows' edges, and the columns of the token's edges."""
    edge = graph.to_dense()[sample] != 0
    rows = edge[:, token]
    return rows, edge[rows].any(0), edge[token]


@each_kernel
@all_dtypes
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("token", [0, 66, N - 1])
@pytest.mark.parametrize("operand", ["q", "k", "v", "dout"])
def test_a_bad_element_reaches_only_the_rows_that_see_it(operand, token, bad, dtype, backend):
    """One element of one head of one token is not finite. Results that no edge joins to it keep their bits.

    On a GPU a product with a zero probability lets it reach all tokens of that sample and head.
    """
    sample, head, channel = 1, 1, 3
    graph = random_graph(dtype, density=0.02)
    tensors = dict(zip(("q", "k", "v", "dout"), (*inputs(dtype), gradient(dtype)), strict=True))

    def run():
        return run_attention(tensors["q"], tensors["k"], tensors["v"], graph, tensors["dout"], backend=backend)

    clean = run()
    tensors[operand] = tensors[operand].clone()
    tensors[operand][sample, head, token, channel] = bad
    dirty = run()

    seen_by, their_columns, own_columns = reach(graph, sample, token)
    itself = torch.zeros(N, dtype=torch.bool)
    itself[token] = True
    nothing = torch.zeros_like(itself)
    reached = {  # the rows or columns of that head that may change
        "q": dict(out=itself, lse=itself, dq=itself, dk=own_columns, dv=own_columns, dweight=itself),
        "k": dict(out=seen_by, lse=seen_by, dq=seen_by, dk=their_columns, dv=their_columns, dweight=seen_by),
        "v": dict(out=seen_by, lse=nothing, dq=seen_by, dk=their_columns, dv=nothing, dweight=seen_by),
        "dout": dict(out=nothing, lse=nothing, dq=itself, dk=own_columns, dv=own_columns, dweight=itself),
    }[operand]
    for name, seen in reached.items():
        may_change = seen.any().expand(N) if backend in GPU_BACKENDS else seen
        rest = []
        for tensor in (clean[name].clone(), dirty[name].clone()):
            if name == "dweight":
                tensor[sample].view(N, -1)[may_change] = 0
            else:
                tensor[sample, head, may_change] = 0
            rest.append(tensor)
        assert same_bits(*rest), f"{name} changed where no edge leads"
    if operand == "v":  # other channels keep their bits, too
        channels = torch.arange(D) != channel
        assert same_bits(dirty["out"][..., channels], clean["out"][..., channels])
    if bad != bad:  # NaN reaches the rows that have an edge to it
        for name, must_change in reached.items():
            tensor = dirty[name][sample].view(N, -1) if name == "dweight" else dirty[name][sample, head].view(N, -1)
            assert tensor[must_change].isnan().any(-1).all(), f"{name} hides it"
