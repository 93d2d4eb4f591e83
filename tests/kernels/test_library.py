"""The ops as torch.library and torch.compile see them."""

from contextlib import nullcontext

import pytest
import torch
from helpers.cases import DTYPES, KERNELS, device_of, dtype_name, each_kernel, heads, moved, on, same_bits, video_graph
from torch.library import opcheck

from stgt_kernels import GraphAttention, SpatioTemporalGraph, dispatch, graph_attention, spatio_temporal_graph
from stgt_kernels.ops.graph_attention import native_impl as attention_native  # registers ops and fakes
from stgt_kernels.ops.spatio_temporal_graph import native_impl as graph_native
from stgt_kernels.testing import video_like_tokens

ops = torch.ops.stgt_kernels
each_native = pytest.mark.parametrize("backend", [backend for backend in KERNELS if backend != "triton"])
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def leaf(name, backend):
    """A leaf operator. CPU and CUDA share one, and the module of Triton's launches registers another."""
    if backend == "triton":
        import stgt_kernels.ops.graph_attention.triton_impl
        import stgt_kernels.ops.spatio_temporal_graph.triton_impl  # noqa: F401
    return getattr(ops, f"{name}_triton" if backend == "triton" else name).default


def graph_arguments(dtype=torch.float32, differentiable=False, B=2, T=3, P=70, C=24):
    return video_like_tokens(B, T, P, C, dtype=dtype), 0.5, 1, differentiable


def attention_arguments(
    dtype=torch.float32, dropout_p=0.0, layout="heads", differentiable=False, B=2, H=2, T=2, P=70, D=24
):
    graph = video_graph(B, T, P, dtype=dtype, differentiable=differentiable)
    q, k, v = (heads(B, H, T * P, D, dtype=dtype, layout=layout, seed=seed) for seed in range(3))
    seed = torch.tensor([2**62 + 7]) if dropout_p else None
    return q, k, v, graph.weight, graph.live, seed, D**-0.5, dropout_p


def backward_arguments(need_dweight=True, **options):
    """Arguments of the backward operator, on the CPU. Its kernels compute out and lse."""
    arguments = attention_arguments(**options, differentiable=need_dweight)
    out, lse = ops.graph_attention_fwd(*arguments)
    *inputs, scale, dropout_p = arguments
    return torch.randn_like(out), *inputs, out, lse, torch.randn_like(lse), scale, dropout_p, need_dweight


def graph_backward_arguments(dtype=torch.float32):
    x, *rest = graph_arguments(dtype, differentiable=True)
    weight, _, inv_norm = ops.spatio_temporal_graph_fwd(x, *rest)
    return torch.randn_like(weight), x, weight, inv_norm


@each_kernel
@all_dtypes
class TestOpcheck:
    def test_spatio_temporal_graph_fwd(self, dtype, backend):
        x, *rest = graph_arguments(dtype)
        forward = leaf("spatio_temporal_graph_fwd", backend)
        opcheck(forward, on(backend, x, *rest))
        opcheck(forward, on(backend, x.transpose(1, 2), float("-inf"), 0, True))

    def test_spatio_temporal_graph_bwd(self, dtype, backend):
        opcheck(leaf("spatio_temporal_graph_bwd", backend), on(backend, *graph_backward_arguments(dtype)))

    @pytest.mark.parametrize("dropout_p", [0.0, 0.2])
    @pytest.mark.parametrize("layout", ["contiguous", "packed", "strided"])
    def test_graph_attention_fwd(self, dtype, backend, dropout_p, layout):
        arguments = on(backend, *attention_arguments(dtype, dropout_p, layout, differentiable=layout == "packed"))
        opcheck(leaf("graph_attention_fwd", backend), arguments)

    @pytest.mark.parametrize("dropout_p", [0.0, 0.2])
    @pytest.mark.parametrize("need_dweight", [False, True])
    def test_graph_attention_bwd(self, dtype, backend, dropout_p, need_dweight):
        arguments = on(backend, *backward_arguments(need_dweight, dtype=dtype, dropout_p=dropout_p))
        opcheck(leaf("graph_attention_bwd", backend), arguments)


@each_kernel
@all_dtypes
def test_inputs_are_never_written(dtype, backend):
    arguments = on(backend, *backward_arguments(dtype=dtype, dropout_p=0.2))
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    leaf("graph_attention_bwd", backend)(*arguments)
    leaf("graph_attention_fwd", backend)(*arguments[1:7], *arguments[10:12])
    x = on(backend, graph_arguments(dtype)[0])
    leaf("spatio_temporal_graph_fwd", backend)(x, 0.5, 1, False)
    assert torch.equal(x.cpu(), graph_arguments(dtype)[0])
    for now, then in zip(arguments, before, strict=True):
        assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then


def changed(arguments, index, value):
    return (*arguments[:index], value, *arguments[index + 1 :])


@each_native
class TestDirectCalls:
    """torch.ops can be called with anything. Arguments that do not fit raise, and no foreign memory is read."""

    def refused(self, op, arguments, message, backend):
        with pytest.raises(RuntimeError, match=f"{op}: .*{message}"):
            getattr(ops, op)(*moved(arguments, device_of(backend)))

    @pytest.mark.parametrize(
        ("index", "value", "message"),
        [
            (0, torch.randn(2, 3, 24), r"x must be \(B, T, P, C\), got 3"),
            (0, torch.zeros(2, 3, 70, 24, dtype=torch.int32), "x must be float32"),
            (2, 3, "0 <= window < T=3, got 3"),
            (2, -1, "0 <= window < T=3, got -1"),
        ],
    )
    def test_spatio_temporal_graph_fwd(self, index, value, message, backend):
        self.refused("spatio_temporal_graph_fwd", changed(graph_arguments(), index, value), message, backend)

    @pytest.mark.parametrize(
        ("index", "value", "message"),
        [
            (0, torch.randn(2, 3, 70, 3, 69), "dweight must have size 70 in dimension 4, got 69"),
            (0, torch.randn(2, 3, 70, 3, 70).half(), "dweight must be float32, got float16"),
            (1, torch.randn(2, 2, 70, 24), "weight must have size 2"),
            (2, torch.randn(2, 3, 70, 70), "weight must be"),
            (2, torch.randn(2, 3, 70, 3, 70).double(), "weight must be float32, got float64"),
            (3, torch.randn(2, 3, 69), "inv_norm must have size 70"),
            (3, torch.randn(2, 3, 70).double(), "inv_norm must be float32, got float64"),
        ],
    )
    def test_spatio_temporal_graph_bwd(self, index, value, message, backend):
        self.refused("spatio_temporal_graph_bwd", changed(graph_backward_arguments(), index, value), message, backend)

    WRONG = [
        (0, torch.randn(2, 140, 24), "q must be"),
        (0, torch.randn(2, 2, 139, 24), "q must have size 140 in dimension 2, got 139"),
        (0, torch.randn(1, 2, 140, 24), "must have size 1 in dimension 0, got 2"),
        (0, torch.randn(2, 2, 140, 129), "1 <= D <= 128, got 129"),
        (0, torch.zeros(2, 2, 140, 24, dtype=torch.int64), "q must be float32"),
        (1, torch.randn(2, 2, 140, 23), "k must have size 24 in dimension 3, got 23"),
        (1, torch.randn(2, 2, 140, 24).double(), "k must be float32, got float64"),
        (2, torch.randn(2, 1, 140, 24), "v must have size 2 in dimension 1, got 1"),
        (2, torch.randn(2, 2, 140, 24).half(), "v must be float32, got float16"),
        (3, torch.randn(2, 140, 140), "weight"),
        (3, torch.randn(2, 2, 70, 3, 69), "weight must have size 70 in dimension 4, got 69"),
        (3, torch.randn(2, 2, 70, 4, 70), "weight must have size 5 in dimension 3, got 4"),
        (3, torch.randn(2, 2, 70, 3, 70).half(), "weight must be float32, got float16"),
        (4, torch.ones(2, 2, 1, 3, 1, dtype=torch.bool), "live must have size 2 in dimension 2, got 1"),
        (4, torch.ones(2, 2, 2, 3, 2), "live must be bool, got float32"),
    ]

    @pytest.mark.parametrize(("index", "value", "message"), WRONG)
    def test_graph_attention_fwd(self, index, value, message, backend):
        self.refused("graph_attention_fwd", changed(attention_arguments(), index, value), message, backend)

    @pytest.mark.parametrize(("index", "value", "message"), WRONG)
    def test_graph_attention_bwd(self, index, value, message, backend):
        self.refused("graph_attention_bwd", changed(backward_arguments(), index + 1, value), message, backend)

    @pytest.mark.parametrize(
        ("index", "value", "message"),
        [
            (4, torch.zeros(2, 2, 70, 3, 70).half(), "weight must be float32, got float16"),
            (0, torch.randn(2, 2, 140, 23), "dout must have size 24"),
            (0, torch.randn(2, 2, 140, 24).double(), "dout must be float32, got float64"),
            (7, torch.randn(2, 2, 140, 23), "out must have size 24"),
            (7, torch.randn(2, 2, 140, 24).double(), "out must be float32, got float64"),
            (8, torch.randn(2, 2, 139), "lse must have size 140"),
            (8, torch.randn(2, 2, 140).half(), "lse must be float32, got float16"),
            (9, torch.randn(2, 2, 139), "dlse must have size 140"),
            (9, torch.randn(2, 2, 140).half(), "dlse must be float32, got float16"),
        ],
    )
    def test_graph_attention_bwd_alone(self, index, value, message, backend):
        self.refused("graph_attention_bwd", changed(backward_arguments(), index, value), message, backend)

    @pytest.mark.parametrize(
        ("seed", "dropout_p"),
        [
            (None, 0.5),
            (torch.tensor([1]), 1.0),
            (torch.tensor([1]), 2.0),
            (torch.tensor([1.0]), 0.5),
            (torch.tensor([], dtype=torch.int64), 0.5),
        ],
    )
    def test_dropout(self, seed, dropout_p, backend):
        arguments = changed(changed(attention_arguments(), 5, seed), 7, dropout_p)
        self.refused("graph_attention_fwd", arguments, "", backend)


def model(x, projection, dropout_p=0.0, differentiable=False):
    """Builds the graph and attends along it. q and k are one tensor, as in a model without projections."""
    graph = spatio_temporal_graph(x, threshold=0.5, differentiable=differentiable)
    q = x.flatten(1, 2).unflatten(2, (2, -1)).transpose(1, 2)
    v = (x @ projection).flatten(1, 2).unflatten(2, (2, -1)).transpose(1, 2)
    out, lse = graph_attention(q, q, v, graph, dropout_p=dropout_p, return_lse=True)
    return out.transpose(1, 2).flatten(2), lse, graph


def auto(backend):
    """A context in which ``auto`` takes this backend. It takes CPU and CUDA by itself, but has to be told of Triton."""
    return dispatch.use_backend(backend) if backend == "triton" else nullcontext()


def leaves(backend, T=3, P=20):
    x, projection = on(backend, video_like_tokens(2, T, P, 16), heads(1, 1, 16, 16)[0, 0].clone())
    return x.requires_grad_(), projection.requires_grad_()


def gradients(function, tensors, **options):
    torch.manual_seed(0)
    out, lse, graph = function(*tensors, **options)
    return out, lse, graph.weight, *torch.autograd.grad(out.square().sum() + lse.sum(), tensors)


@each_kernel
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_compile_traces_everything_and_changes_nothing(dropout_p, differentiable, backend):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    options = dict(dropout_p=dropout_p, differentiable=differentiable)
    with auto(backend):
        expected = gradients(model, leaves(backend), **options)
        results = gradients(compiled, leaves(backend), **options)
    for actual, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@each_kernel
def test_compile_with_inductor(backend):
    """Runs the whole compiler. It draws other dropout seeds, but forward and backward must have the same one."""
    x, projection = leaves(backend)

    def attend(x, v, dropout_p):
        graph = spatio_temporal_graph(x, threshold=0.5)
        q = x.flatten(1, 2).unflatten(2, (2, -1)).transpose(1, 2)
        return graph_attention(q * 2, q + 1, v, graph, dropout_p=dropout_p)

    v = torch.randn(2, 2, 60, 8, device=x.device, requires_grad=True)
    compiled = torch.compile(attend, fullgraph=True)
    with auto(backend):
        torch.testing.assert_close(compiled(x, v, 0.0), attend(x, v, 0.0))
        out, again = compiled(x, v, 0.3), compiled(x, v, 0.3)
    assert not torch.equal(out, again)
    dout = torch.randn_like(out)
    (dv,) = torch.autograd.grad(out, v, dout)
    # With a fixed mask, out is linear in v, so <dout, out> = <dv, v>.
    torch.testing.assert_close((dout * out).sum(), (dv * v).sum(), rtol=1e-4, atol=1e-3)


@each_kernel
def test_compile_with_dynamic_shapes(backend):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.utils.counters.clear()
    for T, P in ((3, 20), (4, 20), (4, 33), (2, 70)):
        with auto(backend):
            results = gradients(compiled, leaves(backend, T, P)), gradients(model, leaves(backend, T, P))
        for actual, wanted in zip(*results, strict=True):
            torch.testing.assert_close(actual, wanted)
    # One graph is for a single tile of 64 tokens, and another for several tiles.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@each_kernel
def test_compile_takes_and_gives_graphs(backend):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(graph, q):
        out = graph_attention(q, q, q, graph, backend=backend)
        sparser = SpatioTemporalGraph.from_dense(graph.to_dense().masked_fill(graph.to_dense() < 0.7, 0), 3)
        return out, sparser, graph.degree(), graph.density()

    graph, q = on(backend, video_graph(1, 3, 20), heads(1, 2, 60, 8))
    out, sparser, degree, density = step(graph, q)
    assert same_bits(out, graph_attention(q, q, q, graph, backend=backend))
    assert isinstance(sparser, SpatioTemporalGraph) and sparser.window == 2
    assert torch.equal(sparser.to_dense(), graph.to_dense().masked_fill(graph.to_dense() < 0.7, 0))
    assert torch.equal(degree, graph.degree()) and torch.equal(density, graph.density())


@pytest.mark.parametrize("backend", ["auto", *KERNELS, "reference"])
def test_compile_the_module(backend):
    x, graph = on(backend, torch.randn(2, 60, 16), video_graph(2, 3, 20))
    module = GraphAttention(16, 2, dropout=0.2, backend=backend).to(x.device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for forward in (module, compiled):
        torch.manual_seed(0)
        y = forward(x, graph)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_compile_refuses_what_eager_refuses():
    compiled = torch.compile(graph_attention, fullgraph=True, backend="aot_eager")
    q = torch.randn(1, 2, 40, 129)
    with pytest.raises(Exception, match="1 <= D <= 128"):
        compiled(q, q, q, video_graph(1, 2, 20))


@each_native
def test_fakes_say_what_the_kernels_return(backend):
    """The fakes have the kernels' shapes, dtypes and strides. Both are called through the package's own wrappers."""
    from torch._subclasses import FakeTensorMode

    calls = [
        (graph_native.forward, graph_arguments(torch.bfloat16)),
        (graph_native.forward, graph_arguments(torch.bfloat16, differentiable=True)),
        (attention_native.forward, attention_arguments(torch.bfloat16, 0.2, "packed")),
        (attention_native.backward, backward_arguments(dtype=torch.bfloat16)),
        (attention_native.backward, backward_arguments(need_dweight=False)),
    ]
    for function, arguments in calls:
        arguments = on(backend, *arguments)
        real = function(*arguments)
        with FakeTensorMode() as mode:
            fake = function(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments))
        for r, f in zip(real, fake, strict=True):
            assert (r is None) == (f is None)
            if r is not None:
                assert (r.shape, r.dtype, r.stride()) == (f.shape, f.dtype, f.stride())


def test_a_traced_program_scales_scores_as_exactly_as_the_op():
    """torch.jit.trace gives sizes as tensors."""
    q = torch.randn(1, 2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = SpatioTemporalGraph(torch.ones(1, 1, 6, 1, 6, dtype=torch.float64))

    def attention(q):
        return graph_attention(q, q, q, graph)

    traced = torch.jit.trace(attention, q, check_trace=False)  # the graph knows its tiles after the first call
    torch.testing.assert_close(traced(q), attention(q), rtol=0, atol=1e-14)
