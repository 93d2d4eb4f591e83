"""Runs the source of graph attention's Hopper kernels on the emulator: numbers, waits, and bounds."""

import ctypes
import shutil

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import assert_nothing_of_row_0, assert_same_bits, dtype_name, heads, overflowing, video_graph
from helpers.emulated import Attention, library
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention import philox

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator is built with g++")
HALF = (torch.bfloat16, torch.float16)


LIBRARY = "graph_attention_sm90_emulated"


def run(q, k, v, graph, dout, *, eager=False, **options) -> dict[str, Tensor]:
    """Returns out, lse, dq, dk and dv of the kernels. Every output was NaN before."""
    call, lib = Attention(q, k, v, graph, **options), library(LIBRARY)
    call.check_layout(lib)
    arguments = ctypes.byref(call.params), q.dtype == torch.bfloat16, call.wide, eager
    lib.graph_attention_fwd(*arguments)
    call.backward(dout)
    lib.graph_attention_bwd(*arguments)
    return {name: getattr(call, name) for name in ("out", "lse", "dq", "dk", "dv")}


def check(q, k, v, graph, *, eager=False, scale=None) -> dict[str, Tensor]:
    dout = heads(*q.shape, dtype=q.dtype, seed=7)
    actual = run(q, k, v, graph, dout, eager=eager, scale=scale)
    assert_attention_errors(actual, q, k, v, graph, dout, scale=scale)
    return actual


def inputs(B, H, N, D, dtype, layout="heads"):
    return (heads(B, H, N, D, dtype=dtype, layout=layout, seed=s) for s in range(3))


SHAPES = [(8, 88, 3), (64, 64, 2), (72, 8, 3), (136, 88, 2), (200, 40, 2), (264, 88, 2), (64, 96, 2), (136, 128, 2)]
SHAPES += [(49, 88, 3), (197, 40, 2), (196, 64, 2)]  # rows of weights that the copy engine does not take as they are


@pytest.mark.parametrize("eager", [False, True], ids=["late", "eager"])
@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
@pytest.mark.parametrize(("P", "D", "T"), SHAPES)
def test_shapes(P, D, T, dtype, eager):
    check(*inputs(1, 2, T * P, D, dtype), video_graph(1, T, P, dtype=dtype), eager=eager)


@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
@pytest.mark.parametrize(("P", "D", "T"), [(72, 88, 2), (136, 64, 2), (64, 128, 2), (200, 88, 1), (50, 88, 2)])
def test_float32_weights(P, D, T, dtype):
    graph = video_graph(1, T, P, dtype=dtype, differentiable=True)
    check(*inputs(1, 2, T * P, D, dtype), graph, eager=D == 88)


@pytest.mark.parametrize("layout", ["contiguous", "packed"])
def test_layouts(layout):
    check(*inputs(2, 2, 3 * 72, 88, torch.bfloat16, layout), video_graph(2, 3, 72, dtype=torch.bfloat16))


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_scales(scale):
    check(*inputs(1, 1, 2 * 72, 40, torch.float16), video_graph(1, 2, 72, dtype=torch.float16), scale=scale)


@pytest.mark.parametrize("window", [0, 2, 3])
def test_windows(window):
    graph = video_graph(1, 4, 72, window=window, dtype=torch.bfloat16)
    check(*inputs(1, 1, 4 * 72, 24, torch.bfloat16), graph)


def test_more_steps_than_stages():
    check(*inputs(1, 1, 12 * 64, 8, torch.float16), video_graph(1, 12, 64, window=11, dtype=torch.float16))


def sparse(B, T, P, window, dtype) -> SpatioTemporalGraph:
    """The graph of a video, without the edges of some tiles and of some rows."""
    graph = video_graph(B, T, P, window=window, dtype=dtype)
    weight = graph.weight.clone()
    weight[:, :, 3:7] = 0
    weight[:, 0, 64:, :, :64] = 0
    weight[:, :, :64, 0] = 0
    return SpatioTemporalGraph(weight)


@pytest.mark.parametrize("P", [136, 264])
def test_dead_tiles_and_rows_without_edges(P):
    graph = sparse(1, 2, P, 1, torch.bfloat16)
    assert not graph.live.all()
    actual = check(*inputs(1, 1, 2 * P, 88, torch.bfloat16), graph)
    assert (actual["out"][:, :, 3:7] == 0).all() and actual["lse"][:, :, 3:7].isneginf().all()
    assert (actual["dq"][:, :, 3:7] == 0).all()


def test_no_edges_at_all():
    weight = torch.zeros(1, 2, 72, 3, 72, dtype=torch.float16)
    actual = check(*inputs(1, 1, 144, 40, torch.float16), SpatioTemporalGraph(weight))
    assert all((actual[name] == 0).all() for name in ("out", "dq", "dk", "dv"))


@pytest.mark.parametrize("differentiable", [False, True])
def test_a_row_whose_scores_all_overflow_has_no_gradients(differentiable):
    q, k, v, graph = overflowing(torch.bfloat16, differentiable)
    assert_nothing_of_row_0(run(q, k, v, graph, torch.ones_like(v)))


@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
@pytest.mark.parametrize(("P", "D"), [(136, 88), (200, 88), (72, 64)])
def test_dropout_is_the_reference_mask(P, D, dtype):
    graph, seed = video_graph(2, 2, P, dtype=dtype), torch.tensor([2**40 + 12345])
    q, k, v = inputs(2, 1, 2 * P, D, dtype)
    dout = heads(*q.shape, dtype=dtype, seed=7)
    actual = run(q, k, v, graph, dout, dropout_p=0.3, seed=seed)
    keep, keep_prob = philox.keep_mask(seed, 2, 1, 2, P, 0.3)
    assert_attention_errors(actual, q, k, v, graph, dout, keep=keep, keep_prob=keep_prob)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=dtype_name)
@pytest.mark.parametrize(("H", "D", "given"), [(3, 40, False), (3, 40, True), (17, 128, False), (2, 39, True)])
def test_delta(H, D, given, dtype):
    q, k, v = inputs(2, H, 2 * 35, D, dtype, "packed")
    call = Attention(q, k, v, video_graph(2, 2, 35, dtype=dtype))
    call.out.copy_(v)
    dlse = torch.randn(2, H, 70) if given else None
    call.backward(k, dlse)
    expected = call.delta.clone()
    call.delta.fill_(float("nan"))
    dlse_at = ctypes.c_void_p(dlse.data_ptr() if given else None)
    number = (torch.float16, torch.bfloat16, torch.float32).index(dtype)
    library(LIBRARY).graph_attention_bwd_delta(ctypes.byref(call.params), number, dlse_at)
    torch.testing.assert_close(call.delta, expected)


def test_same_bits_every_time():
    q, k, v = inputs(1, 2, 2 * 136, 88, torch.bfloat16)
    graph, dout = video_graph(1, 2, 136, dtype=torch.bfloat16), heads(1, 2, 272, 88, dtype=torch.bfloat16, seed=7)
    assert_same_bits(run(q, k, v, graph, dout), run(q, k, v, graph, dout, eager=True))
