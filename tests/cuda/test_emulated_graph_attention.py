"""Runs the source of graph attention's sm_80 and float32 kernels on the emulator."""

import ctypes
import shutil

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import (
    assert_nothing_of_row_0,
    assert_same_bits,
    dtype_name,
    heads,
    overflowing,
    same_bits,
    video_graph,
)
from helpers.emulated import MARGIN, Attention, guarded, library
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.testing import video_like_tokens

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator is built with g++")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # numbered as in graph_attention_emulated.cpp
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
OUTPUTS = ("out", "lse", "dq", "dk", "dv", "dweight")


def run(q, k, v, graph, dout, dlse=None, *, eager=False, **options) -> dict[str, Tensor]:
    """Returns all outputs of the kernels. They were NaN before, and the memory around them must stay NaN."""
    call, lib = Attention(q, k, v, graph, **options), library("graph_attention_emulated")
    call.check_layout(lib)
    memories = {}

    def guard(*names: str) -> None:
        for name in names:
            output, memories[name] = guarded(getattr(call, name))
            setattr(call, name, output)
            call.point(**{name: output})

    arguments = ctypes.byref(call.params), DTYPES.index(q.dtype), call.wide, eager
    guard("out", "lse")
    lib.graph_attention_fwd(*arguments)
    call.backward(dout, dlse)
    guard("dq", "dk", "dv", "dweight")
    lib.graph_attention_bwd(*arguments)
    for name, memory in memories.items():
        assert memory[:MARGIN].isnan().all() and memory[-MARGIN:].isnan().all(), f"written around {name}"
    return {name: getattr(call, name) for name in OUTPUTS if name != "dweight" or call.wide}


def check(q, k, v, graph, dlse=None, *, eager=False, scale=None) -> dict[str, Tensor]:
    dout = heads(*q.shape, dtype=q.dtype, seed=7)
    actual = run(q, k, v, graph, dout, dlse, eager=eager, scale=scale)
    assert_attention_errors(actual, q, k, v, graph, dout, dlse, scale=scale)
    return actual


def inputs(B, H, N, D, dtype, layout="heads") -> list[Tensor]:
    return [heads(B, H, N, D, dtype=dtype, layout=layout, seed=s) for s in range(3)]


SHAPES = [  # P, D, T, window
    (1, 88, 3, 1),
    (49, 64, 2, 1),
    (50, 40, 4, 3),
    (65, 96, 2, 0),
    (70, 88, 2, 1),
    (130, 1, 1, 0),
    (8, 80, 4, 2),
    (66, 128, 1, 0),
    (196, 8, 1, 0),
]


@all_dtypes
@pytest.mark.parametrize(("P", "D", "T", "window"), SHAPES)
def test_shapes(P, D, T, window, dtype):
    H = 2 if P < 64 else 1
    graph = video_graph(1, T, P, window=window, dtype=dtype)
    check(*inputs(1, H, T * P, D, dtype), graph, eager=P % 2 == 0)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=dtype_name)
@pytest.mark.parametrize(("P", "D", "T", "window"), [(49, 64, 2, 1), (50, 40, 2, 1), (70, 88, 2, 1), (66, 128, 1, 0)])
def test_float32_weights(P, D, T, window, dtype):
    """q, k and v have half precision. With an odd number of patches, rows of weights start at multiples of 4 bytes."""
    H = 2 if P < 64 else 1
    graph = video_graph(1, T, P, window=window, dtype=dtype, differentiable=True)
    result = check(*inputs(1, H, T * P, D, dtype), graph, torch.randn(1, H, T * P), eager=P % 2 == 0)
    assert result["dweight"].dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=dtype_name)
@pytest.mark.parametrize(("P", "D"), [(70, 40), (33, 128)])
def test_float32_weights_with_dropout_and_a_negative_scale(P, D, dtype):
    graph, seed = video_graph(1, 2, P, dtype=dtype, differentiable=True), torch.tensor([2**40 + 12345])
    tensors, dout = inputs(1, 1, 2 * P, D, dtype), heads(1, 1, 2 * P, D, dtype=dtype, seed=7)
    actual = run(*tensors, graph, dout, scale=-0.2, dropout_p=0.3, seed=seed)
    keep, keep_prob = philox.keep_mask(seed, 1, 1, 2, P, 0.3)
    assert_attention_errors(actual, *tensors, graph, dout, scale=-0.2, keep=keep, keep_prob=keep_prob)


@all_dtypes
def test_batches_and_gradients_of_lse(dtype):
    check(*inputs(3, 3, 2 * 20, 24, dtype), video_graph(3, 2, 20, dtype=dtype), torch.randn(3, 3, 40))


@all_dtypes
@pytest.mark.parametrize("scale", [0.5, -0.5, 0.0])
@pytest.mark.parametrize("threshold", [-1.0, -0.2])
def test_scales_and_weights_of_both_signs(threshold, scale, dtype):
    x = video_like_tokens(1, 2, 30, 16)
    x[:, :, ::3] = -x[:, :, ::3]
    graph = spatio_temporal_graph(x.to(dtype), threshold=threshold, backend="reference")
    check(*inputs(1, 1, 60, 24, dtype), graph, scale=scale)


@all_dtypes
def test_maxima_that_rise_and_fall(dtype):
    """Scores grow by far more than 2^8 along a row, and then shrink again."""
    q, k, v = inputs(1, 1, 130, 16, dtype)
    k[:, :, 64:96] *= 20
    weight = torch.rand(1, 130, 130) + 0.1
    check(q, k, v, SpatioTemporalGraph.from_dense(weight.to(dtype)))


@all_dtypes
@pytest.mark.parametrize("D", [24, 20, 18, 7])  # rows of 16, 8, 4 and 2 bytes, or of 4 in float32
def test_layouts_change_no_bit(D, dtype):
    B, H, P = 2, 2, 20
    graph = video_graph(B, 1, P, dtype=dtype)
    dout = {name: heads(B, H, P, D, dtype=dtype, seed=7, layout=name) for name in ("contiguous", "packed", "padded")}
    expected = run(*inputs(B, H, P, D, dtype, "contiguous"), graph, dout["contiguous"])
    assert all(result.isfinite().all() for result in expected.values())
    for layout in ("packed", "padded"):
        assert_same_bits(run(*inputs(B, H, P, D, dtype, layout), graph, dout[layout]), expected)


@all_dtypes
def test_the_same_bits_every_time(dtype):
    tensors, graph = inputs(1, 1, 2 * 70, 24, dtype), video_graph(1, 2, 70, dtype=dtype)
    options = dict(dropout_p=0.2, seed=torch.tensor([3]))
    dout = heads(1, 1, 140, 24, dtype=dtype, seed=7)
    assert_same_bits(run(*tensors, graph, dout, **options), run(*tensors, graph, dout, eager=True, **options))


@all_dtypes
def test_rows_without_edges_are_zero(dtype):
    T, P = 2, 70
    weight = torch.rand(1, T * P, T * P).masked_fill(torch.rand(1, T * P, T * P) < 0.7, 0).to(storage_dtype(dtype))
    empty = [0, 5, 63, 64, 69, 70, *range(70, 140)]  # the rows of a whole frame among others
    weight[:, empty] = 0
    weight[:, :, 9] = 0  # a column without edges
    graph = SpatioTemporalGraph.from_dense(weight, frames=T)
    result = check(*inputs(1, 1, T * P, 24, dtype), graph, torch.ones(1, 1, T * P))
    for name in ("out", "dq"):
        assert not result[name][0, :, empty].any(), name
    for name in ("dk", "dv"):
        assert not result[name][:, :, 9].any(), name
    assert torch.isneginf(result["lse"][0, :, empty]).all()


@all_dtypes
def test_a_graph_without_any_edge(dtype):
    graph = SpatioTemporalGraph.from_dense(torch.zeros(1, 20, 20, dtype=storage_dtype(dtype)), frames=2)
    result = run(*inputs(1, 2, 20, 8, dtype), graph, heads(1, 2, 20, 8, dtype=dtype, seed=7))
    assert torch.isneginf(result.pop("lse")).all()
    for name, tensor in result.items():
        assert not tensor.any(), name


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=dtype_name)
def test_a_row_whose_scores_all_overflow_has_no_gradients(dtype, differentiable):
    q, k, v, graph = overflowing(dtype, differentiable)
    assert_nothing_of_row_0(run(q, k, v, graph, torch.ones_like(v)))


@all_dtypes
def test_dead_tiles_are_never_looked_at(dtype):
    """Blocks of 128 rows have live and dead tiles side by side. `live` is true for frames beyond the clip, too."""
    T, P = 2, 130
    live = torch.rand(1, T, 3, 3, 3) < 0.5
    inside = torch.tensor([[False, True, True], [True, True, False]]).view(1, T, 1, 3, 1)
    tile = (live & inside).repeat_interleave(64, 2)[:, :, :P].repeat_interleave(64, 4)[..., :P]
    weight = torch.rand(1, T, P, 3, P).to(storage_dtype(dtype)).masked_fill(~tile, 0)
    exact_live = live_tiles(weight)
    assert not exact_live.all() and (live & ~inside).any()
    tensors, dout = inputs(1, 1, T * P, 8, dtype), heads(1, 1, T * P, 8, dtype=dtype, seed=7)
    expected = check(*tensors, SpatioTemporalGraph(weight))
    poisoned = SpatioTemporalGraph._with_live(weight.masked_fill(~tile, float("nan")), live)
    actual = run(*tensors, poisoned, dout)
    assert_same_bits(actual, expected)
    if dtype == torch.float32:
        assert not actual["dweight"][~tile].any()


@all_dtypes
def test_more_candidates_than_a_warp_looks_at_at_once(dtype):
    T = 17
    weight = torch.rand(1, T, T).masked_fill(torch.rand(1, T, T) < 0.7, 0)
    check(*inputs(1, 1, T, 8, dtype), SpatioTemporalGraph.from_dense(weight.to(dtype), frames=T))


@all_dtypes
def test_frames_outside_the_window_do_not_matter(dtype):
    """The last tile of a frame is not full. In memory, the next frame follows it."""
    T, P, D = 3, 70, 24
    graph = video_graph(1, T, P, window=0, dtype=dtype)
    tensors = [*inputs(1, 1, T * P, D, dtype), heads(1, 1, T * P, D, dtype=dtype, seed=7)]
    expected = run(*tensors[:3], graph, tensors[3])
    for tensor in tensors:
        tensor[:, :, P : 2 * P] = float("nan")
    actual = run(*tensors[:3], graph, tensors[3])
    for name in ("out", "lse", "dq", "dk", "dv"):
        for rows in (slice(0, P), slice(2 * P, 3 * P)):
            assert same_bits(actual[name][:, :, rows], expected[name][:, :, rows]), name


@all_dtypes
@pytest.mark.parametrize(("P", "D"), [(70, 40), (33, 88), (65, 128)])
def test_gradients_with_dropout(P, D, dtype):
    graph, seed = video_graph(2, 2, P, dtype=dtype), torch.tensor([2**40 + 12345])
    q, k, v = inputs(2, 1, 2 * P, D, dtype)
    dout = heads(*q.shape, dtype=dtype, seed=7)
    actual = run(q, k, v, graph, dout, dropout_p=0.3, seed=seed)
    keep, keep_prob = philox.keep_mask(seed, 2, 1, 2, P, 0.3)
    assert_attention_errors(actual, q, k, v, graph, dout, keep=keep, keep_prob=keep_prob)


@all_dtypes
@pytest.mark.parametrize(("T", "P"), [(3, 7), (2, 49), (1, 100)])
def test_the_mask_is_the_documented_one(T, P, dtype):
    """out has one-hot values and dv has one-hot gradients, so they show which edges were kept."""
    B, H, D, p = 2, 1 if P > 64 else 2, T * P, 0.5
    graph, seed = video_graph(B, T, P, threshold=-1, dtype=dtype), torch.tensor([2**62 + 5])
    q, k, _ = inputs(B, H, T * P, D, dtype)
    one_hot = torch.eye(T * P, dtype=dtype).expand(B, H, T * P, D)
    actual = run(q, k, one_hot, graph, one_hot, dropout_p=p, seed=seed)
    keep, _ = philox.keep_mask(seed, B, H, T, P, p)
    edge = graph.to_dense()[:, None] != 0
    assert torch.equal(actual["out"] != 0, edge & keep)
    assert torch.equal(actual["dv"].transpose(-1, -2) != 0, edge & keep)
