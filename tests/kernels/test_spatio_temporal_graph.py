"""spatio_temporal_graph and token_similarity: edges, weights, gradients, and tokens that are not finite."""

import pytest
import torch
from helpers.bounds import graph_term_size
from helpers.cases import DTYPES, GPU_BACKENDS, dtype_name, each_backend, each_kernel, on, same_bits
from helpers.poison import poisoned_memory

from stgt_kernels import spatio_temporal_graph, token_similarity
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.rounding import similarity_error
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def tokens(B, T, P, C, dtype=torch.float32, seed=0):
    """Tokens like those of video. Some are negated, so similarities have both signs."""
    x = video_like_tokens(B, T, P, C, seed=seed)
    x[:, :, 1::5] *= -1
    return x.to(dtype)


def build(x, threshold, window=1, *, backend, **options):
    """Builds a graph in poisoned memory, and checks what holds for every graph. threshold None: token_similarity."""
    x = on(backend, x)
    with poisoned_memory():
        if threshold is None:
            graph = token_similarity(x, window=window, backend=backend, **options)
        else:
            graph = spatio_temporal_graph(x, threshold=threshold, window=window, backend=backend, **options)
    B, T, P, _ = x.shape
    window = min(window, T - 1)
    assert graph.weight.shape == (B, T, P, 2 * window + 1, P) and graph.weight.is_contiguous()
    assert graph.weight.dtype == storage_dtype(x.dtype, options.get("differentiable", False))
    assert torch.equal(graph.live, live_tiles(graph.weight))
    if backend != "reference":  # each pair is computed once, so both weights have the same bits
        assert torch.equal(graph.to_dense(), graph.to_dense().mT)
    return graph.to("cpu")


@each_kernel
@all_dtypes
@pytest.mark.parametrize(
    ("P", "C"), [(321, 24), (256, 40), (196, 300), (65, 257), (64, 64), (50, 1), (49, 1408), (7, 88), (1, 5)]
)
def test_patches_and_widths(P, C, dtype, backend):
    x = tokens(2, 3, P, C, dtype)
    flips = assert_graph_close(build(x, 0.5, backend=backend), x, 0.5, 1)
    assert flips <= 2e-5 * 2 * 7 * P * P


@each_kernel
@all_dtypes
@pytest.mark.parametrize(
    ("T", "window"), [(1, 0), (1, 1), (1, 9), (2, 0), (2, 1), (5, 0), (5, 2), (4, 3), (4, 9), (7, 1)]
)
def test_frames_and_windows(T, window, dtype, backend, threads):
    threads(2)
    x = tokens(2, T, 50, 24, dtype)
    graph = build(x, 0.5, window, backend=backend)
    assert graph.window == min(window, T - 1)
    assert assert_graph_close(graph, x, 0.5, graph.window) <= 2


@each_kernel
@all_dtypes
@pytest.mark.parametrize("threshold", [None, -1, -0.5, -1e-3, 0, 1e-3, 0.3, 0.9, 1])
def test_thresholds(threshold, dtype, backend):
    x = tokens(2, 3, 50, 24, dtype)
    graph = build(x, threshold, backend=backend)
    flips = assert_graph_close(graph, x, threshold, 1)
    assert flips <= (300 if threshold == 1 else 2)  # at 1, each token's similarity with itself lies at the threshold
    weight = graph.weight[graph.weight != 0].double()
    assert (weight < -0.1).any() == (threshold is None or threshold <= -0.5)
    assert (weight >= (-1 if threshold is None else threshold) - 1e-3).all()


@each_kernel
@all_dtypes
def test_without_a_threshold_every_pair_of_the_band_is_an_edge(dtype, backend):
    x = tokens(1, 4, 20, 24, dtype)
    graph = build(x, None, backend=backend)
    assert float(graph.density()) > 0.99
    exact = torch.nn.functional.cosine_similarity(x.double()[:, 1, :, None], x.double()[:, 2, None], dim=-1)
    assert_close(graph.weight[:, 1, :, 2], exact.to(graph.weight.dtype), exact)
    assert same_bits(graph.weight, build(x, -1, backend=backend).weight)


@each_backend
@all_dtypes
def test_a_similarity_equal_to_the_threshold_is_an_edge(backend, dtype):
    """The norms are 1 and 2 and the product is 1, so nothing is rounded."""
    x = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]], dtype=dtype)[None, None]
    assert torch.equal(build(x, 0.5, backend=backend).degree(), torch.tensor([[2, 2]]))
    assert torch.equal(build(x, 0.5001, backend=backend).degree(), torch.tensor([[1, 1]]))
    assert torch.equal(build(x, 1, backend=backend).degree(), torch.tensor([[1, 1]]))


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_the_threshold_is_compared_before_rounding(backend, dtype):
    """Similarities that float16 cannot distinguish from the threshold are on the right side of it."""
    direction = torch.randn(2, 400)
    x = (direction[0] + torch.linspace(1.730, 1.733, 200)[:, None] * direction[1])[None, None].to(dtype)
    x[0, 0, 0] = direction[0].to(dtype)
    unit = torch.nn.functional.normalize(x[0, 0].double(), dim=-1)
    similarity = unit[1:] @ unit[0]
    threshold = similarity.median().item()
    assert ((similarity - threshold).abs() < 1e-4).sum() > 20
    kept = build(x, threshold, backend=backend).weight[0, 0, 0, 0, 1:] != 0
    certain = (similarity - threshold).abs() > similarity_error(x.shape[-1], dtype)
    assert torch.equal(kept[certain], (similarity >= threshold)[certain])
    after_rounding = similarity.to(torch.float16) >= torch.tensor(threshold).to(torch.float16)
    assert not torch.equal(kept[certain], after_rounding[certain])


@each_kernel
@all_dtypes
def test_scaling_a_token_by_a_power_of_two_changes_no_bit(dtype, backend):
    x = tokens(1, 2, 50, 24, dtype)
    scaled = x * torch.tensor([0.125, 1, 4], dtype=dtype).repeat(17)[:50, None]
    assert same_bits(build(scaled, 0.5, backend=backend).weight, build(x, 0.5, backend=backend).weight)


@each_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("size", [1e-5, 1e-11, 1e-13, 1e-20, 3e-22, 1e-30, 1e-37, 1e15, 1e19, 1e37])
def test_sizes_of_tokens(size, dtype, backend):
    """The squares of very small and very large tokens neither over- nor underflow."""
    x = (tokens(2, 2, 50, 24) * size).to(dtype)
    x[:, :, ::7] = tokens(2, 2, 50, 24, dtype)[:, :, ::7]
    graph = build(x, 0.1, backend=backend)
    assert graph.weight.abs().max() < 1.01
    assert_graph_close(graph, x, 0.1, 1)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("layout", ["frames inside", "channels first", "every other", "expanded", "sliced"])
def test_layouts_change_no_bit(layout, dtype, backend):
    x = tokens(2, 3, 50, 24, dtype)
    if layout == "expanded":
        x = x[:1, :1].expand(2, 3, 50, 24)
    strided = {
        "frames inside": lambda: x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3),
        "channels first": lambda: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "every other": lambda: x.repeat_interleave(2, 3)[..., ::2],
        "expanded": lambda: x,
        "sliced": lambda: torch.nn.functional.pad(x, (1, 2, 1, 0), value=float("nan"))[:, :, 1:, 1:-2],
    }[layout]()
    assert not strided.is_contiguous() and torch.equal(strided, x)
    assert same_bits(build(strided, 0.5, backend=backend).weight, build(x.contiguous(), 0.5, backend=backend).weight)


@each_backend
@all_dtypes
@pytest.mark.parametrize("threshold", [None, -1, 0, 0.5])
def test_a_zero_token_has_no_edges(threshold, dtype, backend):
    x = tokens(2, 2, 50, 24, dtype)
    clean = build(x, threshold, backend=backend).to_dense()
    x[0, 1, 7] = 0
    dense = build(x, threshold, backend=backend).to_dense()
    assert not dense[0, 57].any()
    clean[0, 57] = clean[0, :, 57] = 0
    assert_close(dense, clean, clean.double())


@each_backend
@all_dtypes
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("threshold", [None, -1, 0.5])
def test_a_bad_token_has_no_edges_and_reaches_no_other(threshold, bad, dtype, backend):
    x = tokens(2, 3, 70, 24, dtype)
    clean = build(x, threshold, backend=backend).to_dense()
    x[0, 1, 66, 5] = bad
    dense = build(x, threshold, backend=backend).to_dense()
    assert not dense[0, 136].any()
    clean[0, 136] = clean[0, :, 136] = 0
    if backend != "reference":
        assert same_bits(dense, clean)
    else:
        assert_close(dense, clean, clean.double())


@each_kernel
@all_dtypes
def test_repeats_and_threads_change_no_bit(dtype, backend, threads):
    x = on(backend, tokens(2, 4, 130, 40, dtype)).requires_grad_()
    results = []
    for count in (1, 1, 2, 3, 5):
        threads(count)
        graph = build(x, 0.5, window=2, differentiable=True, backend=backend)
        dweight = torch.linspace(-1, 1, graph.weight.numel()).view(graph.weight.shape).to(graph.weight.dtype)
        results.append((graph.weight, *torch.autograd.grad(graph.weight, x, dweight)))
    for weight, dx in results[1:]:
        assert same_bits(weight, results[0][0]) and same_bits(dx, results[0][1])


def gradient(x, threshold, window, dweight, backend):
    x = on(backend, x.detach()).requires_grad_()
    graph = build(x, threshold, window, backend=backend, differentiable=True)
    with poisoned_memory():
        return torch.autograd.grad(graph.weight, x, dweight.to(graph.weight.dtype))[0].cpu(), graph


@each_kernel
@all_dtypes
@pytest.mark.parametrize("threshold", [None, -0.3, 0.5])
@pytest.mark.parametrize(
    ("T", "P", "C", "window"), [(1, 50, 24, 0), (3, 70, 40, 1), (4, 33, 300, 3), (2, 1, 8, 1), (2, 10, 20000, 1)]
)
def test_gradients(T, P, C, window, threshold, dtype, backend):
    x = tokens(2, T, P, C, dtype)
    dweight = torch.randn(2, T, P, 2 * window + 1, P).to(storage_dtype(dtype))
    actual, graph = gradient(x, threshold, window, dweight, backend)
    plain, plain_graph = gradient(x, threshold, window, dweight, "reference")
    exact, exact_graph = gradient(x.double(), threshold, window, dweight, "reference")
    agreed = ((graph.weight != 0) == (exact_graph.weight != 0)) & ((plain_graph.weight != 0) == (graph.weight != 0))
    if not agreed.all():  # an edge at the threshold is left out everywhere
        dweight = dweight * agreed
        actual, plain, exact = (
            gradient(tokens_, threshold, window, dweight, name)[0]
            for tokens_, name in ((x, backend), (x, "reference"), (x.double(), "reference"))
        )
    assert actual.dtype == dtype
    assert_close(actual, plain, exact, "dx", terms=graph_term_size(x, exact_graph, dweight))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_gradcheck(backend, threshold):
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64).requires_grad_()

    def weights(x):
        if threshold is None:
            return token_similarity(x, differentiable=True, backend=backend).weight
        return spatio_temporal_graph(x, threshold=threshold, differentiable=True, backend=backend).weight

    assert torch.autograd.gradcheck(weights, x)


@each_backend
@all_dtypes
@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_gradients_beside_a_token_without_edges(bad, threshold, dtype, backend):
    """A token of zeros, or one that is not finite, gets no gradient and sends none. The other sample keeps its bits."""
    x = tokens(2, 2, 50, 24, dtype)
    dweight = torch.randn(2, 2, 50, 3, 50).to(storage_dtype(dtype))
    clean, _ = gradient(x, threshold, 1, dweight, backend)
    x[0, 1, 7] = bad
    dx, graph = gradient(x, threshold, 1, dweight, backend)
    assert not dx[0, 1, 7].any() and dx.isfinite().all()
    if backend != "reference":
        assert same_bits(dx[1], clean[1])
    zeroed = x.double()
    zeroed[0, 1, 7] = 0
    exact, exact_graph = gradient(zeroed, threshold, 1, dweight, "reference")
    assert torch.equal(graph.weight != 0, exact_graph.weight != 0)
    plain, _ = gradient(zeroed.to(dtype), threshold, 1, dweight, "reference")
    assert_close(dx, plain, exact, "dx", terms=graph_term_size(zeroed, exact_graph, dweight))


@each_backend
def test_the_graph_is_a_constant_unless_asked(backend):
    x = on(backend, tokens(1, 2, 50, 24)).requires_grad_()
    assert not build(x, 0.5, backend=backend).weight.requires_grad
    graph = build(x, 0.5, backend=backend, differentiable=True)
    assert graph.weight.requires_grad and not graph.live.requires_grad


@each_kernel
def test_double_backward_is_refused(backend):
    x = on(backend, tokens(1, 2, 50, 24)).requires_grad_()
    graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend=backend)
    (dx,) = torch.autograd.grad(graph.weight.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="kernels have no second derivatives"):
        dx.sum().backward()


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_autocast_is_a_cast_of_the_input(backend, dtype):
    x = on(backend, tokens(1, 2, 50, 24))
    expected = spatio_temporal_graph(x.to(dtype), threshold=0.5, backend=backend)
    with torch.autocast(x.device.type, dtype):
        graph = spatio_temporal_graph(x, threshold=0.5, backend=backend)
        assert graph.weight.dtype == torch.float16 and same_bits(graph.weight, expected.weight)
        if backend not in GPU_BACKENDS:
            wide = spatio_temporal_graph(x.double(), threshold=0.5, backend=backend)
            assert same_bits(wide.weight, build(x.double(), 0.5, backend=backend).weight)
