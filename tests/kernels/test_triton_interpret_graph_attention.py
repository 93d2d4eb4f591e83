"""The Triton kernels of graph attention against the definition, on CPU tensors, in Triton's interpreter.

Run as ``TRITON_INTERPRET=1 pytest -m triton_interpret``. The interpreter replaces the compiler for the whole process.
It computes bfloat16 wrongly, so float16 is tested in its place.
"""

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import (
    LAYOUTS,
    assert_attention_close,
    assert_nothing_of_row_0,
    assert_nothing_without,
    assert_same_bits,
    dtype_name,
    heads,
    overflowing,
    run_attention,
    video_graph,
)

from stgt_kernels import SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.graph import storage_dtype
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.testing import video_like_tokens

pytestmark = [
    pytest.mark.triton_interpret,
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # the log of a row without edges
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # exponents where there is no edge
]
DTYPES = (torch.float32, torch.float16)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def qkv(B, H, N, D, **options):
    return [heads(B, H, N, D, seed=seed, **options) for seed in range(3)]


def check(*arguments, **options):
    return assert_attention_close(*arguments, backend="triton", **options)


def run(*arguments, **options):
    return run_attention(*arguments, backend="triton", **options)


@pytest.mark.parametrize(
    ("D", "dtype"),
    [(D, torch.float16) for D in (1, 3, 16, 17, 32, 40, 64, 72, 88, 100, 128)]
    + [(D, torch.float32) for D in (1, 17, 40, 88, 128)],
    ids=lambda value: dtype_name(value) if isinstance(value, torch.dtype) else None,
)
def test_head_dims(D, dtype):
    check(*qkv(1, 2, 2 * 9, D, dtype=dtype), video_graph(1, 2, 9, dtype=dtype))


@both_dtypes
@pytest.mark.parametrize(("T", "P"), [(1, 256), (2, 196), (2, 128), (2, 65), (2, 64), (2, 50), (2, 49), (2, 1)])
def test_patches(T, P, dtype):
    check(*qkv(1, 1, T * P, 16, dtype=dtype), video_graph(1, T, P, dtype=dtype))


@both_dtypes
@pytest.mark.parametrize(("T", "window"), [(1, 0), (3, 0), (3, 1), (5, 2), (4, 3)])
def test_frames_and_windows(T, window, dtype):
    check(*qkv(2, 1, T * 7, 24, dtype=dtype), video_graph(2, T, 7, window=window, dtype=dtype))


@both_dtypes
@pytest.mark.parametrize("threshold", [-1.0, -0.2, 0.0, 1.0])
def test_weights_of_both_signs(threshold, dtype):
    x = video_like_tokens(1, 2, 30, 16)
    x[:, :, ::3] = -x[:, :, ::3]
    x[:, 1] = x[:, 0]  # at threshold 1, a token has edges to itself and its copy only
    graph = spatio_temporal_graph(x.to(dtype), threshold=threshold, backend="reference")
    check(*qkv(1, 2, 60, 24, dtype=dtype), graph)


@both_dtypes
@pytest.mark.parametrize("scale", [1.0, -0.5, 0.0])
def test_scale(scale, dtype):
    check(*qkv(1, 2, 60, 24, dtype=dtype), video_graph(1, 2, 30, dtype=dtype), scale=scale)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_row_whose_scores_all_overflow_has_no_gradients():
    q, k, v, graph = overflowing(torch.float32)
    assert_nothing_of_row_0(run(q, k, v, graph, torch.ones_like(v)))


@pytest.mark.parametrize("missing", ["B", "H", "T", "P"])
def test_empty_tensors(missing):
    assert_nothing_without(missing, "triton")


@both_dtypes
def test_gradients_of_out_and_lse_together(dtype):
    dlse = torch.randn(1, 2, 60)
    check(*qkv(1, 2, 60, 24, dtype=dtype), video_graph(1, 2, 30, dtype=dtype), dlse=dlse)


@both_dtypes
def test_an_asymmetric_graph_without_frames(dtype):
    weight = (2 * torch.rand(1, 150, 150) - 1).masked_fill(torch.rand(1, 150, 150) < 0.7, 0)
    check(*qkv(1, 2, 150, 40, dtype=dtype), SpatioTemporalGraph.from_dense(weight.to(dtype)))


@both_dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout, dtype):
    B, H, T, P, D = 2, 2, 1, 17, 24
    graph = video_graph(B, T, P, dtype=dtype)
    dout = heads(B, H, T * P, D, dtype=dtype, seed=7)
    expected = run(*qkv(B, H, T * P, D, dtype=dtype, layout="contiguous"), graph, dout)
    assert_same_bits(run(*qkv(B, H, T * P, D, dtype=dtype, layout=layout), graph, dout), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_gradient(layout):
    dout = heads(2, 2, 17, 24, dtype=torch.float16, seed=7, layout=layout)
    check(*qkv(2, 2, 17, 24, dtype=torch.float16), video_graph(2, 1, 17, dtype=torch.float16), dout)


def test_expanded_operands_and_gradient():
    graph = video_graph(2, 2, 10)
    q, k, v = (t.expand(2, 3, 20, 24) for t in (heads(2, 3, 1, 24), heads(2, 1, 20, 24), heads(1, 1, 20, 24)))
    check(q, k, v, graph, torch.randn(24).expand(2, 3, 20, 24))


@both_dtypes
def test_merging_the_heads_copies_nothing(dtype):
    q, k, v = qkv(2, 3, 20, 24, dtype=dtype)
    out = graph_attention(q, k, v, video_graph(2, 2, 10, dtype=dtype), backend="triton")
    assert out.transpose(1, 2).reshape(2, 20, 72).data_ptr() == out.data_ptr()


@both_dtypes
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_rows_without_edges_are_zero(dtype, dropout_p):
    T, P = 2, 70
    weight = torch.rand(1, T * P, T * P).masked_fill(torch.rand(1, T * P, T * P) < 0.7, 0)
    empty = [0, 5, 63, 64, 69, 70, *range(70, 140)]  # a whole frame is among them, whose lists of tiles are empty
    weight[:, empty] = 0
    weight[:, :, 9] = 0  # no row has an edge to this column
    graph = SpatioTemporalGraph.from_dense(weight, frames=T)
    dout = heads(1, 1, T * P, 24, dtype=dtype, seed=7)
    result = run(*qkv(1, 1, T * P, 24, dtype=dtype), graph, dout, torch.ones(1, 1, T * P), dropout_p=dropout_p)
    for name in ("out", "dq"):
        assert not result[name][0, :, empty].any(), name
    for name in ("dk", "dv"):
        assert not result[name][:, :, 9].any(), name
    assert torch.isneginf(result.pop("lse")[0, :, empty]).all()
    dweight = SpatioTemporalGraph(result["dweight"]).to_dense()
    assert not dweight[weight == 0].any() and dweight[weight != 0].any()
    for name, tensor in result.items():
        assert tensor.isfinite().all(), name


@both_dtypes
def test_a_graph_without_any_edge(dtype):
    graph = SpatioTemporalGraph.from_dense(torch.zeros(1, 20, 20, dtype=storage_dtype(dtype)), frames=2)
    result = run(*qkv(1, 2, 20, 8, dtype=dtype), graph, heads(1, 2, 20, 8, dtype=dtype, seed=7))
    assert torch.isneginf(result.pop("lse")).all()
    for name, tensor in result.items():
        assert not tensor.any(), name


@both_dtypes
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_dead_tiles_are_skipped(dtype, dropout_p):
    """Tiles that the map calls dead are never read. A block of 128 tokens is processed if one of its tiles is live."""
    block = torch.tensor([[[True, True], [False, True]], [[True, False], [False, True]]])
    live = block.repeat_interleave(2, 1).repeat_interleave(2, 2).view(1, 2, 4, 1, 4)
    tile = live.repeat_interleave(64, 2).repeat_interleave(64, 4)
    weight = torch.rand(1, 2, 256, 1, 256)
    graph = SpatioTemporalGraph._with_live(weight.masked_fill(~tile, 0), live)
    tensors = (*qkv(1, 1, 512, 8, dtype=dtype), heads(1, 1, 512, 8, dtype=dtype, seed=7))

    def attend(weight):
        torch.manual_seed(0)
        return run(*tensors[:3], SpatioTemporalGraph._with_live(weight, graph.live), tensors[3], dropout_p=dropout_p)

    expected = attend(graph.weight)
    actual = attend(weight.masked_fill(~tile, float("nan")))
    dead = ~tile.expand_as(actual["dweight"])
    assert not expected["dweight"][dead].any()
    assert_same_bits(actual, expected)


@both_dtypes
def test_live_tiles_without_edges_change_nothing(dtype):
    """The map may even call frames beyond the clip live."""
    graph = video_graph(1, 2, 70, threshold=0.9, dtype=dtype)
    everything = SpatioTemporalGraph._with_live(graph.weight, torch.ones_like(graph.live))
    tensors = (*qkv(1, 1, 140, 8, dtype=dtype), heads(1, 1, 140, 8, dtype=dtype, seed=7))
    assert_same_bits(run(*tensors[:3], everything, tensors[3]), run(*tensors[:3], graph, tensors[3]))


@both_dtypes
def test_the_same_bits_every_time(dtype):
    graph = video_graph(1, 2, 30, dtype=dtype)
    tensors = (*qkv(1, 2, 60, 24, dtype=dtype), heads(1, 2, 60, 24, dtype=dtype, seed=7))
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(run(*tensors[:3], graph, tensors[3], dropout_p=0.2))
    assert_same_bits(*results)


@pytest.mark.parametrize(("T", "P"), [(3, 7), (1, 130)])
@pytest.mark.parametrize("p", [0.1, 0.9])
def test_the_dropout_mask_is_the_documented_one(T, P, p):
    """Attention of one-hot values gives the mask bit by bit."""
    B, H, N = 2, 2, T * P
    graph = video_graph(B, T, P, threshold=-1)
    q, k = (heads(B, H, N, 8, seed=seed) for seed in range(2))
    torch.manual_seed(5)
    keep, _ = philox.keep_mask(torch.randint(2**63 - 1, (1,)), B, H, T, P, p)
    columns = []
    for start in range(0, N, 128):
        v = torch.eye(N)[:, start : start + 128]
        torch.manual_seed(5)
        padded = [torch.nn.functional.pad(t, (0, v.shape[1] - t.shape[-1])) for t in (q, k)]
        columns.append(
            graph_attention(*padded, v.expand(B, H, *v.shape), graph, scale=1.0, dropout_p=p, backend="triton")
        )
    assert torch.equal(torch.cat(columns, -1) != 0, keep & (graph.to_dense()[:, None] != 0))


def check_dropout(B, H, T, P, D, dtype, *, differentiable=False):
    """Compares attention with dropout with its definition, forward and backward, and returns its results."""
    graph = video_graph(B, T, P, dtype=dtype, differentiable=differentiable)
    q, k, v, dout = (heads(B, H, T * P, D, dtype=dtype, seed=seed) for seed in range(4))
    torch.manual_seed(0)
    keep, keep_prob = philox.keep_mask(torch.randint(2**63 - 1, (1,)), B, H, T, P, 0.3)

    torch.manual_seed(0)
    actual = run(q, k, v, graph, dout, dropout_p=0.3)
    assert_attention_errors(actual, q, k, v, graph, dout, keep=keep, keep_prob=keep_prob)
    return actual


@both_dtypes
@pytest.mark.parametrize(("B", "H", "T", "P", "D"), [(2, 2, 2, 20, 24), (1, 1, 2, 70, 40)])
def test_dropout_forward_and_backward(B, H, T, P, D, dtype):
    check_dropout(B, H, T, P, D, dtype)


@pytest.mark.parametrize("D", [24, 88, 128])
def test_launches_for_other_gpus(D, monkeypatch):
    """The interpreter takes Hopper's blocks. This test takes those of a GPU with little shared memory."""
    from stgt_kernels.ops.graph_attention import triton_impl

    monkeypatch.setattr(triton_impl, "capability", lambda x: (8, 9))
    check(*qkv(1, 1, 140, D, dtype=torch.float16), video_graph(1, 2, 70, dtype=torch.float16))
    check_dropout(1, 1, 2, 70, D, torch.float16)


@pytest.mark.parametrize(("P", "D"), [(9, 88), (70, 24)])
def test_float32_weights_of_half_precision_attention(P, D):
    graph = video_graph(1, 2, P, dtype=torch.float16, differentiable=True)
    actual = check(*qkv(1, 2, 2 * P, D, dtype=torch.float16), graph)
    assert actual["dweight"].dtype == torch.float32


def test_float32_weights_of_half_precision_attention_with_dropout():
    assert check_dropout(1, 2, 2, 9, 24, torch.float16, differentiable=True)["dweight"].dtype == torch.float32
