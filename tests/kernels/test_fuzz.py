"""Shapes, dtypes, layouts, windows, thresholds and dropout together, as nobody would think of combining them."""

import torch
from cases import DTYPES, LAYOUTS, assert_close, heads, run_attention, with_gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poison import poisoned_memory

from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph, token_similarity
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.ops.graph_attention.reference import graph_attention_dense
from stgt_kernels.testing import assert_graph_close, video_like_tokens

GRADIENTS = ("dq", "dk", "dv", "dweight")
fixed_budget = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def clips(draw):
    """B, T, P and the window: many short frames, or two that cross the kernels' tiles of 64."""
    if draw(st.booleans()):
        T, P = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    else:
        T, P = draw(st.integers(1, 2)), draw(st.sampled_from([31, 49, 63, 64, 65, 127, 129]))
    return draw(st.integers(1, 2)), T, P, draw(st.integers(0, T - 1))


@st.composite
def graphs(draw, dtype):
    """Any graph at all: density from none to full, weights of both signs, a map that may call empty tiles live."""
    B, T, P, window = draw(clips())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = 2 * torch.rand(B, T, P, 2 * window + 1, P, generator=generator, dtype=torch.float64) - 1
    density = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    weight.masked_fill_(torch.rand(weight.shape, generator=generator) >= density, 0)
    for t in range(T):
        for o in range(2 * window + 1):
            if not 0 <= t + o - window < T:
                weight[:, t, :, o] = 0
    weight = weight.to(storage_dtype(dtype))
    live = live_tiles(weight)
    return SpatioTemporalGraph(weight, torch.ones_like(live) if draw(st.booleans()) else live)


@fixed_budget
@given(data=st.data())
def test_graph_attention(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    graph = data.draw(graphs(dtype))
    B, N = graph.batch, graph.nodes
    H, D = data.draw(st.integers(1, 3)), data.draw(st.one_of(st.integers(1, 128), st.sampled_from([64, 88, 128])))
    layouts = st.sampled_from(LAYOUTS)
    q, k, v, dout = (heads(B, H, N, D, dtype=dtype, layout=data.draw(layouts), seed=seed) for seed in range(4))
    scale = data.draw(st.sampled_from([D**-0.5, 1 / D, -(D**-0.5)]))
    p = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    dlse = torch.ones(B, H, N, dtype=torch.promote_types(dtype, torch.float32)) if data.draw(st.booleans()) else None

    torch.manual_seed(1)
    keep, keep_prob = philox.keep_mask(torch.randint(2**63 - 1, (1,)), B, H, graph.frames, graph.patches, p)

    def exact(q, k, v, graph):
        return graph_attention_dense(q, k, v, graph.to_dense(), scale=scale, keep=keep, keep_prob=keep_prob)

    wide = SpatioTemporalGraph(graph.weight.double(), graph.live)
    expected = with_gradients(
        exact, q.double(), k.double(), v.double(), wide, dout.double(), None if dlse is None else dlse.double()
    )
    torch.manual_seed(1)
    plain = run_attention(q, k, v, graph, dout, dlse, "reference", scale=scale, dropout_p=p)
    torch.manual_seed(1)
    actual = run_attention(q, k, v, graph, dout, dlse, "cpu", scale=scale, dropout_p=p)
    for name in ("out", "lse"):
        assert_close(actual[name], plain[name], expected[name], name)
    # The gradients in one: where no row has two edges, dq, dk and dweight are differences of equals and say nothing.
    assert_close(
        *(torch.cat([r[name].flatten() for name in GRADIENTS]) for r in (actual, plain, expected)), "gradients"
    )


@fixed_budget
@given(data=st.data())
def test_spatio_temporal_graph(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    B, T, P, window = data.draw(clips())
    C = data.draw(st.one_of(st.integers(1, 70), st.sampled_from([255, 256, 257, 600])))
    threshold = data.draw(st.one_of(st.none(), st.floats(-1, 1, width=16)))
    x = video_like_tokens(B, T, P, C, seed=data.draw(st.integers(0, 1000)))
    x[:, :, data.draw(st.integers(1, 6)) :: 3] *= data.draw(st.sampled_from([-1.0, 0.0, 0.01, 100.0]))
    x = x.to(dtype)
    if data.draw(st.booleans()):
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x.requires_grad_()
    with poisoned_memory():
        if threshold is None:
            graph = token_similarity(x, window=window, differentiable=True, backend="cpu")
        else:
            graph = spatio_temporal_graph(x, threshold=threshold, window=window, differentiable=True, backend="cpu")
        (dx,) = torch.autograd.grad(graph.weight, x, torch.ones_like(graph.weight))
    in_doubt = assert_graph_close(graph, x.detach(), threshold, window)
    assert torch.equal(graph.live, live_tiles(graph.weight)) and torch.equal(graph.to_dense(), graph.to_dense().mT)
    assert dx.shape == x.shape and dx.isfinite().all()
    if in_doubt == 0:
        edges = graph.weight.detach() != 0

        def gradient(x):
            """dx, and beside it the size of the terms of which dx is the difference, for their rounding to count by."""
            x = x.detach().requires_grad_()
            similarity = token_similarity(x, window=window, differentiable=True, backend="reference").weight
            (dx,) = torch.autograd.grad(similarity, x, edges.to(similarity.dtype))
            return torch.cat([dx.flatten(), terms.to(x.dtype)])

        terms = 2 * (edges.sum((3, 4)) / x.detach().double().norm(dim=-1).clamp(min=1e-6)).amax().view(1)
        assert_close(torch.cat([dx.flatten(), terms.to(dtype)]), gradient(x), gradient(x.double()), "dx")
