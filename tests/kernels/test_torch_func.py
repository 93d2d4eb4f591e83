"""torch.func's transforms of the ops: gradients and vector-Jacobian products, and calls mapped over a dimension."""

import pytest
import torch
from helpers.cases import each_backend, each_kernel, heads, on, same_bits, video_graph
from torch.func import grad, jacrev, jvp, vjp, vmap

from stgt_kernels import (
    GraphAttention,
    RaggedGraph,
    SpatioTemporalGraph,
    edge_attention,
    graph_attention,
    spatio_temporal_graph,
)
from stgt_kernels.testing import video_like_tokens

B, H, T, P, D = 2, 2, 3, 20, 8


def inputs(backend, count=3):
    """q, k and v, and a graph's weights, which require no gradients."""
    return on(backend, *(heads(B, H, T * P, D, seed=seed) for seed in range(count)), video_graph(B, T, P).weight)


def samples(backend, count=4):
    """Tokens (count, B, T, P, C) and queries (count, B, H, N, D)."""
    x = torch.stack([video_like_tokens(B, T, P, 16, seed=seed) for seed in range(count)])
    q = torch.stack([heads(B, H, T * P, D, seed=10 + seed) for seed in range(count)])
    return on(backend, x, q)


def attention_loss(backend):
    def loss(q, k, v, weight):
        out, lse = graph_attention(q, k, v, SpatioTemporalGraph(weight), return_lse=True, backend=backend)
        return out.square().sum() + lse.sum()

    return loss


def build(backend, x):
    return spatio_temporal_graph(x, threshold=0.3, differentiable=True, backend=backend)


def equal(actual, expected):
    return all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@each_backend
def test_grad_of_attention_is_autograd_s(backend):
    loss, tensors = attention_loss(backend), inputs(backend)
    leaves = [t.clone().requires_grad_() for t in tensors]
    assert equal(grad(loss, (0, 1, 2, 3))(*tensors), torch.autograd.grad(loss(*leaves), leaves))


@each_backend
def test_vjp_of_the_graph_is_autograd_s(backend):
    x = samples(backend)[0][0]
    weight, pull_back = vjp(lambda x: build(backend, x).weight, x)
    dweight = torch.randn(weight.shape).to(weight)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(build(backend, leaf).weight, leaf, dweight)
    assert same_bits(pull_back(dweight)[0], expected)


@each_kernel
def test_grad_of_a_module_s_parameters(backend):
    module = GraphAttention(16, 2, backend=backend)
    x, graph = on(backend, torch.randn(B, T * P, 16), video_graph(B, T, P))
    module.to(x.device)
    parameters = dict(module.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x, graph)).square().sum()

    actual = grad(loss)(parameters)
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    assert equal([actual[name] for name in parameters], expected)


@each_kernel
def test_second_derivatives_are_refused(backend):
    q, k, v, weight = inputs(backend)
    loss = attention_loss(backend)
    with pytest.raises(RuntimeError, match="graph_attention: the kernels have no second derivatives"):
        grad(lambda q: grad(loss)(q, k, v, weight).sum())(q)
    x = samples(backend)[0][0]
    with pytest.raises(RuntimeError, match="spatio_temporal_graph: the kernels have no second derivatives"):
        grad(lambda x: grad(lambda x: build(backend, x).weight.square().sum())(x).sum())(x)


def test_the_reference_has_forward_mode_derivatives():
    q, k, v, weight = (t.double() for t in inputs("reference"))

    def loss(q):
        return attention_loss("reference")(q, k, v, weight)

    _, actual = jvp(loss, (q,), (v,))
    torch.testing.assert_close(actual, (grad(loss)(q) * v).sum())


@each_kernel
@pytest.mark.filterwarnings("error")
class TestVmap:
    """Mapped calls equal a loop of calls, bit for bit. A loop that PyTorch falls back to would warn."""

    def test_attention(self, backend):
        _, k, v, weight = inputs(backend)
        queries, graph = samples(backend)[1], SpatioTemporalGraph(weight)

        def attend(q):
            return graph_attention(q, k, v, graph, return_lse=True, backend=backend)

        assert equal(vmap(attend)(queries), [torch.stack(t) for t in zip(*map(attend, queries), strict=True)])
        last = vmap(attend, in_dims=-1, out_dims=1)(queries.movedim(0, -1).contiguous())
        assert same_bits(last[0].transpose(0, 1), vmap(attend)(queries)[0])

    def test_graphs_are_made_taken_and_given(self, backend):
        x, queries = samples(backend)
        graphs = vmap(lambda x: build(backend, x))(x)
        assert isinstance(graphs, SpatioTemporalGraph) and graphs.weight.shape == (4, B, T, P, 3, P)
        assert same_bits(graphs.weight, torch.stack([build(backend, sample).weight for sample in x]))

        def attend(q, graph):
            return graph_attention(q, q, q, graph, backend=backend)

        expected = torch.stack([attend(q, build(backend, sample)) for q, sample in zip(queries, x, strict=True)])
        assert same_bits(vmap(attend)(queries, graphs), expected)

    def test_gradients_of_each_sample(self, backend):
        x, queries = samples(backend)
        _, k, v, weight = inputs(backend)

        def loss(x, q):
            return graph_attention(q, k, v, build(backend, x), backend=backend).square().sum()

        each = [grad(loss, (0, 1))(*sample) for sample in zip(x, queries, strict=True)]
        assert equal(vmap(grad(loss, (0, 1)))(x, queries), [torch.stack(t) for t in zip(*each, strict=True)])
        only_q = attention_loss(backend)
        expected = torch.stack([grad(only_q)(q, k, v, weight) for q in queries])
        assert same_bits(vmap(grad(only_q), (0, None, None, None))(queries, k, v, weight), expected)

    def test_the_jacobian_in_v_is_the_attention(self, backend):
        q, k, _, weight = inputs(backend)
        q, k, graph = q[:1, :1], k[:1, :1], SpatioTemporalGraph(weight[:1])
        v = torch.randn(1, 1, T * P, D).to(q)
        jacobian = jacrev(lambda v: graph_attention(q, k, v, graph, backend=backend))(v)[0, 0, :, :, 0, 0]
        out = torch.einsum("ndmc,mc->nd", jacobian, v[0, 0])
        torch.testing.assert_close(out, graph_attention(q, k, v, graph, backend=backend)[0, 0])

    @pytest.mark.parametrize("randomness", ["same", "different"])
    def test_dropout_is_refused(self, backend, randomness):
        _, k, v, weight = inputs(backend)

        def attend(q):
            return graph_attention(q, k, v, SpatioTemporalGraph(weight), dropout_p=0.1, backend=backend)

        with pytest.raises(ValueError, match="graph_attention: torch.func.vmap cannot map dropout"):
            vmap(attend, randomness=randomness)(samples(backend)[1])


def compiled_alike(gradients, *arguments):
    expected, actual = gradients(*arguments), torch.compile(gradients, fullgraph=True, backend="aot_eager")(*arguments)
    assert all(same_bits(a, e) and e.any() for a, e in zip(actual, expected, strict=True))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dout):
        return 2 * ctx.saved_tensors[0] * dout


@pytest.fixture(scope="module")
def compiler_knows_functions_in_transforms():
    """PyTorch's compiler learned it after 2.10, where even this function, which has nothing of this package, fails."""
    square = torch.compile(grad(lambda x: Square.apply(x.view_as(x)).sum()), fullgraph=True, backend="aot_eager")
    try:
        square(torch.ones(3))
    except torch._dynamo.exc.InternalTorchDynamoError as error:
        if "it must override the setup_context staticmethod" not in str(error):
            raise
        pytest.skip("this PyTorch cannot compile an autograd function inside of torch.func.grad")


@each_kernel
@pytest.mark.usefixtures("compiler_knows_functions_in_transforms")
class TestCompiledTransforms:
    def test_graph_construction(self, backend):
        compiled_alike(lambda x: (grad(lambda x: build(backend, x).weight.square().sum())(x),), samples(backend)[0][0])

    def test_graph_attention(self, backend):
        compiled_alike(grad(attention_loss(backend), (0, 1, 2, 3)), *inputs(backend))

    def test_edge_attention(self, backend):
        generator = torch.Generator().manual_seed(0)
        edge_index = torch.randint(10, (2, 30), generator=generator)
        graph = RaggedGraph.from_edge_index(on(backend, edge_index), 10)

        def loss(q, k, v, edge_scale, edge_bias):
            out, scores = edge_attention(
                q, k, v, graph, edge_scale=edge_scale, edge_bias=edge_bias, return_scores=True, backend=backend
            )
            return out.square().sum() + scores.square().sum()

        sizes = ((10, H, D), (10, H, D), (10, H, D), (30, H), (30, H))
        compiled_alike(grad(loss, (0, 1, 2, 3, 4)), *on(backend, *(torch.randn(size) for size in sizes)))


@each_backend
def test_heads_may_be_missing(backend):
    graph = on(backend, torch.ones(1, 1, 6, 1, 6))
    out = vmap(lambda q: graph_attention(q, q, q, SpatioTemporalGraph(graph), backend=backend))(
        on(backend, torch.randn(3, 1, 0, 6, 8))
    )
    assert out.shape == (3, 1, 0, 6, 8)


@each_kernel
def test_a_call_does_what_it_did_before_transforms(backend, monkeypatch):
    """PyTorch inspects a function's signature on each call of it, unless told otherwise; that takes longest."""
    import inspect

    def inspected(*_, **__):
        raise AssertionError("the signature was inspected")

    q, k, v, weight = inputs(backend)
    x = samples(backend)[0][0]
    build(backend, x.clone().requires_grad_()).weight.sum().backward()  # loads what is loaded once
    monkeypatch.setattr(inspect, "signature", inspected)
    graph_attention(q.clone().requires_grad_(), k, v, SpatioTemporalGraph(weight), backend=backend).sum().backward()
    build(backend, x.clone().requires_grad_()).weight.sum().backward()
