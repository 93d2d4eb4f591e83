"""The Triton kernels of graphs and their gradients against the definition, on CPU tensors, in Triton's interpreter.

Run as ``TRITON_INTERPRET=1 pytest -m triton_interpret``. The interpreter replaces the compiler for the whole process.
It computes bfloat16 wrongly, so float16 is tested in its place.
"""

import pytest
import torch
from helpers.bounds import graph_term_size
from helpers.cases import dtype_name, same_bits
from helpers.poison import poisoned_memory

from stgt_kernels import spatio_temporal_graph, token_similarity
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.rounding import similarity_error
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

pytestmark = [
    pytest.mark.triton_interpret,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # exponents where there is no edge
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # NaN given on purpose
]
DTYPES = (torch.float32, torch.float16)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def tokens(B, T, P, C, dtype):
    x = video_like_tokens(B, T, P, C)
    x[:, :, 1::5] *= -1
    return x.to(dtype)


def build(x, threshold, window=1, **options):
    """Builds a graph in poisoned memory, and checks what holds for every graph."""
    with poisoned_memory():
        if threshold is None:
            graph = token_similarity(x, window=window, backend="triton", **options)
        else:
            graph = spatio_temporal_graph(x, threshold=threshold, window=window, backend="triton", **options)
    B, T, P, _ = x.shape
    assert graph.weight.shape == (B, T, P, 2 * min(window, T - 1) + 1, P) and graph.weight.is_contiguous()
    assert graph.weight.dtype == storage_dtype(x.dtype, options.get("differentiable", False))
    assert torch.equal(graph.live, live_tiles(graph.weight))
    assert torch.equal(graph.to_dense(), graph.to_dense().mT)
    return graph


SIZES = [(1, 1, 1, 5), (1, 1, 256, 8), (1, 2, 130, 40), (1, 3, 65, 33), (1, 4, 49, 130), (2, 5, 7, 1)]


@both_dtypes
@pytest.mark.parametrize(("B", "T", "P", "C"), SIZES)
def test_graphs(B, T, P, C, dtype):
    x = tokens(B, T, P, C, dtype)
    assert assert_graph_close(build(x, 0.5), x, 0.5, min(1, T - 1)) <= 2e-5 * B * T * 3 * P * P


@both_dtypes
@pytest.mark.parametrize(("T", "window"), [(3, 0), (4, 2), (3, 2)])
@pytest.mark.parametrize("threshold", [None, -1, -0.5, 0, 0.9])
def test_windows_and_thresholds(T, window, threshold, dtype):
    x = tokens(1, T, 21, 24, dtype)
    assert assert_graph_close(build(x, threshold, window), x, threshold, window) <= 2


@both_dtypes
def test_a_threshold_of_one_keeps_copies(dtype):
    x = tokens(1, 2, 20, 16, dtype)
    x[:, 1] = x[:, 0]
    weight = build(x, 1.0).to_dense()
    similar = torch.eye(20, dtype=torch.bool).repeat(2, 2)
    assert torch.equal(weight[0] != 0, similar)


def test_the_threshold_is_compared_before_rounding():
    direction = torch.randn(2, 400)
    x = (direction[0] + torch.linspace(1.730, 1.733, 200)[:, None] * direction[1])[None, None].half()
    x[0, 0, 0] = direction[0].half()
    unit = torch.nn.functional.normalize(x[0, 0].double(), dim=-1)
    similarity = unit[1:] @ unit[0]
    threshold = similarity.median().item()
    kept = build(x, threshold).weight[0, 0, 0, 0, 1:] != 0
    certain = (similarity - threshold).abs() > similarity_error(x.shape[-1], torch.float16)
    assert torch.equal(kept[certain], (similarity >= threshold)[certain])
    rounded = similarity.half() >= torch.tensor(threshold).half()
    assert not torch.equal(kept[certain], rounded[certain])


@both_dtypes
@pytest.mark.parametrize("layout", ["frames inside", "channels first", "expanded", "sliced"])
def test_layouts_of_tokens_change_no_bit(layout, dtype):
    x = tokens(2, 3, 20, 24, dtype)
    if layout == "expanded":
        x = x[:1, :1].expand(2, 3, 20, 24)
    strided = {
        "frames inside": lambda: x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3),
        "channels first": lambda: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "expanded": lambda: x,
        "sliced": lambda: torch.nn.functional.pad(x, (1, 2, 1, 0), value=float("nan"))[:, :, 1:, 1:-2],
    }[layout]()
    assert not strided.is_contiguous()
    assert same_bits(build(strided, 0.5).weight, build(x.contiguous(), 0.5).weight)


@pytest.mark.parametrize("size", [1e-11, 1e-13, 1e-20, 1e-30, 1e-37, 3e-40, 1e15, 1e19, 1e37])
def test_sizes_of_tokens(size):
    """The squares of very small and very large tokens neither over- nor underflow."""
    x = tokens(1, 2, 9, 24, torch.float32) * size
    x[:, :, ::7] = tokens(1, 2, 9, 24, torch.float32)[:, :, ::7]
    graph = build(x, 0.1, differentiable=True)
    assert graph.weight.abs().max() < 1.01
    assert_graph_close(graph, x, 0.1, 1)


@both_dtypes
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_bad_token_has_no_edges_and_reaches_no_other(threshold, bad, dtype):
    x = tokens(1, 2, 67, 24, dtype)
    clean = build(x, threshold).to_dense()
    x[0, 1, 66, slice(None) if bad == 0 else 5] = bad
    dense = build(x, threshold).to_dense()
    assert not dense[0, 133].any()
    clean[0, 133] = clean[0, :, 133] = 0
    assert same_bits(dense, clean)


def gradient(x, threshold, window, dweight, backend):
    x = x.detach().requires_grad_()
    with poisoned_memory():
        options = dict(window=window, differentiable=True, backend=backend)
        if threshold is None:
            graph = token_similarity(x, **options)
        else:
            graph = spatio_temporal_graph(x, threshold=threshold, **options)
        return torch.autograd.grad(graph.weight, x, dweight.to(graph.weight.dtype))[0]


@both_dtypes
@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize(
    ("B", "T", "P", "C", "window"), [(2, 1, 50, 24, 0), (1, 3, 70, 40, 1), (1, 4, 33, 150, 3), (2, 1, 1, 8, 0)]
)
def test_gradients_of_the_graph(B, T, P, C, window, threshold, dtype):
    x = tokens(B, T, P, C, dtype)
    dweight = torch.randn(B, T, P, 2 * window + 1, P).to(storage_dtype(dtype))
    if threshold is not None:  # similarities at the threshold are left out
        similarity = token_similarity(x.double(), window=window, backend="reference").weight
        dweight = dweight.masked_fill((similarity - threshold).abs() < 2 * similarity_error(x.shape[-1], dtype), 0)
    actual = gradient(x, threshold, window, dweight, "triton")
    plain = gradient(x, threshold, window, dweight, "reference")
    exact = gradient(x.double(), threshold, window, dweight, "reference")
    threshold = -1.0 if threshold is None else threshold
    graph = spatio_temporal_graph(x.double(), threshold=threshold, window=window, backend="reference")
    assert_close(actual, plain, exact, "dx", terms=graph_term_size(x, graph, dweight))


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_gradients_that_float16_cannot_hold(size):
    x = (tokens(1, 2, 20, 24, torch.float32) * size**0.5).to(torch.float16)
    dweight = size * torch.randn(1, 2, 20, 3, 20)
    actual, plain = (gradient(x, None, 1, dweight, backend) for backend in ("triton", "reference"))
    assert_close(actual, plain, gradient(x.double(), None, 1, dweight, "reference"), "dx")


@both_dtypes
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_gradients_beside_a_token_without_edges(bad, dtype):
    x = tokens(2, 2, 50, 24, dtype)
    dweight = torch.randn(2, 2, 50, 3, 50).to(storage_dtype(dtype))
    clean = gradient(x, 0.5, 1, dweight, "triton")
    x[0, 1, 7] = bad
    dx = gradient(x, 0.5, 1, dweight, "triton")
    assert not dx[0, 1, 7].any() and dx.isfinite().all()
    assert same_bits(dx[1], clean[1])
