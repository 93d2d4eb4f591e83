"""SpatioTemporalGraph keeps its promises: the map of tiles agrees with the weights, and no weight is lost."""

import copy
import pickle

import pytest
import torch
from helpers.cases import BACKENDS, dtype_name, heads, on, same_bits, video_graph
from torch.utils import _pytree as pytree

from stgt_kernels import GraphAttention, SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.graph import live_tiles
from stgt_kernels.testing import video_like_tokens


def sparse_graph():
    """Two frames of two tiles each. Only the first tiles have edges, and only within a frame."""
    weight = torch.zeros(1, 2, 70, 3, 70)
    weight[:, :, :20, 1, :20] = 0.5
    return SpatioTemporalGraph(weight)


def test_the_map_is_not_given():
    graph = sparse_graph()
    with pytest.raises(TypeError):
        SpatioTemporalGraph(graph.weight, graph.live)
    with pytest.raises(AttributeError):
        graph.live = torch.ones_like(graph.live)
    with pytest.raises(AttributeError):
        graph.weight = torch.ones_like(graph.weight)


@pytest.mark.parametrize("change", ["slice", "fill", "out", "optimizer", "under no_grad"])
def test_the_map_follows_changes_in_place(change):
    graph = sparse_graph()
    assert not graph.live.all()
    if change == "slice":
        graph.weight[0, 0, 69, 2, 69] = 1
    elif change == "fill":
        graph.weight.fill_(0.25)
    elif change == "out":
        torch.add(graph.weight, 1, out=graph.weight)
    elif change == "optimizer":
        weight = graph.weight.requires_grad_()
        weight.sum().backward()
        torch.optim.SGD([weight], lr=1).step()
    else:
        with torch.no_grad():
            graph.weight[0, 1, 64, 0, 64] = 1
    assert torch.equal(graph.live, live_tiles(graph.weight.detach()))
    q = heads(1, 2, 140, 8)
    expected = graph_attention(q, q, q, graph, backend="reference")
    torch.testing.assert_close(graph_attention(q, q, q, graph, backend="cpu"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_built_graph_s_map_follows_changes_in_place(backend):
    x = on(backend, video_like_tokens(1, 2, 130, 8))
    graph = spatio_temporal_graph(x, threshold=0.99, backend=backend).to("cpu")
    graph.weight.fill_(0.5)
    assert graph.live.all()


def test_conversions_keep_the_map():
    graph = sparse_graph()
    for other in (
        graph.to(torch.float16),
        graph.detach(),
        graph.unweighted(),
        copy.deepcopy(graph),
        copy.copy(graph),
        pickle.loads(pickle.dumps(graph)),
        pytree.tree_map(lambda x: x, graph),
    ):
        assert torch.equal(other.live, graph.live) and torch.equal(other.weight != 0, graph.weight != 0)
    everywhere = pytree.tree_map(lambda x: x + 1, graph)
    assert everywhere.live.all()


def test_unweighted():
    graph = video_graph(1, 2, 20)
    assert torch.equal(graph.unweighted().weight, (graph.weight != 0).float())


def test_graphs_made_in_inference_mode():
    with torch.inference_mode():
        graph = spatio_temporal_graph(video_like_tokens(1, 2, 70, 8), threshold=0.5, backend="cpu")
        assert torch.equal(graph.live, live_tiles(graph.weight))
        q = heads(1, 2, 140, 8)
        out = graph_attention(q, q, q, graph, backend="cpu")
        assert same_bits(out, graph_attention(q, q, q, SpatioTemporalGraph(graph.weight), backend="cpu"))


def test_weights_that_half_precision_cannot_hold_are_refused():
    for value, problem in ((1e5, "1 weights would become infinite"), (1e-8, "1 edges would vanish")):
        weight = torch.zeros(1, 4, 4)
        weight[0, 0, 1], weight[0, 1, 2] = value, 0.5
        graph = SpatioTemporalGraph.from_dense(weight)
        with pytest.raises(ValueError, match=f"{problem}.*float16.*5.96e-08 to 6.55e.04.*Keep the graph"):
            graph.to(torch.float16)
        with pytest.raises(ValueError, match=problem):
            SpatioTemporalGraph.from_dense(weight.double()).to(dtype=torch.float16)
    fits = torch.tensor([[[6e4, 1e-7], [float("inf"), float("nan")]]])
    assert SpatioTemporalGraph.from_dense(fits).to(torch.float16).weight.dtype == torch.float16


def test_weights_that_float32_cannot_hold_are_refused():
    graph = SpatioTemporalGraph.from_dense(torch.tensor([[[1e300, 1e-300], [1, 0]]], dtype=torch.float64))
    with pytest.raises(ValueError, match="1 weights would become infinite and 1 edges would vanish in float32"):
        graph.to(torch.float32)


@pytest.mark.parametrize("value", [1e5, 1e-8, 3e38, 1e-38])
def test_dense_bfloat16_weights_are_kept_as_they_are(value):
    dense = torch.full((1, 4, 4), value, dtype=torch.bfloat16)
    graph = SpatioTemporalGraph.from_dense(dense)
    assert graph.weight.dtype == torch.float32 and torch.equal(graph.to_dense().bfloat16(), dense)
    q = heads(1, 1, 4, 8, dtype=torch.bfloat16)
    assert graph_attention(0 * q, q, q, graph, backend="cpu").isfinite().all()


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="weights are kept in float16, float32 or float64, got torch.bfloat16"):
        sparse_graph().to(torch.bfloat16)
    graph = SpatioTemporalGraph(sparse_graph().weight.requires_grad_())
    with pytest.raises(ValueError, match="weights that require gradients must stay in float32"):
        graph.to(torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=dtype_name)
def test_dense_half_precision_weights_that_require_gradients_become_float32(dtype):
    dense = torch.rand(1, 4, 4).to(dtype).requires_grad_()
    graph = SpatioTemporalGraph.from_dense(dense)
    assert graph.weight.dtype == torch.float32 and graph.weight.requires_grad
    (gradient,) = torch.autograd.grad(graph.weight.sum(), dense)
    assert gradient.dtype == dtype and gradient.eq(1).all()


def test_compiled_code_does_not_narrow_weights_unseen():
    def narrow(weight):
        return SpatioTemporalGraph(weight).to(torch.float16).weight

    with pytest.raises(Exception, match="cannot convert weights to float16"):
        torch.compile(narrow, fullgraph=True, backend="eager")(torch.ones(1, 1, 4, 1, 4))


class Attend(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = GraphAttention(16, 2)

    def forward(self, x, graph):
        return self.attention(x, graph), graph.unweighted()


def test_programs_are_exported_for_any_number_of_frames_and_patches():
    class Layer(torch.nn.Module):
        def forward(self, x):
            q = x.flatten(1, 2)[:, None]
            return graph_attention(q, q, q, spatio_temporal_graph(x, threshold=0.5))

    T, P = torch.export.Dim("T", min=2, max=30), torch.export.Dim("P", min=65, max=300)
    program = torch.export.export(Layer(), (video_like_tokens(1, 4, 70, 8),), dynamic_shapes={"x": {1: T, 2: P}})
    x = video_like_tokens(1, 5, 130, 8)
    assert same_bits(program.module()(x), Layer()(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=dtype_name)
def test_export_takes_and_gives_graphs(dtype, strict):
    module, graph = Attend().to(dtype), video_graph(1, 2, 70, dtype=dtype)
    x = torch.randn(1, 140, 16).to(dtype)
    exported = torch.export.export(module, (x, graph), strict=strict).module()
    other = video_graph(1, 2, 70, threshold=0.8, dtype=dtype, seed=3)
    (expected, ones), (actual, exported_ones) = module(x, other), exported(x, other)
    torch.testing.assert_close(actual, expected)
    assert isinstance(exported_ones, SpatioTemporalGraph) and torch.equal(exported_ones.weight, ones.weight)


def test_a_graph_that_was_first_used_in_inference_mode_can_be_trained_on():
    graph = SpatioTemporalGraph.from_dense(torch.rand(1, 8, 8))
    q = torch.randn(1, 1, 8, 4)
    with torch.inference_mode():
        expected = graph_attention(q, q, q, graph)
    out = graph_attention(q.requires_grad_(), q, q, graph)
    assert same_bits(out.detach(), expected)
    out.sum().backward()
    assert q.grad.isfinite().all()


def test_the_map_holds_no_tensor_of_a_transform():
    graph, q = SpatioTemporalGraph.from_dense(torch.rand(1, 8, 8)), torch.randn(1, 1, 8, 4)
    torch.func.grad(lambda q: graph_attention(q, q, q, graph).sum())(q)
    assert torch.equal(pickle.loads(pickle.dumps(graph.live)), torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))


@pytest.mark.parametrize("fused", [False, True])
def test_the_map_follows_an_optimizer(fused):
    """A fused optimizer changes parameters without PyTorch's count of changes."""
    weight = torch.zeros(1, 1, 8, 1, 8, requires_grad=True)
    graph = SpatioTemporalGraph(weight)
    assert not graph.live.any()
    weight.grad = -torch.ones_like(weight)
    torch.optim.Adam([weight], lr=0.1, fused=fused).step()
    assert graph.live.all()
    q = torch.randn(1, 1, 8, 4)
    assert same_bits(graph_attention(q, q, q, graph), graph_attention(q, q, q, SpatioTemporalGraph(weight)))


@pytest.mark.parametrize("wanted_first", [False, True])
def test_compiled_code_follows_a_parameter(wanted_first):
    """The map of tiles was cached by a call outside of the compiled code. Then the edges move to other tiles."""
    weight = torch.zeros(1, 1, 130, 1, 130)
    weight[..., :64, :, :64] = 1
    graph, q = SpatioTemporalGraph(weight.requires_grad_(wanted_first)), torch.randn(1, 2, 130, 8)
    graph_attention(q, q, q, graph)
    weight.requires_grad_()
    compiled = torch.compile(graph_attention, fullgraph=True, backend="aot_eager")
    compiled(q, q, q, graph)
    with torch.no_grad():
        weight.copy_(weight.flip(2, 4))
    assert same_bits(compiled(q, q, q, graph), graph_attention(q, q, q, SpatioTemporalGraph(weight.clone())))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_may_be_longer_than_the_clip(backend):
    own = video_graph(1, 2, 5)
    wide = torch.zeros(1, 2, 5, 9, 5)
    wide[:, :, :, 3:6] = own.weight
    graph = SpatioTemporalGraph(on(backend, wide))
    assert torch.equal(graph.to_dense().cpu(), own.to_dense()) and graph.density().cpu() == own.density()
    q = heads(1, 2, 10, 8)
    expected = graph_attention(q, q, q, own, backend="reference")
    q = on(backend, q)
    actual = graph_attention(q, q, q, graph, backend=backend)
    torch.testing.assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=dtype_name)
def test_an_index_may_be_of_any_integer_type(dtype):
    graph = video_graph(3, 2, 5)
    assert torch.equal(graph[torch.tensor([2, 0, 0], dtype=dtype)].weight, graph.weight[[2, 0, 0]])
