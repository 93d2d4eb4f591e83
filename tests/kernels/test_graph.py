"""SpatioTemporalGraph: storage, conversions, and what it refuses."""

import pickle

import numpy as np
import pytest
import torch
from helpers.cases import DTYPES, dtype_name, heads, video_graph
from torch.utils import _pytree as pytree

from stgt_kernels import SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.testing import video_like_tokens

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


def banded_dense(B, T, P, window, dtype=torch.float32):
    """Random dense weights of a video graph, about half of them 0."""
    frame = torch.arange(T).repeat_interleave(P)
    weight = torch.randn(B, T * P, T * P).masked_fill(torch.rand(B, T * P, T * P) < 0.5, 0)
    return weight.masked_fill((frame[:, None] - frame).abs() > window, 0).to(dtype)


@pytest.mark.parametrize(("T", "window"), [(1, 0), (2, 0), (2, 1), (5, 0), (5, 1), (5, 3), (5, 4)])
def test_dense_and_back(T, window):
    dense = banded_dense(2, T, 6, window)
    graph = SpatioTemporalGraph.from_dense(dense, frames=T, window=window)
    assert (graph.batch_size, graph.frames, graph.patches, graph.window, graph.nodes) == (2, T, 6, window, 6 * T)
    assert graph.weight.shape == (2, T, 6, 2 * window + 1, 6) and graph.weight.is_contiguous()
    assert torch.equal(graph.to_dense(), dense)
    for t in range(T):  # the storage as documented, element by element
        for o in range(2 * window + 1):
            other = t + o - window
            block = dense.view(2, T, 6, T, 6)[:, t, :, other] if 0 <= other < T else torch.zeros(2, 6, 6)
            assert torch.equal(graph.weight[:, t, :, o], block)


def test_window_of_from_dense_defaults_to_everything():
    dense = banded_dense(1, 4, 3, 3)
    assert SpatioTemporalGraph.from_dense(dense, frames=4).window == 3
    assert torch.equal(SpatioTemporalGraph.from_dense(dense, frames=4).to_dense(), dense)
    assert SpatioTemporalGraph.from_dense(dense).weight.shape == (1, 1, 12, 1, 12)
    assert torch.equal(SpatioTemporalGraph.from_dense(dense).to_dense(), dense)


@all_dtypes
def test_storage_dtype(dtype):
    graph = SpatioTemporalGraph.from_dense(torch.eye(4, dtype=dtype)[None])
    assert graph.weight.dtype == {torch.bfloat16: torch.float32}.get(dtype, dtype)
    half = dtype in (torch.bfloat16, torch.float16)
    assert storage_dtype(dtype) == (torch.float16 if half else dtype)
    assert storage_dtype(dtype, differentiable=True) == (torch.float32 if half else dtype)


@pytest.mark.parametrize("P", [1, 63, 64, 65, 130])
def test_live_map(P):
    dense = torch.zeros(1, 2 * P, 2 * P)
    edges = [(0, 0), (P - 1, 2 * P - 1), (2 * P - 1, min(64, P - 1))]
    for row, column in edges:
        dense[0, row, column] = -0.5
    graph = SpatioTemporalGraph.from_dense(dense, frames=2)
    tiles = -(-P // 64)
    expected = torch.zeros(1, 2, tiles, 3, tiles, dtype=torch.bool)
    for row, column in edges:
        t, other = row // P, column // P
        expected[0, t, row % P // 64, other - t + 1, column % P // 64] = True
    assert torch.equal(graph.live, expected)
    assert torch.equal(live_tiles(graph.weight), expected)


def test_edge_index_degree_and_density():
    dense = banded_dense(2, 3, 5, 1)
    graph = SpatioTemporalGraph.from_dense(dense, frames=3, window=1)
    (column, row), weight = graph.edge_index()
    assert torch.equal(row // 15, column // 15)  # no edge between samples
    rebuilt = torch.zeros(2, 15, 15)
    rebuilt[row // 15, row % 15, column % 15] = weight
    assert torch.equal(rebuilt, dense) and len(weight) == torch.count_nonzero(dense)
    assert torch.equal(graph.degree(), torch.count_nonzero(dense, 2))
    assert graph.mean_degree().dtype == torch.float32
    assert graph.mean_degree().item() == pytest.approx(graph.degree().float().mean().item())
    assert graph.density().item() == pytest.approx(torch.count_nonzero(dense).item() / (2 * 7 * 25))
    everything = SpatioTemporalGraph.from_dense(torch.ones(1, 15, 15), frames=3)
    assert everything.density() == 1 and torch.equal(everything.degree(), torch.full((1, 15), 15))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=dtype_name)
def test_the_default_dtype_does_not_matter_to_means(dtype):
    """The graph has 70225 edges, which is more than float16 holds, and bfloat16 would round them."""
    graph, previous = SpatioTemporalGraph.from_dense(torch.ones(1, 265, 265)), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        degree, density = graph.mean_degree(), graph.density()
    finally:
        torch.set_default_dtype(previous)
    assert degree.dtype == density.dtype == torch.float32
    assert (degree.item(), density.item()) == (265, 1)


def test_messages_flow_from_column_to_row():
    """A PyTorch Geometric layer that sums weighted messages computes W @ x."""
    dense = banded_dense(2, 3, 5, 1)
    (source, target), weight = SpatioTemporalGraph.from_dense(dense, frames=3, window=1).edge_index()
    x = torch.randn(30, 4)
    summed = torch.zeros(30, 4).index_add(0, target, weight[:, None] * x[source])
    torch.testing.assert_close(summed.view(2, 15, 4), dense @ x.view(2, 15, 4))


def test_conversions_are_differentiable():
    dense = banded_dense(2, 3, 2, 1, torch.float64).requires_grad_()

    def there_and_back(dense):
        graph = SpatioTemporalGraph.from_dense(dense, frames=3)
        return graph.weight, graph.to_dense()

    assert torch.autograd.gradcheck(there_and_back, dense)
    _, weight = SpatioTemporalGraph.from_dense(dense, frames=3).edge_index()
    (gradient,) = torch.autograd.grad(weight.square().sum(), dense)
    torch.testing.assert_close(gradient, 2 * dense.detach())


def test_gradient_reaches_dense_weights_through_attention():
    dense = banded_dense(1, 2, 20, 1, torch.float64).requires_grad_()
    graph = SpatioTemporalGraph.from_dense(dense, frames=2)
    assert graph.weight.requires_grad and not graph.live.requires_grad
    q, k, v = (heads(1, 2, 40, 8, dtype=torch.float64, seed=seed) for seed in range(3))
    (actual,) = torch.autograd.grad(graph_attention(q, k, v, graph, backend="cpu").square().sum(), dense)
    graph = SpatioTemporalGraph.from_dense(dense)
    (expected,) = torch.autograd.grad(graph_attention(q, k, v, graph, backend="reference").square().sum(), dense)
    torch.testing.assert_close(actual, expected)
    assert actual.any() and not actual[dense == 0].any()


def test_gradients_are_the_weights_own():
    x = video_like_tokens(1, 2, 20, 16).requires_grad_()
    graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend="cpu")
    graph.weight.retain_grad()
    graph.weight.square().sum().backward()
    torch.testing.assert_close(graph.weight.grad, 2 * graph.weight.detach())
    assert not hasattr(graph, "grad")


def sparse_batch(B=4):
    """A graph whose samples have edges in different tiles, with the map of its tiles."""
    dense = torch.zeros(B, 140, 140)
    for b in range(B):
        dense[b, 30 * b, 20 * b] = b + 1
    graph = SpatioTemporalGraph.from_dense(dense, frames=2)
    assert graph.live.any()
    return graph


INDICES = [
    (2, [2]),
    (-1, [3]),
    (slice(1, 3), [1, 2]),
    (slice(None, None, 2), [0, 2]),
    (slice(4, None), []),
    (torch.tensor([3, 0, 0, -2]), [3, 0, 0, 2]),
    (torch.tensor([], dtype=torch.int64), []),
    (torch.tensor([True, False, False, True]), [0, 3]),
]


@pytest.mark.parametrize(("index", "samples"), INDICES, ids=[str(index) for index, _ in INDICES])
@pytest.mark.parametrize("known", [False, True])
def test_an_index_selects_samples(index, samples, known):
    graph = sparse_batch() if known else SpatioTemporalGraph(sparse_batch().weight)
    part = graph[index]
    assert isinstance(part, SpatioTemporalGraph) and len(part) == part.batch_size == len(samples)
    assert (part.frames, part.patches, part.window) == (graph.frames, graph.patches, graph.window)
    assert torch.equal(part.weight, graph.weight[samples]) and torch.equal(part.live, sparse_batch().live[samples])


def test_a_graph_is_a_sequence_of_graphs_of_one_sample():
    graph = sparse_batch()
    assert len(graph) == 4 and [part.weight.amax().item() for part in graph] == [1, 2, 3, 4]


def test_attention_along_selected_samples():
    graph, q = video_graph(4, 2, 20), heads(4, 2, 40, 8)
    out = graph_attention(q, q, q, graph, backend="cpu")
    for index in (slice(1, 3), slice(0, 4, 2), torch.tensor([3, 1])):
        assert torch.equal(graph_attention(q[index], q[index], q[index], graph[index], backend="cpu"), out[index])


def test_a_changed_graph_changes_its_slices():
    graph = sparse_batch()
    part = graph[1:2]
    assert part.live.sum() == 1
    graph.weight[1, 0, 0, 1, 0] = 5
    assert part.weight[0, 0, 0, 1, 0] == 5 and torch.equal(part.live, live_tiles(part.weight))


def test_gradients_reach_selected_samples():
    weight = sparse_batch().weight.requires_grad_()
    part = SpatioTemporalGraph(weight)[torch.tensor([2, 0, 2])]
    (gradient,) = torch.autograd.grad(part.weight.sum(), weight)
    assert [gradient[b].unique().tolist() for b in range(4)] == [[1], [0], [2], [0]]


@pytest.mark.parametrize("index", [4, -5])
def test_a_sample_that_is_not_there(index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for a batch of 4"):
        sparse_batch()[index]


@pytest.mark.parametrize("index", [True, 1.0, "0", (0, 1), [0, 1], None, torch.tensor(1), torch.tensor([1.0])], ids=str)
def test_what_is_no_index(index):
    with pytest.raises(ValueError, match="an index must be an integer, a slice or a tensor"):
        sparse_batch()[index]


def test_dtype_and_device():
    graph = video_graph(1, 2, 20, dtype=torch.bfloat16)
    assert (graph.dtype, graph.device) == (torch.float16, torch.device("cpu"))
    assert graph.to("meta").device.type == "meta" and graph.to(torch.float32).dtype == torch.float32


def test_a_window_beyond_the_clip_joins_all_frames():
    dense = banded_dense(1, 3, 5, 2)
    graph = SpatioTemporalGraph.from_dense(dense, 3, window=7)
    assert graph.window == 2 and torch.equal(graph.to_dense(), dense)


def test_to_and_detach():
    graph = video_graph(1, 2, 70)
    assert graph.to(torch.float64).weight.dtype == torch.float64
    assert torch.equal(graph.to(torch.float16).weight, graph.weight.half())
    on_meta = graph.to("meta")
    assert on_meta.weight.device.type == on_meta.live.device.type == "meta"
    weight = graph.weight.clone().requires_grad_()
    assert not SpatioTemporalGraph(weight).detach().weight.requires_grad


def test_pytree_and_pickle():
    graph = video_graph(1, 2, 70)
    leaves, spec = pytree.tree_flatten({"graph": graph, "other": 1})
    assert leaves[0] is graph.weight and leaves[1] == 1
    doubled = pytree.tree_unflatten([leaves[0] * 2, *leaves[1:]], spec)["graph"]
    assert isinstance(doubled, SpatioTemporalGraph) and torch.equal(doubled.weight, 2 * graph.weight)
    ((path, leaf),) = pytree.tree_flatten_with_path(graph)[0]
    assert pytree.keystr(path) == ".weight" and leaf is graph.weight
    copy = pickle.loads(pickle.dumps(graph))
    assert torch.equal(copy.weight, graph.weight) and torch.equal(copy.live, graph.live)


def test_repr_names_the_sizes():
    graph = video_graph(1, 2, 70, dtype=torch.bfloat16)
    expected = "SpatioTemporalGraph(batch_size=1, frames=2, patches=70, window=1, dtype=torch.float16, device=cpu)"
    assert repr(graph) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_conversions_under_autocast(dtype):
    dense = banded_dense(1, 3, 5, 1, torch.float16)
    with torch.autocast("cpu", dtype):
        assert torch.equal(SpatioTemporalGraph.from_dense(dense, frames=3).to_dense(), dense)


def test_memory_grows_linearly_with_frames():
    x = torch.randn(1, 64, 8, 4)
    graph = spatio_temporal_graph(x, threshold=-1, backend="cpu")
    assert graph.weight.numel() == 64 * 8 * 3 * 8
    assert graph.weight.untyped_storage().nbytes() == graph.weight.numel() * 4


def test_integers_of_numpy_are_integers():
    two = np.int64(2)
    graph, tokens = SpatioTemporalGraph.from_dense(banded_dense(3, 2, 4, 1), frames=two), torch.randn(1, 3, 4, 5)
    assert (graph.frames, graph.window) == (2, 1) and type(graph.frames) is int
    assert torch.equal(graph[two].weight, graph.weight[2:])
    built = spatio_temporal_graph(tokens, threshold=0.0, window=np.uint8(2))
    assert torch.equal(built.weight, spatio_temporal_graph(tokens, threshold=0.0, window=2).weight)
