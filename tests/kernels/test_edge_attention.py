"""edge_attention: values and gradients, layouts, rows without edges, determinism."""

from math import inf

import pytest
import torch
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    KERNELS,
    assert_same_bits,
    dtype_name,
    each_backend,
    each_kernel,
    on,
    same_bits,
)
from helpers.edges import LAYOUTS, Call, assert_close_to_definition, call, defined, node_heads, ragged_graph, run

from stgt_kernels import RaggedGraph, edge_attention

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
SIZES = [1, 7, 0, 12, 30]


def by_hand(case: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """out and scores in float64, edge by edge, without anything of the package."""
    graph, options = case.graph, case.options
    tensors = {name: tensor.double() for name, tensor in case.tensors.items()}
    q, k, v = (tensors[name] for name in "qkv")
    scores = torch.zeros(graph.edges, q.shape[1], dtype=torch.float64)
    z = torch.zeros_like(scores)
    source, target = (ends.tolist() for ends in graph.to_edge_index())
    for e, (j, i) in enumerate(zip(source, target, strict=True)):
        scores[e] = options.get("scale", q.shape[-1] ** -0.5) * (q[i] * k[j]).sum(-1)
        z[e] = scores[e] * values(tensors.get("edge_scale"), graph, e, 1.0)
        limit = options.get("clamp") or inf
        limited = z[e].masked_fill(z[e] > limit, limit).masked_fill(z[e] < -limit, -limit)
        z[e] = limited + values(tensors.get("edge_bias"), graph, e, 0.0)
    out = torch.zeros_like(q)
    for i in range(graph.nodes):
        edges = [e for e in range(graph.edges) if target[e] == i]
        if edges:
            p = torch.softmax(z[edges], 0)
            out[i] = sum(p[s, :, None] * v[source[e]] for s, e in enumerate(edges))
    return out, scores


def values(given, graph, e, default):
    if given is None:
        return default
    return given[e] if given.shape[0] == graph.edges else given[int(graph.edge_type[e])]


@each_backend
@pytest.mark.parametrize("edge_scale", ["none", "edges", "types"])
@pytest.mark.parametrize("edge_bias", ["none", "edges", "types"])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_the_formula(edge_scale, edge_bias, clamp, backend):
    dtype = torch.float32 if backend in GPU_BACKENDS else torch.float64
    graph = ragged_graph(SIZES, 90, types=5)
    case = call(graph, 3, 6, dtype=dtype, edge_scale=edge_scale, edge_bias=edge_bias, clamp=clamp, scale=0.7)
    actual = run(case, backend)
    out, scores = by_hand(case)
    torch.testing.assert_close(actual["out"], out.to(dtype))
    torch.testing.assert_close(actual["scores"], scores.to(dtype))


@each_kernel
@all_dtypes
@pytest.mark.parametrize("D", [1, 2, 3, 7, 8, 15, 16, 31, 32, 40, 64, 80, 88, 127, 128])
def test_head_dims(D, dtype, backend):
    assert_close_to_definition(call(ragged_graph(SIZES, 120), 2, D, dtype=dtype), backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("H", [1, 2, 3, 4, 5, 8, 9, 16, 17, 33])
def test_heads(H, dtype, backend):
    case = call(ragged_graph(SIZES, 120, types=4), H, 12, dtype=dtype, edge_scale="types")
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("edge_scale", ["none", "edges", "types"])
@pytest.mark.parametrize("edge_bias", ["none", "edges", "types"])
@pytest.mark.parametrize("dscores", [False, True])
def test_values_of_edges(edge_scale, edge_bias, dscores, dtype, backend):
    graph = ragged_graph([20, 30], 300, types=7)
    case = call(graph, 4, 24, dtype=dtype, edge_scale=edge_scale, edge_bias=edge_bias, dscores=dscores)
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("clamp", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("scale", [0.25, -0.5, 0.0])
def test_clamp_and_scale(clamp, scale, dtype, backend):
    case = call(ragged_graph([20], 150), 3, 16, dtype=dtype, clamp=clamp, scale=scale)
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("edges", [60, 64, 65, 128, 700])
def test_rows_and_columns_with_many_edges(edges, dtype, backend):
    """More edges than a kernel takes at a time, and a maximum that comes late or early."""
    other = torch.arange(edges) % 9
    ends = torch.stack([other, torch.zeros_like(other)])
    for edge_index in (ends, ends.flip(0)):
        for late in (20, -20):
            case = call(RaggedGraph.from_edge_index(edge_index, 9), 2, 24, dtype=dtype)
            case.tensors["edge_bias"] += torch.linspace(-late, late, edges)[:, None]
            assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 8, 9, 16, 17])
def test_a_full_chunk_of_edges_keeps_to_its_memory_for_any_number_of_heads(heads, dtype, backend):
    """A row has as many edges as a kernel takes at a time, and no factors that would hide what was overwritten."""
    ends = torch.stack([torch.arange(64) % 9, torch.zeros(64, dtype=torch.int64)])
    case = call(RaggedGraph.from_edge_index(ends, 9), heads, 8, dtype=dtype, edge_scale="none", edge_bias="none")
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
def test_many_edges_of_few_types(dtype, backend):
    case = call(ragged_graph([40] * 30, 9000, types=3), 2, 4, dtype=dtype, edge_scale="types", edge_bias="types")
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout, dtype, backend):
    graph = ragged_graph(SIZES, 120)
    expected = run(call(graph, 3, 24, dtype=dtype), backend)
    assert_same_bits(run(call(graph, 3, 24, dtype=dtype, layout=layout), backend), expected)


@each_kernel
def test_expanded_operands_and_gradient(backend):
    graph = ragged_graph(SIZES, 120, types=4)
    case = call(graph, 3, 8)
    one = node_heads(1, 3, 8), node_heads(graph.nodes, 1, 8), node_heads(1, 1, 1)
    for name, tensor in zip("qkv", one, strict=True):
        case.tensors[name] = tensor.expand(graph.nodes, 3, 8)
    case.tensors["edge_scale"] = torch.randn(120, 1).expand(120, 3)
    case.tensors["edge_bias"] = torch.randn(1, 3).expand(4, 3)
    case.dout, case.dscores = torch.ones(()).expand(graph.nodes, 3, 8), torch.randn(3).expand(120, 3)
    assert_close_to_definition(case, backend)


@each_backend
@all_dtypes
def test_rows_without_edges_give_zero(dtype, backend):
    """One row has no edge, in another all biases are -inf, and in a third all but one."""
    edge_index = torch.tensor([[0, 1, 2, 0, 1], [1, 1, 2, 3, 3]])
    case = call(RaggedGraph.from_edge_index(edge_index, 5), 2, 12, dtype=dtype, dscores=False)
    case.tensors["edge_bias"][[2, 3]] = float("-inf")
    results = run(case, backend)
    for name, tensor in results.items():
        assert tensor.isfinite().all(), name
    assert not results["out"][[0, 2, 4]].any() and not results["dq"][[0, 2, 4]].any()
    assert torch.equal(results["out"][3], case.tensors["v"][1])
    assert not results["dedge_bias"][[2, 3]].any() and not results["dk"][2:].any() and not results["dv"][2:].any()


@each_backend
@all_dtypes
@pytest.mark.parametrize(("sizes", "edges"), [([], 0), ([5], 0), ([1], 1), ([0, 0], 0)])
def test_nothing_to_attend_to(sizes, edges, dtype, backend):
    case = call(ragged_graph(sizes, edges, types=3), 2, 8, dtype=dtype, edge_scale="types")
    results = run(case, backend)
    assert results["out"].shape == (sum(sizes), 2, 8) and results["scores"].shape == (edges, 2)
    assert results["dedge_scale"].shape == (3, 2) and results["dedge_bias"].shape == (edges, 2)
    if edges == 0:
        assert not any(tensor.any() for tensor in results.values())


@each_kernel
def test_edges_of_another_row_do_not_matter(backend):
    """NaN and infinity reach the rows that have an edge to them, and no others."""
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 1, 2, 3]])
    graph = RaggedGraph.from_edge_index(edge_index, 4)
    for name in ("q", "k", "v"):
        case = call(graph, 2, 24, dscores=False)
        expected = run(case, backend)
        case.tensors[name][0, :, 3] = float("nan")
        case.tensors[name][3] = float("inf")
        results = run(case, backend)
        for result in ("out", "dq", "dk", "dv"):
            assert same_bits(results[result][2], expected[result][2]), result
        if name != "q":
            assert results["out"][1].isnan().any() and not results["out"][0].any()


@each_kernel
@all_dtypes
def test_scores_beyond_the_range_of_exp_overflow_nothing(dtype, backend):
    case = call(ragged_graph([20], 100), 2, 24, dtype=dtype)
    case.tensors["q"] *= 100
    case.tensors["k"] *= 30
    for name, tensor in run(case, backend).items():
        assert tensor.isfinite().all(), name


@each_kernel
@all_dtypes
def test_large_scores(dtype, backend):
    case = call(ragged_graph([20], 100), 2, 24, dtype=dtype, edge_scale="none", edge_bias="none")
    case.tensors["q"] *= 3
    assert_close_to_definition(case, backend)


@each_kernel
@all_dtypes
def test_repeats_and_threads_change_no_bit(dtype, backend, threads):
    graph = ragged_graph([60, 1, 200, 40], 6000, types=6)
    case = call(graph, 3, 20, dtype=dtype, edge_scale="types", dropout_p=0.2)
    results = []
    for count in (1, 1, 2, 3, 5):
        threads(count)
        torch.manual_seed(0)
        results.append(run(case, backend))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@each_backend
def test_a_row_is_the_same_in_any_batch(backend):
    """The numbers of a graph do not depend on the graphs around it."""
    alone, batch = torch.randint(9, (2, 40)), torch.randint(9, (2, 30))
    graph = RaggedGraph.from_edge_index(torch.cat([batch, alone + 9], 1), 18)
    q, k, v = on(backend, *(node_heads(18, 2, 24, seed=seed) for seed in range(3)))
    together = edge_attention(q, k, v, graph.to(q.device), backend=backend)
    one = RaggedGraph.from_edge_index(alone, 9).to(q.device)
    assert same_bits(edge_attention(q[9:], k[9:], v[9:], one, backend=backend), together[9:])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", [{}, {"clamp": 0.4}, {"dropout_p": 0.3}], ids=str)
@pytest.mark.parametrize("kind", ["edges", "types"])
def test_gradcheck(kind, options, backend):
    graph = ragged_graph([1, 4, 5], 25, types=3)
    case = call(graph, 2, 3, dtype=torch.float64, edge_scale=kind, edge_bias=kind)

    def attend(q, k, v, edge_scale, edge_bias):
        torch.manual_seed(0)  # the same mask for every perturbation
        edges = dict(edge_scale=edge_scale, edge_bias=edge_bias)
        return edge_attention(q, k, v, graph, return_scores=True, backend=backend, **edges, **options)

    assert torch.autograd.gradcheck(attend, [t.requires_grad_() for t in case.tensors.values()])


@each_kernel
@pytest.mark.parametrize("needs", ["q", "k", "v", "edge_scale", "edge_bias"])
def test_gradient_of_one_argument(needs, backend):
    case = call(ragged_graph(SIZES, 120, types=4), 2, 16, edge_scale="types", dscores=False)
    expected = run(case, backend)[f"d{needs}"]
    tensors, dout = on(backend, case.tensors), on(backend, case.dout)
    tensors[needs] = tensors[needs].detach().requires_grad_()
    edge_attention(**tensors, graph=case.graph.to(dout.device), backend=backend).backward(dout)
    assert same_bits(tensors[needs].grad.cpu(), expected)


@each_backend
def test_gradient_of_the_scores_alone(backend):
    case = call(ragged_graph(SIZES, 120), 2, 16)
    q, k, v, dscores = on(backend, *(case.tensors[name] for name in "qkv"), case.dscores)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    _, scores = edge_attention(q, k, v, case.graph.to(q.device), return_scores=True, backend=backend)
    dq, dk, dv = torch.autograd.grad(scores, leaves, dscores, allow_unused=True)
    source, target = case.graph.to_edge_index()
    expected = torch.zeros(q.shape).index_add(0, target, dscores.cpu()[..., None] * case.tensors["k"][source] / 4)
    torch.testing.assert_close(dq.cpu(), expected)
    expected = torch.zeros(q.shape).index_add(0, source, dscores.cpu()[..., None] * case.tensors["q"][target] / 4)
    torch.testing.assert_close(dk.cpu(), expected)
    assert dv is None or not dv.any()


@each_kernel
def test_double_backward_says_that_there_is_none(backend):
    case = call(ragged_graph(SIZES, 120), 2, 16)
    q, k, v = (t.requires_grad_() for t in on(backend, *(case.tensors[name] for name in "qkv")))
    out = edge_attention(q, k, v, case.graph.to(q.device), backend=backend)
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="edge_attention: the kernels have no second derivatives"):
        dq.sum().backward()


@each_backend
@all_dtypes
def test_what_comes_back(dtype, backend):
    case = call(ragged_graph(SIZES, 120), 2, 16, dtype=dtype, layout="packed")
    q, k, v = on(backend, *(case.tensors[name] for name in "qkv"))
    graph = case.graph.to(q.device)
    out, scores = edge_attention(q, k, v, graph, return_scores=True, backend=backend)
    assert out.dtype == dtype and out.is_contiguous() and out.shape == q.shape
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert same_bits(edge_attention(q, k, v, graph, backend=backend), out)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_values_of_edges_in_half_precision(backend, dtype):
    """They are widened, and their gradients have their dtype."""
    case = call(ragged_graph(SIZES, 120, types=4), 2, 16, dtype=dtype, edge_scale="types")
    half = Call(case.graph, {name: t.to(dtype) for name, t in case.tensors.items()}, case.dout, case.dscores)
    wide = Call(case.graph, half.tensors | {n: half.tensors[n].float() for n in ("edge_scale", "edge_bias")}, case.dout)
    wide.dscores = case.dscores
    results, expected = run(half, backend), run(wide, backend)
    for name in results:
        narrowed = expected[name].to(dtype) if name in ("dedge_scale", "dedge_bias") else expected[name]
        assert same_bits(results[name], narrowed), name


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_autocast_is_a_cast_of_the_inputs(backend, dtype):
    case = call(ragged_graph(SIZES, 120, types=4), 2, 16, edge_scale="types")
    tensors = on(backend, case.tensors)
    graph = case.graph.to(tensors["q"].device)
    half = tensors | {name: tensors[name].to(dtype) for name in "qkv"}
    expected = edge_attention(**half, graph=graph, backend=backend)
    with torch.autocast(graph.device.type, dtype):
        out = edge_attention(**tensors, graph=graph, backend=backend)
        assert out.dtype == dtype and same_bits(out, expected)
        assert same_bits(edge_attention(**(tensors | {"k": half["k"]}), graph=graph, backend=backend), expected)
        if backend not in GPU_BACKENDS:
            wide = {name: tensor.double() for name, tensor in tensors.items()}
            assert edge_attention(**wide, graph=graph, backend=backend).dtype == torch.float64


def test_a_table_with_a_row_for_each_edge_is_a_table():
    """In a graph with as many types as edges, the types select the rows."""
    edge_type = torch.tensor([2, 0, 1])
    graph = RaggedGraph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 0]]), 3, edge_type=edge_type)
    case = call(graph, 2, 8, edge_scale="none", edge_bias="types", dscores=False)
    for backend in (*KERNELS, "reference"):
        by_type = run(case, backend)
        untyped = RaggedGraph.from_edge_index(graph.to_edge_index(), 3)
        gathered = case.tensors | {"edge_bias": case.tensors["edge_bias"][edge_type]}
        by_edge = run(Call(untyped, gathered, case.dout), backend)
        assert same_bits(by_type["out"], by_edge["out"])
        assert same_bits(by_type["dedge_bias"][edge_type], by_edge["dedge_bias"])


@each_kernel
def test_memory_grows_with_edges_and_heads_alone(backend, monkeypatch):
    """Beyond inputs and gradients there is no tensor with a number for each edge and channel."""
    graph, H, D = ragged_graph([30], 600), 2, 128
    case = call(graph, H, D, edge_scale="none", edge_bias="none")
    q, k, v, dout = on(backend, *(case.tensors[name] for name in "qkv"), case.dout)
    graph = graph.to(q.device)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(edge_attention(q, k, v, graph, backend=backend), leaves, dout)
    largest = max(abs(event.cpu_memory_usage) + abs(event.device_memory_usage) for event in profile.events())
    assert 0 < largest < graph.edges * H * D * 4 / 2


@each_backend
def test_against_the_definition_in_float64(backend):
    """The comparison that other tests rely on can fail."""
    case = call(ragged_graph(SIZES, 120), 2, 16)
    exact = defined(case, torch.float64)
    wrong = {name: tensor.float() * (1 + 1e-4) for name, tensor in exact.items()}
    with pytest.raises(AssertionError):
        assert_close_to_definition(case, backend, wrong)


@each_backend
def test_scores_that_equal_the_clamp_have_gradients(backend):
    case = call(RaggedGraph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 0]]), 3), 1, 1, clamp=0.5, scale=1.0)
    case.tensors["q"].fill_(1.0)
    case.tensors["k"].copy_(torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1))
    case.tensors["edge_scale"].fill_(0.5)
    found = run(case, backend)
    assert_close_to_definition(case, backend, found)
    assert found["dedge_scale"].all()
