"""Weights that require gradients are float32, whatever the dtype of q, k and v and of the features."""

import pytest
import torch
from helpers.cases import BACKENDS, assert_attention_close, dtype_name, each_backend, heads, on, same_bits, video_graph

from stgt_kernels import GraphAttention, SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.testing import video_like_tokens

HALF = (torch.bfloat16, torch.float16)
each_half = pytest.mark.parametrize("dtype", HALF, ids=dtype_name)


@each_backend
@each_half
@pytest.mark.parametrize(("P", "D"), [(50, 88), (130, 24)])
def test_attention_of_half_precision_with_float32_weights(P, D, dtype, backend):
    graph = video_graph(2, 2, P, dtype=dtype, differentiable=True)
    q, k, v = (heads(2, 2, 2 * P, D, dtype=dtype, seed=seed) for seed in range(3))
    result = assert_attention_close(q, k, v, graph, dlse=torch.ones(2, 2, 2 * P), backend=backend)
    assert result["dweight"].dtype == torch.float32


@each_backend
@each_half
def test_weights_beyond_float16_are_used_as_they_are(dtype, backend):
    weight = torch.zeros(1, 3, 3)
    weight[0, 0] = torch.tensor([1e5, 2e5, 0])
    weight[0, 1] = torch.tensor([1e-8, 0, 0])
    q, v = torch.full((1, 1, 3, 1), 2.0**-9).to(dtype), torch.tensor([1.0, 3, 5]).view(1, 1, 3, 1).to(dtype)
    graph, q, v = on(backend, SpatioTemporalGraph.from_dense(weight), q, v)
    out = graph_attention(q, q, v, graph, scale=1.0, backend=backend)
    share = torch.softmax(torch.tensor([1e5, 2e5]) * 2.0**-18, 0)
    # Each probability is rounded to the dtype, and the output as well, by at most half an eps each.
    found, rounding = out[0, 0, 0, 0].float().cpu(), torch.finfo(dtype).eps
    torch.testing.assert_close(found, share[0] + 3 * share[1], rtol=rounding, atol=0)
    assert out[0, 0, 1, 0] == 1 and out[0, 0, 2, 0] == 0


def token_gradient(x, dtype, scale, backend, autocast=False):
    """dx of attention along a differentiable graph of x. The loss is multiplied by scale."""
    x = x.detach().to(torch.float32 if autocast else dtype).requires_grad_()
    q, k, v, dout = (heads(2, 2, 2 * 60, 24, dtype=x.dtype, seed=seed) for seed in range(4))
    x, q, k, v, dout = on(backend, x, q, k, v, dout)
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, dtype, enabled=autocast):
        graph = spatio_temporal_graph(x, threshold=0.3, differentiable=True, backend=backend)
        out = graph_attention(q, k, v, graph, backend=backend)
    assert graph.weight.dtype == torch.float32
    dweight, dx = torch.autograd.grad(out, [graph.weight, x], dout.to(out.dtype) * scale)
    assert dweight.dtype == torch.float32
    if dtype == torch.bfloat16 or scale == 1:
        assert (dweight != 0)[graph.weight != 0].float().mean() > 0.99
    return dx.double().cpu()


@each_backend
@each_half
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_of_tokens_agree_with_float32(autocast, scale, dtype, backend):
    """The loss is scaled. Tokens are small, so float16 can hold their gradients."""
    if dtype == torch.float16 and scale < 1e-3:
        scale = 1e-3 * scale / 1e-5  # dout itself would be denormal in float16
    x = video_like_tokens(2, 2, 60, 32).to(dtype).float() / 64
    exact = token_gradient(x, torch.float32, 1.0, "reference")
    actual = token_gradient(x, dtype, scale, backend, autocast)
    assert torch.cosine_similarity(exact.flatten(), actual.flatten(), 0) >= 0.999


@each_backend
@each_half
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e3])
def test_small_gradients_of_weights_reach_half_precision_tokens(size, dtype, backend):
    """The gradients of weights are below float16's smallest number, and those of tokens are above it."""
    x = (video_like_tokens(1, 2, 60, 32) * max(size, 1e-6)).to(dtype)
    exact_x = x.float().requires_grad_()
    exact = spatio_temporal_graph(exact_x, threshold=0.3, differentiable=True, backend="reference").weight
    dweight = size * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(exact, exact_x, dweight)
    x, dweight = on(backend, x, dweight)
    x.requires_grad_()
    weight = spatio_temporal_graph(x, threshold=0.3, differentiable=True, backend=backend).weight
    (dx,) = torch.autograd.grad(weight, x, dweight)
    if dtype == torch.float16:
        expected = expected.half().float()  # rounded as float16 rounds it
    assert torch.cosine_similarity(dx.float().cpu().flatten(), expected.flatten(), 0) >= 0.999


@each_backend
@each_half
def test_float16_weights_that_require_gradients_are_refused(dtype, backend):
    graph, q = on(backend, video_graph(1, 2, 20, dtype=dtype), heads(1, 2, 40, 8, dtype=dtype))
    graph = SpatioTemporalGraph(graph.weight.requires_grad_())
    with pytest.raises(ValueError, match="weights that require gradients must be float32, got torch.float16"):
        graph_attention(q, q, q, graph, backend=backend)
    with torch.no_grad():
        graph_attention(q, q, q, graph, backend=backend)


@each_half
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_modules_take_both_kinds_of_graphs(dtype, backend):
    x, exact_module = on(backend, video_like_tokens(1, 2, 20, 48)), GraphAttention(48, 3, backend=backend)
    exact_module.to(x.device)
    exact = exact_module(x.flatten(1, 2), spatio_temporal_graph(x, threshold=0.5, backend=backend))
    module = exact_module.to(dtype)
    x = x.to(dtype)
    for differentiable in (False, True):
        graph = spatio_temporal_graph(x, threshold=0.5, differentiable=differentiable, backend=backend)
        out = module(x.flatten(1, 2), graph)
        assert out.dtype == dtype
        assert torch.cosine_similarity(out.float().flatten(), exact.flatten(), 0) > 0.999


@each_half
def test_module_says_what_to_do_with_tokens_of_another_dtype(dtype):
    module, graph = GraphAttention(16, 2).to(dtype), video_graph(1, 2, 20)
    with pytest.raises(ValueError, match=f"x is torch.float32, its parameters are {dtype}.*use autocast"):
        module(torch.randn(1, 40, 16), graph)


@each_half
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_autocast_keeps_a_float32_graph(dtype, backend):
    graph = video_graph(1, 2, 50)
    q, k, v = (heads(1, 2, 100, 24, seed=seed) for seed in range(3))
    expected = graph_attention(*(t.to(dtype) for t in (q, k, v)), graph, backend=backend)
    with torch.autocast("cpu", dtype):
        assert same_bits(graph_attention(q, k, v, graph, backend=backend), expected)
