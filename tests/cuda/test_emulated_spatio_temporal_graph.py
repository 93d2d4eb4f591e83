"""Runs the source of the CUDA kernels that build the graph on the emulator: numbers, waits, and bounds."""

import ctypes
import functools
import shutil

import pytest
import torch
from helpers.bounds import graph_term_size
from helpers.cases import dtype_name, same_bits
from helpers.emulated import library, struct
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.ops.spatio_temporal_graph.reference import spatio_temporal_graph as reference
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator is built with g++")
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
DTYPES = tuple(KINDS)
HALF = DTYPES[1:]
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
# The forward kernels: a dtype, and whether the kernel is the one for Hopper.
KERNELS = [(dtype, False) for dtype in DTYPES] + [(dtype, True) for dtype in HALF]
all_kernels = pytest.mark.parametrize(
    ("dtype", "hopper"),
    KERNELS,
    ids=[f"{dtype_name(dtype)}-{'sm90' if hopper else 'sm80'}" for dtype, hopper in KERNELS],
)


GraphParams = struct("spatio_temporal_graph/common.cuh", "GraphParams")


@functools.cache
def kernels() -> ctypes.CDLL:
    lib = library("spatio_temporal_graph_emulated")
    assert lib.params_size() == ctypes.sizeof(GraphParams)
    return lib


def arguments(x: Tensor, threshold: float | None, window: int, **tensors: Tensor) -> GraphParams:
    assert x.is_contiguous()
    params = GraphParams(*x.shape, window, float("-inf") if threshold is None else threshold, x.data_ptr())
    for name, tensor in tensors.items():
        setattr(params, name, tensor.data_ptr())
    return params


def forward(
    x: Tensor, threshold: float | None, window: int, hopper: bool, *, wide: bool = False, eager: bool = False
) -> tuple[SpatioTemporalGraph, Tensor]:
    B, T, P, _ = x.shape
    O, n = 2 * window + 1, -(-P // 64)
    weight = torch.full((B, T, P, O, P), float("nan"), dtype=storage_dtype(x.dtype, wide))
    live = torch.full((B, T, n, O, n), 2, dtype=torch.uint8)
    inv_norm = torch.full((B, T, P), float("nan"))  # filled as by the launcher, as is last_block
    last_block = torch.tensor([-1], dtype=torch.int32)
    params = arguments(x, threshold, window, weight=weight, live=live, inv_norm=inv_norm, last_block=last_block)
    kernels().forward(ctypes.byref(params), KINDS[x.dtype], wide, hopper, eager)
    assert live.max() <= 1
    return SpatioTemporalGraph._with_live(weight, live.bool()), inv_norm


def backward(
    x: Tensor, graph: SpatioTemporalGraph, inv_norm: Tensor, dweight: Tensor, *, eager: bool = False
) -> Tensor:
    dx = torch.full_like(x, float("nan"))
    tensors = {"weight": graph.weight, "inv_norm": inv_norm, "dweight": dweight, "dx": dx}
    params = arguments(x, None, graph.window, **tensors)
    kernels().backward(ctypes.byref(params), KINDS[x.dtype], eager)
    return dx


def tokens(B: int, T: int, P: int, C: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Tokens like those of a video, some with the sign changed, so that similarities have both signs."""
    x = video_like_tokens(B, T, P, C, seed=seed)
    x[:, :, 1::5] *= -1
    return x.to(dtype)


def check(
    x: Tensor, threshold: float | None, window: int, hopper: bool, *, wide: bool = False, eager: bool = False
) -> SpatioTemporalGraph:
    graph, inv_norm = forward(x, threshold, window, hopper, wide=wide, eager=eager)
    allowed = (
        2e-5 * graph.weight.numel() if threshold != 1 else x[..., 0].numel()
    )  # at 1, rounding decides about a token's edge to itself
    assert assert_graph_close(graph, x, threshold, window) <= allowed
    assert torch.equal(graph.live, live_tiles(graph.weight))
    assert torch.equal(graph.to_dense(), graph.to_dense().mT)
    square = x.double().square().sum(-1)
    exact = 1 / square.sqrt()
    torch.testing.assert_close(inv_norm, exact.float(), rtol=1e-5, atol=0)
    return graph


SIZES = [(1, 1), (1, 8), (7, 30), (49, 40), (50, 136), (64, 64), (65, 72), (128, 8), (196, 40), (257, 8), (321, 24)]


@all_kernels
@pytest.mark.parametrize(("P", "C"), SIZES)
def test_patches_and_widths(P, C, dtype, hopper):
    if hopper and C % 8:
        pytest.skip("the launcher leaves these to the sm_80 kernel")
    check(tokens(1, 2, P, C, dtype), 0.5, 1, hopper)


@pytest.mark.parametrize("hopper", [False, True], ids=["sm80", "sm90"])
@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
@pytest.mark.parametrize(("P", "C", "threshold"), [(1, 8, None), (49, 40, 0.5), (130, 72, -0.3), (321, 24, 0.5)])
def test_float32_weights(P, C, threshold, dtype, hopper):
    """Differentiable graphs of half-precision tokens have them. They are the float16 weights before rounding."""
    x = tokens(1, 3, P, C, dtype)
    graph = check(x, threshold, 1, hopper, wide=True)
    assert graph.weight.dtype == torch.float32
    assert same_bits(graph.weight.half(), forward(x, threshold, 1, hopper)[0].weight)


@all_kernels
@pytest.mark.parametrize(("T", "window"), [(1, 0), (2, 0), (2, 1), (3, 1), (4, 2), (4, 3)])
def test_frames_and_windows(T, window, dtype, hopper):
    check(tokens(2, T, 50, 24, dtype), 0.5, window, hopper)


@all_kernels
@pytest.mark.parametrize("threshold", [None, -1, -0.3, 0.5, 1])
def test_thresholds(threshold, dtype, hopper):
    weight = check(tokens(1, 2, 70, 40, dtype), threshold, 1, hopper).weight
    assert (weight < -0.1).any() == (threshold is None or threshold < 0)


@all_kernels
@pytest.mark.parametrize("eager", [False, True])
def test_many_channels(eager, dtype, hopper):
    """They go around the stages several times. Asynchronous copies happen as late as they may, or at once."""
    check(tokens(1, 2, 72, 584, dtype), 0.5, 1, hopper, eager=eager)


@all_kernels
def test_a_similarity_equal_to_the_threshold_is_an_edge(dtype, hopper):
    """The norms are 1 and 2 and the product is 1, so nothing is rounded."""
    x = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]], dtype=dtype)[None, None]
    for threshold, degree in ((0.5, 2), (0.5001, 1), (1, 1)):
        assert torch.equal(forward(x, threshold, 0, hopper)[0].degree(), torch.full((1, 2), degree))


@all_kernels
@pytest.mark.parametrize("threshold", [None, -1, 0.5])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
def test_a_bad_token_has_no_edges_and_reaches_no_other(bad, threshold, dtype, hopper):
    x = tokens(1, 2, 70, 24, dtype)
    clean = forward(x, threshold, 1, hopper)[0].to_dense()
    x[0, 1, 66] = bad
    x[0, 1, 66, 5:] = 0
    graph, inv_norm = forward(x, threshold, 1, hopper)
    clean[0, 136] = clean[0, :, 136] = 0
    assert torch.equal(graph.to_dense(), clean) and torch.equal(graph.live, live_tiles(graph.weight))
    assert inv_norm[0, 1, 66] == 0


@pytest.mark.parametrize(("dtype", "hopper"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("size", [1e-11, 1e-13, 1e-20, 1e-37, 1e15, 1e19, 1e37])
def test_sizes_of_tokens(size, dtype, hopper):
    """Squares of very small and very large tokens neither over- nor underflow."""
    x = (tokens(1, 2, 50, 24, torch.float32) * size).to(dtype)
    x[:, :, ::7] = tokens(1, 2, 50, 24, dtype)[:, :, ::7]
    assert check(x, 0.1, 1, hopper).weight.abs().max() < 1.01


def unaligned(x: Tensor) -> Tensor:
    memory = torch.full((x.numel() + 1,), float("nan"), dtype=x.dtype)
    return memory[1:].view(x.shape).copy_(x)


@all_dtypes
def test_tokens_anywhere_in_memory(dtype):
    x = tokens(1, 2, 40, 24, dtype)
    dweight = torch.randn(1, 2, 40, 3, 40)
    graph, inv_norm = forward(x, 0.5, 1, False, wide=True)
    assert same_bits(forward(unaligned(x), 0.5, 1, False, wide=True)[0].weight, graph.weight)
    expected = backward(x, graph, inv_norm, dweight)
    assert same_bits(backward(unaligned(x), graph, inv_norm, unaligned(dweight)), expected)


def exact_gradient(x: Tensor, threshold: float | None, window: int, dweight: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    weight = reference(x, threshold, window, differentiable=True).weight
    return torch.autograd.grad(weight, x, dweight.to(weight.dtype))[0]


def check_gradient(x: Tensor, threshold: float | None, window: int, *, eager: bool = False) -> None:
    graph, inv_norm = forward(x, threshold, window, False, wide=True)
    others = (reference(wide, threshold, window).weight for wide in (x, x.double()))
    agreed = functools.reduce(torch.logical_and, ((graph.weight != 0) == (other != 0) for other in others))
    dweight = torch.randn(graph.weight.shape).to(graph.weight.dtype) * agreed  # edges at the threshold get no gradient
    dx = backward(x, graph, inv_norm, dweight, eager=eager)
    plain, exact = (exact_gradient(wide, threshold, window, dweight) for wide in (x, x.double()))
    assert_close(dx, plain, exact, "dx", terms=graph_term_size(x, graph, dweight))


@all_dtypes
@pytest.mark.parametrize("threshold", [None, -0.3, 0.5])
@pytest.mark.parametrize(
    ("B", "T", "P", "C", "window"),
    [(2, 1, 50, 40, 0), (1, 3, 65, 136, 1), (1, 4, 33, 30, 3), (2, 2, 1, 8, 1), (1, 2, 160, 8, 1)],
)
def test_gradients(B, T, P, C, window, threshold, dtype):
    check_gradient(tokens(B, T, P, C, dtype), threshold, window)


@all_dtypes
def test_gradients_with_eager_copies(dtype):
    check_gradient(tokens(1, 2, 70, 136, dtype), 0.5, 1, eager=True)


@all_dtypes
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_gradients_beside_a_token_without_edges(bad, dtype):
    x = tokens(1, 2, 50, 24, dtype)
    x[0, 1, 7] = bad
    graph, inv_norm = forward(x, 0.5, 1, False, wide=True)
    dweight = torch.randn(graph.weight.shape)
    dx = backward(x, graph, inv_norm, dweight)
    x[0, 1, 7] = 0
    graph, inv_norm = forward(x, 0.5, 1, False, wide=True)
    assert not dx[0, 1, 7].any() and same_bits(dx, backward(x, graph, inv_norm, dweight))


@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_gradients_that_float16_cannot_hold(size, dtype):
    """Gradients of weights may be far outside the range of float16 while the tokens' own gradients are not."""
    x = (tokens(1, 2, 50, 40, torch.float32) * size**0.5).to(dtype)
    graph, inv_norm = forward(x, 0.5, 1, False, wide=True)
    plain = reference(x.double(), 0.5, 1).weight
    dweight = size * torch.randn(graph.weight.shape) * ((graph.weight != 0) == (plain != 0))
    plain, exact = (exact_gradient(wide, 0.5, 1, dweight) for wide in (x, x.double()))
    assert_close(backward(x, graph, inv_norm, dweight), plain, exact, "dx")


@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
def test_gradients_that_half_precision_can_hold_do_not_overflow(dtype):
    """Both gradients of an edge are near the largest number of float16, and their sum lies beyond it."""
    x = 64 * tokens(1, 1, 20, 24, dtype)
    graph, inv_norm = forward(x, 0.5, 0, False, wide=True)
    dweight = torch.full(graph.weight.shape, 6e4)
    plain, exact = (exact_gradient(wide, 0.5, 0, dweight) for wide in (x, x.double()))
    assert_close(backward(x, graph, inv_norm, dweight), plain, exact, "dx")


@all_kernels
def test_repeats_change_no_bit(dtype, hopper):
    x = tokens(1, 2, 130, 24, dtype)
    dweight = torch.randn(1, 2, 130, 3, 130)
    results = []
    for _ in range(2):
        graph, inv_norm = forward(x, 0.5, 1, hopper, wide=True)
        results.append((graph.weight, inv_norm, backward(x, graph, inv_norm, dweight)))
    assert all(same_bits(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
def test_tokens_of_denormal_numbers_change_the_gradients_of_others(dtype):
    """They have no gradient of their own, since it would be too large, but their direction counts."""
    x = video_like_tokens(1, 2, 20, 24)
    x[0, 0, 4] *= 1e-40
    x = x.to(dtype)
    graph, inv_norm = forward(x, 0.5, 1, False, wide=True)
    assert (graph.weight[0, 0, 4] != 0).sum() > 1
    dweight = torch.rand(graph.weight.shape, generator=torch.Generator().manual_seed(0))
    dx = backward(x, graph, inv_norm, dweight)
    leaf = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(leaf, 0.5, 1).weight, leaf, dweight.double())
    assert (dx[0, 0, 4] == 0).all()
    others = torch.arange(20) != 4
    tolerance = 1e-5 if dtype == torch.float32 else 0.02 * expected[:, :, others].abs().max().item()
    torch.testing.assert_close(dx[:, :, others].double(), expected[:, :, others], rtol=1e-4, atol=tolerance)
