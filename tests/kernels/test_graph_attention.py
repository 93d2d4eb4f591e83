"""graph_attention: values and gradients, layouts, determinism."""

import pytest
import torch
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    LAYOUTS,
    assert_attention_close,
    assert_same_bits,
    dtype_name,
    each_backend,
    each_kernel,
    heads,
    on,
    run_attention,
    same_bits,
    video_graph,
    with_gradients,
)

from stgt_kernels import GraphAttention, SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.testing import assert_close, exact_attention, video_like_tokens

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def qkv(B, H, N, D, **options):
    return [heads(B, H, N, D, seed=seed, **options) for seed in range(3)]


@each_kernel
@all_dtypes
@pytest.mark.parametrize("D", [1, 2, 3, 8, 16, 31, 32, 40, 64, 80, 88, 96, 127, 128])
def test_head_dims(D, dtype, backend):
    assert_attention_close(*qkv(1, 2, 2 * 49, D, dtype=dtype), video_graph(1, 2, 49, dtype=dtype), backend=backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("P", [256, 196, 65, 64, 63, 50, 49, 7, 1])
def test_patches(P, dtype, backend):
    assert_attention_close(*qkv(1, 2, 2 * P, 88, dtype=dtype), video_graph(1, 2, P, dtype=dtype), backend=backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize(("T", "window"), [(1, 0), (2, 0), (3, 1), (5, 1), (5, 2), (4, 3)])
def test_frames_and_windows(T, window, dtype, backend, threads):
    threads(2)
    graph = video_graph(2, T, 50, window=window, dtype=dtype)
    assert graph.window == window
    assert_attention_close(*qkv(2, 3, T * 50, 24, dtype=dtype), graph, backend=backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("threshold", [-1.0, -0.2, 0.0, 0.8, 1.0])
def test_thresholds(threshold, dtype, backend):
    x = video_like_tokens(1, 2, 50, 16)
    x[:, :, ::3] = -x[:, :, ::3]  # some weights are negative
    x[:, 1] = x[:, 0]  # at threshold 1, a token has edges to itself and its copy only
    graph = spatio_temporal_graph(x.to(dtype), threshold=threshold, backend="reference")
    assert_attention_close(*qkv(1, 2, 100, 24, dtype=dtype), graph, backend=backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout, dtype, backend):
    B, H, T, P, D = 2, 3, 2, 65, 24
    graph = video_graph(B, T, P, dtype=dtype)
    dout = heads(B, H, T * P, D, dtype=dtype, seed=7)
    expected = run_attention(*qkv(B, H, T * P, D, dtype=dtype, layout="contiguous"), graph, dout, backend=backend)
    assert_same_bits(
        run_attention(*qkv(B, H, T * P, D, dtype=dtype, layout=layout), graph, dout, backend=backend), expected
    )


@each_kernel
@all_dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_gradient(layout, dtype, backend):
    dout = heads(2, 3, 130, 24, dtype=dtype, seed=7, layout=layout)
    assert_attention_close(*qkv(2, 3, 130, 24, dtype=dtype), video_graph(2, 2, 65, dtype=dtype), dout, backend=backend)


@each_kernel
@all_dtypes
def test_three_views_of_one_projection(dtype, backend):
    B, H, N, D = 2, 3, 100, 88
    packed = heads(B, 3 * H, N, D, dtype=dtype).transpose(1, 2).unflatten(2, (3, H))  # (B, N, 3, H, D)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    assert q.stride(-1) == 1 and not q.is_contiguous()
    assert_attention_close(q, k, v, video_graph(B, 2, 50, dtype=dtype), backend=backend)


@each_kernel
def test_expanded_operands_and_gradient(backend):
    graph = video_graph(2, 2, 50)
    one_query, one_head, one_sample = heads(2, 3, 1, 24), heads(2, 1, 100, 24), heads(1, 1, 100, 24)
    q, k, v = (t.expand(2, 3, 100, 24) for t in (one_query, one_head, one_sample))
    for dout in (torch.ones(()).expand(2, 3, 100, 24), torch.randn(24).expand(2, 3, 100, 24)):
        assert_attention_close(q, k, v, graph, dout, backend=backend)


@each_backend
@all_dtypes
def test_merging_the_heads_copies_nothing(backend, dtype):
    arguments = on(backend, *qkv(2, 3, 100, 24, dtype=dtype), video_graph(2, 2, 50, dtype=dtype))
    out = graph_attention(*arguments, backend=backend)
    assert out.dtype == dtype
    assert out.transpose(1, 2).reshape(2, 100, 72).data_ptr() == out.data_ptr()


def test_long_sums_are_as_exact_as_plain_pytorch():
    """The mean error over all elements is compared. One sum through all rows, without blocks, errs twice as much."""
    graph, (q, k, v, dout) = video_graph(1, 1, 1024), (heads(1, 2, 1024, 88, seed=s) for s in range(4))
    actual = run_attention(q, k, v, graph, dout, backend="cpu")
    plain = run_attention(q, k, v, graph, dout, backend="reference")
    wide = graph.to(torch.float64)
    exact = with_gradients(exact_attention, q.double(), k.double(), v.double(), wide, dout.double(), None)
    for name in ("out", "dv"):
        error, plain_error = ((x[name] - exact[name]).norm() for x in (actual, plain))
        assert error <= 1.3 * plain_error, name


@each_backend
@all_dtypes
def test_lse(backend, dtype):
    arguments = on(backend, *qkv(2, 3, 100, 24, dtype=dtype), video_graph(2, 2, 50, dtype=dtype))
    out, lse = graph_attention(*arguments, return_lse=True, backend=backend)
    assert lse.shape == (2, 3, 100)
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert same_bits(out, graph_attention(*arguments, backend=backend))


@each_kernel
@all_dtypes
def test_gradients_of_out_and_lse_together(dtype, backend):
    q, k, v = qkv(2, 3, 100, 24, dtype=dtype)
    dlse = torch.randn(2, 3, 100, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert_attention_close(q, k, v, video_graph(2, 2, 50, dtype=dtype), dlse=dlse, backend=backend)


@each_backend
def test_gradient_of_lse_alone(backend):
    dtype = torch.float32 if backend in GPU_BACKENDS else torch.float64
    graph, *tensors = on(backend, video_graph(1, 2, 20, dtype=dtype), *qkv(1, 2, 40, 8, dtype=dtype))
    q, k, v = (t.requires_grad_() for t in tensors)
    dq, dk, dv = torch.autograd.grad(
        graph_attention(q, k, v, graph, return_lse=True, backend=backend)[1].sum(), (q, k, v), allow_unused=True
    )
    weight = graph.to_dense()[:, None]
    score = (q.detach() @ k.detach().mT * 8**-0.5 * weight).masked_fill(weight == 0, float("-inf"))
    dscore = torch.softmax(score, -1) * weight * 8**-0.5
    torch.testing.assert_close(dq, dscore @ k.detach())
    torch.testing.assert_close(dk, dscore.mT @ q.detach())
    assert dv is None or not dv.any()


@each_kernel
@all_dtypes
@pytest.mark.parametrize("scale", [1.0, 0.25, -0.5, 0.0])
def test_scale(scale, dtype, backend):
    assert_attention_close(
        *qkv(1, 2, 100, 24, dtype=dtype), video_graph(1, 2, 50, dtype=dtype), scale=scale, backend=backend
    )


@each_kernel
@all_dtypes
def test_large_scores(dtype, backend):
    q, k, v = qkv(1, 2, 100, 24, dtype=dtype)
    assert_attention_close(2 * q, 2 * k, v, video_graph(1, 2, 50, dtype=dtype), backend=backend)


@each_kernel
@all_dtypes
def test_scores_beyond_the_range_of_exp_overflow_nothing(dtype, backend):
    q, k, v = qkv(1, 2, 100, 24, dtype=dtype)
    dout = heads(1, 2, 100, 24, dtype=dtype, seed=7)
    result = run_attention(100 * q, 30 * k, v, video_graph(1, 2, 50, dtype=dtype), dout, backend=backend)
    assert result["lse"].max() > 1e4
    for name, tensor in result.items():
        assert tensor.isfinite().all(), name


@each_kernel
@all_dtypes
def test_an_asymmetric_graph_without_frames(dtype, backend):
    N = 321  # a thread takes a block of 256 rows
    weight = torch.randn(1, N, N, dtype=torch.float64).masked_fill(torch.rand(1, N, N) < 0.7, 0)
    graph = SpatioTemporalGraph.from_dense(weight.to(dtype))
    assert_attention_close(*qkv(1, 2, N, 40, dtype=dtype), graph, backend=backend)


@each_kernel
@all_dtypes
def test_repeats_and_threads_change_no_bit(dtype, backend, threads):
    graph = video_graph(2, 3, 130, dtype=dtype)
    q, k, v, dout = (heads(2, 3, 390, 40, dtype=dtype, seed=seed) for seed in range(4))
    results = []
    for count in (1, 1, 2, 3, 5):
        threads(count)
        torch.manual_seed(0)
        results.append(run_attention(q, k, v, graph, dout, dropout_p=0.2, backend=backend))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_gradcheck(backend, dropout_p):
    graph = video_graph(1, 3, 3, threshold=0.3, dtype=torch.float64)

    def attend(q, k, v, weight):
        torch.manual_seed(0)  # every perturbation has the same mask
        return graph_attention(
            q, k, v, SpatioTemporalGraph(weight), dropout_p=dropout_p, return_lse=True, backend=backend
        )

    leaves = [t.requires_grad_() for t in qkv(1, 2, 9, 3, dtype=torch.float64)]
    # Only the weights of edges are varied, because a weight that leaves 0 would become an edge.
    weight = graph.weight[graph.weight != 0].clone().requires_grad_()

    def with_edges(q, k, v, edges):
        return attend(q, k, v, graph.weight.masked_scatter(graph.weight != 0, edges))

    assert torch.autograd.gradcheck(with_edges, (*leaves, weight))


@each_kernel
@pytest.mark.parametrize("needs", ["q", "k", "v", "weight"])
def test_gradient_of_one_argument(needs, backend):
    graph, q, k, v, dout = on(backend, video_graph(1, 2, 50), *qkv(1, 2, 100, 24), heads(1, 2, 100, 24, seed=7))
    all_of_them = run_attention(q, k, v, graph, dout, backend=backend)
    tensors = dict(q=q, k=k, v=v, weight=graph.weight)
    tensors[needs] = tensors[needs].detach().requires_grad_()
    out = graph_attention(*(tensors[name] for name in "qkv"), SpatioTemporalGraph(tensors["weight"]), backend=backend)
    out.backward(dout)
    assert same_bits(tensors[needs].grad.cpu(), all_of_them[f"d{needs}"])


@each_kernel
def test_double_backward_is_refused(backend):
    graph, *tensors = on(backend, video_graph(1, 2, 50), *qkv(1, 2, 100, 24))
    q, k, v = (t.requires_grad_() for t in tensors)
    out = graph_attention(q, k, v, graph, backend=backend)
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="kernels have no second derivatives"):
        dq.sum().backward()


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_autocast_is_a_cast_of_the_inputs(backend, dtype):
    graph, q, k, v = on(backend, video_graph(1, 2, 50), *qkv(1, 2, 100, 24))
    half = [t.to(dtype) for t in (q, k, v)]
    expected = graph_attention(*half, graph.to(torch.float16), backend=backend)
    with torch.autocast(q.device.type, dtype):
        wide = graph_attention(q, k, v, graph, backend=backend)  # autocast does not change weights
        assert same_bits(wide, graph_attention(*half, graph, backend=backend))
        assert same_bits(graph_attention(q, k.to(dtype), v, graph.to(torch.float16), backend=backend), expected)
        if backend not in GPU_BACKENDS:
            wide = [t.double() for t in (q, k, v)]
            assert graph_attention(*wide, graph.to(torch.float64), backend=backend).dtype == torch.float64


@each_backend
def test_module(backend):
    x, graph, dy = on(backend, torch.randn(2, 100, 48), video_graph(2, 2, 50), torch.randn(2, 100, 48))
    module = GraphAttention(48, 3, dropout=0.5, backend=backend).to(x.device)
    x.requires_grad_()
    assert not torch.equal(module(x, graph), module(x, graph))
    module.eval()
    q, k, v = (proj(x).view(2, 100, 3, 16).transpose(1, 2) for proj in (module.q_proj, module.k_proj, module.v_proj))
    out = graph_attention(q, k, v, graph, backend="reference")
    expected = module.out_proj(out.transpose(1, 2).reshape(2, 100, 48))
    torch.testing.assert_close(module(x, graph), expected)
    parameters = [x, *module.parameters()]
    grads = torch.autograd.grad(module(x, graph), parameters, dy)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, parameters, dy), rtol=1e-4, atol=1e-4)


@each_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_module_under_autocast(dtype, backend):
    x = on(backend, video_like_tokens(1, 2, 50, 48))
    module = GraphAttention(48, 3, backend=backend).to(x.device)
    with torch.autocast(x.device.type, dtype):
        graph = spatio_temporal_graph(x, threshold=0.5, backend=backend)
        y = module(x.flatten(1, 2), graph)
    assert graph.weight.dtype == torch.float16 and y.dtype == dtype
    y.float().square().mean().backward()
    module.backend = "reference"
    with torch.autocast(x.device.type, dtype):
        plain = module(x.flatten(1, 2), graph)
    exact = module.double()(x.flatten(1, 2).double(), graph.to(torch.float64))
    assert_close(y, plain, exact, "y")
