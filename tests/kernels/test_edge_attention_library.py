"""edge_attention as torch.library, torch.compile and torch.func see it."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from helpers.cases import DTYPES, KERNELS, device_of, dtype_name, each_backend, each_kernel, moved, on, same_bits
from helpers.edges import call, node_heads, ragged_graph
from torch.library import opcheck

from stgt_kernels import RaggedGraph, dispatch, edge_attention
from stgt_kernels.ops.edge_attention import native_impl  # registers ops and fakes

ops = torch.ops.stgt_kernels
each_native = pytest.mark.parametrize("backend", [backend for backend in KERNELS if backend != "triton"])
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
GRAPH = ragged_graph([9, 1, 20], 100, types=4)
ROWS = (GRAPH.row_ptr, GRAPH.source, GRAPH.row_edge)
COLUMNS = (GRAPH.col_ptr, GRAPH.target, GRAPH.col_edge)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def leaf(name, backend):
    """A leaf operator: one for CPU and CUDA, another for Triton, which its module registers."""
    if backend == "triton":
        import stgt_kernels.ops.edge_attention.triton_impl  # noqa: F401
    return getattr(ops, f"{name}_triton" if backend == "triton" else name).default


def arguments(dtype=torch.float32, dropout_p=0.0, kind="types", layout="contiguous"):
    case = call(
        GRAPH, 2, 12, dtype=dtype, layout=layout, edge_scale=kind, edge_bias="edges" if kind == "types" else kind
    )
    values = [case.tensors.get(name) for name in ("edge_scale", "edge_bias")]
    types = GRAPH.edge_type if kind == "types" else None
    seed = torch.tensor([2**62 + 7]) if dropout_p else None
    return *(case.tensors[name] for name in "qkv"), *values, *ROWS, types, None, seed, 1.5, 12**-0.5, dropout_p


def backward_arguments(dtype=torch.float32, dropout_p=0.0, kind="types", dscores=True, needs=True):
    """Scores and softmax are what the CPU's kernel computes."""
    forward = arguments(dtype, dropout_p, kind)
    out, scores, softmax = ops.edge_attention_fwd(*forward)
    *tensors, clamp, scale, dropout_p = forward
    inputs = (*tensors[:8], *COLUMNS, *tensors[8:])
    gradients = torch.randn_like(out), torch.randn_like(scores) if dscores else None
    needs = needs and kind != "none"
    return *gradients, *inputs, scores, softmax, clamp, scale, dropout_p, needs, needs


@each_kernel
@all_dtypes
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["none", "edges", "types"])
class TestOpcheck:
    def test_fwd(self, kind, dropout_p, dtype, backend):
        layout = "packed" if kind == "edges" else "strided"
        opcheck(leaf("edge_attention_fwd", backend), on(backend, *arguments(dtype, dropout_p, kind, layout)))

    def test_bwd(self, kind, dropout_p, dtype, backend):
        options = dict(dscores=kind == "edges", needs=dropout_p == 0)
        opcheck(
            leaf("edge_attention_bwd", backend), on(backend, *backward_arguments(dtype, dropout_p, kind, **options))
        )


@each_kernel
@all_dtypes
def test_inputs_are_never_written(dtype, backend):
    given = on(backend, *backward_arguments(dtype, 0.2))
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
    leaf("edge_attention_bwd", backend)(*given)
    leaf("edge_attention_fwd", backend)(*on(backend, *arguments(dtype, 0.2)))
    for now, then in zip(given, before, strict=True):
        assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then


def changed(given, index, value):
    return (*given[:index], value, *given[index + 1 :])


@each_native
class TestDirectCalls:
    """torch.ops can be called with anything: what does not fit raises, and reads no memory that is not its own."""

    def refused(self, op, given, message, backend):
        with pytest.raises(RuntimeError, match=f"{op}: .*{message}"):
            getattr(ops, op)(*moved(given, device_of(backend)))

    WRONG = [
        (0, torch.randn(30, 24), "q must be"),
        (0, torch.randn(29, 2, 12), "k must have size 29 in dimension 0, got 30"),
        (0, torch.randn(30, 2, 129), "1 <= D <= 128"),
        (0, torch.zeros(30, 2, 12, dtype=torch.int64), "q must be float32"),
        (1, torch.randn(30, 2, 11), "k must have size 12 in dimension 2, got 11"),
        (1, torch.randn(30, 2, 12).double(), "k must be float32, got float64"),
        (2, torch.randn(30, 1, 12), "v must have size 2 in dimension 1, got 1"),
        (2, torch.randn(30, 2, 12).half(), "v must be float32, got float16"),
        (3, torch.randn(4, 3), "edge_scale must have size 2 in dimension 1, got 3"),
        (3, torch.randn(4, 2).double(), "edge_scale must be float32, got float64"),
        (4, torch.randn(99, 2), "edge_bias must have size 100 in dimension 0, got 99"),
        (4, torch.randn(100), "edge_bias must be"),
        (5, ROWS[0][:-1], "row_ptr, source or row_edge must have size 31 in dimension 0, got 30"),
        (5, ROWS[0].long(), "row_ptr, source or row_edge must be int32, got int64"),
        (6, ROWS[1][:-1], "must"),
        (7, ROWS[2][:-1], "must have size 100 in dimension 0, got 99"),
        (8, torch.zeros(100, dtype=torch.int64), "edge_type must be uint8, got int64"),
        (8, torch.zeros(99, dtype=torch.uint8), "edge_type must have size 100"),
    ]

    @pytest.mark.parametrize(("index", "value", "message"), WRONG)
    def test_fwd(self, index, value, message, backend):
        self.refused("edge_attention_fwd", changed(arguments(), index, value), message, backend)

    @pytest.mark.parametrize(("index", "value", "message"), WRONG)
    def test_bwd(self, index, value, message, backend):
        index += 2 if index < 8 else 5
        self.refused("edge_attention_bwd", changed(backward_arguments(), index, value), message, backend)

    @pytest.mark.parametrize(
        ("index", "value", "message"),
        [
            (0, torch.randn(30, 2, 11), "dout must have size 12"),
            (0, torch.randn(30, 2, 12).double(), "dout must be float32, got float64"),
            (1, torch.randn(99, 2), "dscores must have size 100"),
            (1, torch.randn(100, 2).half(), "dscores must be float32, got float16"),
            (5, None, "need_dscale must come with edge_scale"),
            (10, COLUMNS[0][:-1], "col_ptr, target or col_edge must have size 31"),
            (16, torch.randn(99, 2), "scores must have size 100"),
            (16, torch.randn(100, 2).half(), "scores must be float32, got float16"),
            (17, torch.randn(30, 2), "softmax must have 3 dimensions"),
            (17, torch.randn(30, 2, 3), "softmax must have size 2 in dimension 2, got 3"),
            (17, torch.randn(30, 2, 2).half(), "softmax must be float32, got float16"),
        ],
    )
    def test_bwd_alone(self, index, value, message, backend):
        self.refused("edge_attention_bwd", changed(backward_arguments(), index, value), message, backend)

    @pytest.mark.parametrize(
        ("seed", "dropout_p"),
        [(None, 0.5), (torch.tensor([1]), 1.0), (torch.tensor([1.0]), 0.5), (torch.tensor([], dtype=torch.int64), 0.5)],
    )
    def test_dropout(self, seed, dropout_p, backend):
        given = changed(changed(arguments(), 10, seed), 13, dropout_p)
        self.refused("edge_attention_fwd", given, "", backend)


@pytest.mark.parametrize(
    ("index", "at", "value", "message"),
    [
        (5, 0, 1, "must begin with 0, never fall, and end with the number of edges 100"),
        (5, 30, 99, "must begin with 0"),
        (5, 3, 101, "must begin with 0"),
        (5, 3, -1, "must begin with 0"),
        (6, 7, 30, "out of range"),
        (6, 7, -1, "out of range"),
        (7, 7, 100, "out of range"),
        (8, 7, 4, "edge_scale has 4 rows, and an edge has type 4"),
    ],
)
def test_a_graph_made_by_hand_is_looked_at_on_the_cpu(index, at, value, message):
    wrong = arguments()[index].clone()
    wrong[at] = value
    with pytest.raises(RuntimeError, match=message):
        ops.edge_attention_fwd(*changed(arguments(), index, wrong))


def auto(backend):
    """In which ``auto`` is this backend: CUDA it is wherever that can run, for Triton it has to be said."""
    return dispatch.use_backend(backend) if backend == "triton" else nullcontext()


def model(x, table, bias, graph, dropout_p=0.0):
    """q and k are one tensor, as in no projection at all."""
    q = x.unflatten(1, (2, -1))
    out, scores = edge_attention(
        q, q, q * 2, graph, edge_scale=table, edge_bias=bias, clamp=4.0, dropout_p=dropout_p, return_scores=True
    )
    return out.flatten(1), scores


def leaves(backend, graph):
    tensors = torch.randn(graph.nodes, 16), torch.randn(graph.types, 2), torch.randn(graph.edges, 2)
    return [t.requires_grad_() for t in on(backend, *tensors)]


def gradients(function, tensors, graph, **options):
    torch.manual_seed(0)
    out, scores = function(*tensors, graph, **options)
    return out, scores, *torch.autograd.grad(out.square().sum() + scores.sum(), tensors)


@each_backend
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_compile_with_dynamic_shapes(dropout_p, backend):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.utils.counters.clear()
    for sizes, edges in (([9, 20], 100), ([7, 5, 30], 300), ([50], 77)):
        graph = ragged_graph(sizes, edges, types=5).to(device_of(backend))
        tensors = leaves(backend, graph)
        with dispatch.use_backend(backend):
            expected = gradients(model, tensors, graph, dropout_p=dropout_p)
            results = gradients(compiled, tensors, graph, dropout_p=dropout_p)
        for actual, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(actual, wanted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_compiled_code_takes_a_table_of_one_type_after_a_table_of_several():
    """A size of 1 is a number in compiled code, and the number of types then is a symbol."""
    compiled = torch.compile(edge_attention, fullgraph=True, backend="aot_eager")
    for types in (4, 5, 1):
        graph, q = ragged_graph([9, 20], 100, types=types), node_heads(29, 2, 8)
        table = torch.randn(types, 2)
        assert same_bits(compiled(q, q, q, graph, edge_bias=table), edge_attention(q, q, q, graph, edge_bias=table))


@each_kernel
def test_compile_with_inductor(backend):
    """The whole compiler once. Its own generator draws other dropout seeds; forward and backward must share one."""
    graph = ragged_graph([9, 20], 100, types=5).to(device_of(backend))
    q, k, v = on(backend, *(node_heads(29, 2, 8, seed=seed) for seed in range(3)))
    table = on(backend, torch.randn(5, 2))
    v.requires_grad_()

    def attend(q, v, dropout_p):
        return edge_attention(q * 2, q + 1, v, graph, edge_scale=table, edge_bias=table, dropout_p=dropout_p)

    compiled = torch.compile(attend, fullgraph=True)
    with auto(backend):
        torch.testing.assert_close(compiled(q, v, 0.0), attend(q, v, 0.0))
        out, again = compiled(q, v, 0.3), compiled(q, v, 0.3)
    assert not torch.equal(out, again)
    dout = torch.randn_like(out)
    (dv,) = torch.autograd.grad(out, v, dout)
    # out is linear in v while the mask is held: <dout, out> = <dv, v>.
    torch.testing.assert_close((dout * out).sum(), (dv * v).sum(), rtol=1e-4, atol=1e-3)


def test_compiled_code_takes_and_gives_graphs():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(graph, q):
        return edge_attention(q, q, q, graph), graph.to_edge_index(), graph.degree(), graph

    graph, q = ragged_graph([9, 20], 100, types=5), node_heads(29, 2, 8)
    out, edge_index, degree, same = step(graph, q)
    assert same_bits(out, edge_attention(q, q, q, graph))
    assert torch.equal(edge_index, graph.to_edge_index()) and torch.equal(degree, graph.degree())
    assert isinstance(same, RaggedGraph) and same.types == 5


def test_compile_refuses_what_eager_refuses():
    compiled = torch.compile(edge_attention, fullgraph=True, backend="aot_eager")
    q = torch.randn(30, 2, 129)
    with pytest.raises(Exception, match="1 <= D <= 128"):
        compiled(q, q, q, GRAPH)


@each_backend
def test_gradients_by_torch_func(backend):
    graph = GRAPH.to(device_of(backend))
    tensors = leaves(backend, graph)

    def loss(*tensors):
        with dispatch.use_backend(backend):
            out, scores = model(*tensors, graph)
        return out.square().sum() + scores.sum()

    expected = torch.autograd.grad(loss(*tensors), tensors)
    actual = torch.func.grad(loss, argnums=(0, 1, 2))(*(t.detach() for t in tensors))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@each_kernel
def test_vmap_equals_a_loop(backend):
    graph = GRAPH.to(device_of(backend))
    queries, k, v = on(backend, torch.randn(3, 30, 2, 8), *(node_heads(30, 2, 8, seed=seed) for seed in range(2)))
    table, dout = on(backend, torch.randn(4, 2), torch.randn(30, 2, 8))

    def loss(q, table):
        out = edge_attention(q, k, v, graph, edge_scale=table, backend=backend)
        return (out * dout).sum()

    mapped = torch.func.vmap(torch.func.grad(loss, (0, 1)), (0, None))(queries, table)
    looped = [torch.func.grad(loss, (0, 1))(q, table) for q in queries]
    for one, other in zip(mapped, zip(*looped, strict=True), strict=True):
        torch.testing.assert_close(one, torch.stack(other))


@each_kernel
def test_vmap_refuses_graphs_and_dropout(backend):
    graph = GRAPH.to(device_of(backend))
    q = on(backend, torch.randn(3, 30, 2, 8))
    with pytest.raises(ValueError, match="edge_attention: torch.func.vmap cannot map dropout"):
        torch.func.vmap(lambda q: edge_attention(q, q, q, graph, dropout_p=0.1, backend=backend), randomness="same")(q)

    def attend(q, source):
        return edge_attention(q, q, q, dataclasses.replace(graph, source=source), backend=backend)

    with pytest.raises(ValueError, match="edge_attention: torch.func.vmap cannot map graphs"):
        torch.func.vmap(attend)(q, graph.source.expand(3, -1).contiguous())


@each_native
def test_fakes_say_what_the_kernels_return(backend):
    """The fakes' shapes, dtypes and strides against the kernels', called through the wrappers that the package uses."""
    from torch._subclasses import FakeTensorMode

    calls = [
        (native_impl.forward, arguments(torch.bfloat16, 0.2, "types", "packed")),
        (native_impl.backward, backward_arguments(torch.bfloat16)),
        (native_impl.backward, backward_arguments(kind="none")),
    ]
    for function, given in calls:
        given = on(backend, *given)
        real = function(*given)
        with FakeTensorMode() as mode:
            fake = function(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in given))
        for r, f in zip(real, fake, strict=True):
            assert (r is None) == (f is None)
            if r is not None:
                assert (r.shape, r.dtype, r.stride()) == (f.shape, f.dtype, f.stride())
