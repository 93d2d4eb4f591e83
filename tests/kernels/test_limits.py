"""The kernels at their limits: thresholds at the ends, sizes of tokens, memory, instruction sets, meta tensors."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from helpers.bounds import graph_term_size
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    assert_nothing_of_row_0,
    assert_nothing_without,
    dtype_name,
    each_backend,
    each_kernel,
    heads,
    on,
    overflowing,
    run_attention,
)

from stgt_kernels import _C as _C  # registers torch.ops.stgt_kernels
from stgt_kernels import GraphAttention, SpatioTemporalGraph, graph_attention, spatio_temporal_graph, token_similarity
from stgt_kernels.rounding import compared_threshold, similarity_error
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)


@each_backend
@all_dtypes
@pytest.mark.parametrize("C", [3, 257, 1408])
@pytest.mark.parametrize("kind", ["random", "constant", "tenths"])
def test_identical_tokens_have_edges_at_a_threshold_of_one(kind, C, dtype, backend):
    generator = torch.Generator().manual_seed(C)
    token = {
        "random": lambda: torch.randn(40, C, generator=generator),
        "constant": lambda: torch.rand(40, 1, generator=generator).expand(40, C) + 0.01,
        "tenths": lambda: torch.full((40, C), 0.1),
    }[kind]()
    x = torch.cat([token, token], 0)[None, None].to(dtype)
    x = on(backend, torch.cat([x, x], 1))
    weight = spatio_temporal_graph(x, threshold=1.0, backend=backend).weight.float().cpu()
    i = torch.arange(80)
    for o in range(3):
        for t in range(2):
            if 0 <= t + o - 1 < 2:
                assert (weight[0, t, i, o, i] > 0.99).all() and (weight[0, t, i, o, (i + 40) % 80] > 0.99).all()


@each_backend
@all_dtypes
def test_a_threshold_of_one_keeps_identical_tokens_alone(dtype, backend):
    x = on(backend, video_like_tokens(1, 2, 50, 24, dtype=dtype))
    assert spatio_temporal_graph(x, threshold=1.0, backend=backend).degree().eq(1).all()


@each_backend
def test_a_similarity_that_float16_rounds_to_zero_is_no_edge(backend):
    x = torch.zeros(1, 1, 130, 4, dtype=torch.bfloat16)
    x[..., 0] = 1
    x[0, 0, 64:128] = torch.tensor([2**-25, 1, 0, 0])  # rounded to 0, halfway to the smallest number of float16
    x[0, 0, 128:] = torch.tensor([1.0078125 * 2**-25, 0, 1, 0])  # rounded to that number
    graph = spatio_temporal_graph(on(backend, x), threshold=0.0, window=0, backend=backend)
    weight, live = graph.weight[0, 0, :, 0].float().cpu(), graph.live[0, 0, :, 0].cpu()
    assert (weight[:64, 64:128] == 0).all() and (weight[64:128, :64] == 0).all()
    assert (weight[:64, 128:] == 2**-24).all() and (weight[128:, :64] == 2**-24).all()
    assert live.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


@each_backend
@pytest.mark.parametrize("size", [1e2, 1e3, 3e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
def test_the_only_edge_of_a_row_has_all_of_its_attention(dtype, size, backend):
    """Scores reach 3e10, whose rounding alone is a thousand times as large as the numbers between which exp differs."""
    if backend in GPU_BACKENDS and dtype != torch.float32 and size > 1e3:
        pytest.skip("the half-precision kernels of GPUs round the largest score before they subtract it")
    generator = torch.Generator().manual_seed(0)
    weight = (0.7 * torch.eye(16))[None, None, :, None, :]
    graph = SpatioTemporalGraph(on(backend, weight))
    q, k = ((size * (1 + 0.3 * torch.randn(1, 1, 16, 48, generator=generator))).to(dtype) for _ in range(2))
    q, k, v = (on(backend, t).requires_grad_() for t in (q, k, torch.randn(1, 1, 16, 48).to(dtype)))
    dq, dk, dv = torch.autograd.grad(graph_attention(q, k, v, graph, backend=backend).sum(), (q, k, v))
    if backend in ("cpu", "reference"):
        torch.testing.assert_close(dv.cpu(), torch.ones(1, 1, 16, 48, dtype=dtype))
    assert dv.gt(0).all() and dv.le(1).all() and dq.isfinite().all() and dk.isfinite().all()


@each_backend
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
def test_a_row_whose_scores_all_overflow_has_no_gradients(dtype, differentiable, backend):
    q, k, v, graph = overflowing(dtype, differentiable)
    assert_nothing_of_row_0(run_attention(q, k, v, graph, torch.ones_like(v), backend=backend))


@each_backend
@pytest.mark.parametrize("missing", ["B", "H", "T", "P"])
def test_empty_tensors(missing, backend):
    assert_nothing_without(missing, backend)


@each_backend
@all_dtypes
def test_a_threshold_of_minus_one_keeps_opposite_tokens(dtype, backend):
    x = torch.randn(40, 257)
    x = on(backend, torch.cat([x, -x])[None, None].to(dtype))
    assert spatio_temporal_graph(x, threshold=-1.0, backend=backend).degree().eq(80).all()


def test_ordinary_thresholds_are_taken_as_they_are():
    for dtype in DTYPES:
        for threshold in (-0.999, -0.5, 0.0, 0.3, 0.5, 0.9, 0.999, 0.99999):
            assert compared_threshold(threshold, 1408, dtype) == threshold
        error = 1 - compared_threshold(1.0, 1408, dtype)
        assert error == pytest.approx(similarity_error(1408, dtype), rel=1e-2, abs=0)


def test_the_error_of_similarities():
    assert (
        similarity_error(1408, torch.bfloat16)
        == similarity_error(1408, torch.float16)
        == pytest.approx(7.15e-6, rel=0.01)
    )
    assert similarity_error(1408, torch.float32) == pytest.approx(2.24e-6, rel=0.01)
    assert similarity_error(64, torch.float32) == pytest.approx(1.91e-6, rel=0.01)
    assert similarity_error(1408, torch.float64) == pytest.approx(3.16e-13, rel=0.01, abs=0)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("size", [1e19, 1e-19, 3e37, 1e-30, 1e-37, 3e-40])
def test_sizes_of_tokens_do_not_matter(size, dtype, backend):
    """Tokens of any size have the edges that they have in float64, also beside tokens of another size."""
    x = (video_like_tokens(1, 2, 50, 24) * size).to(dtype)
    x[:, :, ::3] = video_like_tokens(1, 2, 50, 24, dtype=dtype)[:, :, ::3]
    x[:, 1, 7], x[:, 0, 3, 5] = 0, float("inf")
    graph = spatio_temporal_graph(on(backend, x), threshold=0.5, backend=backend).to("cpu")
    assert_graph_close(graph, x, 0.5, 1)
    assert graph.degree()[0, 0] > 20 and graph.degree()[0, 1] > 20
    assert graph.degree()[0, 57] == 0 and graph.degree()[0, 3] == 0


@each_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("size", [1e19, 1e-19, 1e-30, 1e25])
def test_gradients_of_tokens_of_any_size(size, dtype, backend):
    """The gradients are those of tokens of an ordinary size, divided by the size."""
    x = video_like_tokens(1, 2, 50, 24).to(dtype).float()
    sizes = torch.ones(50, 1)
    sizes[::2] = 2.0 ** round(float(torch.tensor(size).log2()))

    dweight = torch.randn(1, 2, 50, 3, 50, generator=torch.Generator().manual_seed(0))

    def gradient(x, name):
        x = on(name, x).requires_grad_()
        graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend=name)
        return torch.autograd.grad(graph.weight, x, dweight.to(graph.weight))[0].double().cpu(), graph

    exact, graph = gradient(x.double(), "reference")
    plain, actual = gradient(x.to(dtype), "reference")[0], gradient((x * sizes).to(dtype), backend)[0] * sizes
    assert_close(actual, plain, exact, "dx", dtype=dtype, terms=graph_term_size(x, graph, dweight))


@each_kernel
def test_tokens_of_denormal_numbers_carry_no_gradient(backend):
    """Their gradient would be too large, but their direction counts in the gradients of other tokens."""
    x = video_like_tokens(1, 1, 20, 24)
    x[0, 0, 4] *= 1e-40
    dweight = torch.rand(1, 1, 20, 1, 20, generator=torch.Generator().manual_seed(0))

    def gradient(x, dweight, name):
        leaf = x.requires_grad_()
        graph = spatio_temporal_graph(leaf, threshold=0.5, differentiable=True, backend=name)
        assert (graph.weight[0, 0, 4] != 0).sum() > 1
        return torch.autograd.grad(graph.weight, leaf, dweight)[0], graph

    dx = gradient(*on(backend, x, dweight), backend)[0].cpu()
    assert not dx[0, 0, 4].any() and dx.isfinite().all()
    # In float64 these numbers are not denormal.
    exact, exact_graph = gradient(x.double(), dweight.double(), "reference")
    exact[0, 0, 4] = 0
    terms = graph_term_size(x.double(), exact_graph, dweight)
    for found in (dx, gradient(x, dweight, "reference")[0]):
        assert_close(found, exact, exact, "dx", terms=terms)


OUT_OF_MEMORY = """
import resource, sys, torch
from stgt_kernels import spatio_temporal_graph
x = torch.zeros(*map(int, sys.argv[2:]), dtype=getattr(torch, sys.argv[1]))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
try:
    spatio_temporal_graph(x, threshold=0.5, backend="cpu")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("dtype", "shape", "wanted"),
    [
        ("float32", (1, 4, 20000, 1), f"weight needs {4 * 20000 * 3 * 20000 * 4} bytes"),
        ("float64", (1, 4, 20000, 1), f"weight needs {4 * 20000 * 3 * 20000 * 8} bytes"),
        ("bfloat16", (1, 4, 20000, 1), f"weight needs {4 * 20000 * 3 * 20000 * 2} bytes"),
        ("float32", (1, 1, 1, 1 << 23), "a thread's workspace needs "),  # a tile of 64 tokens takes 2 GiB
    ],
)
def test_out_of_memory_says_how_much_was_asked_for(dtype, shape, wanted):
    command = [sys.executable, "-c", OUT_OF_MEMORY, dtype, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert f"spatio_temporal_graph_fwd: out of memory: {wanted}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("shape", [(2, 3, 0, 8), (0, 3, 20, 8), (2, 3, 20, 8)])
def test_results_are_contiguous_with_the_strides_that_pytorch_gives_them(shape):
    for result in torch.ops.stgt_kernels.spatio_temporal_graph_fwd(torch.zeros(shape), 0.5, 1, False):
        assert result.stride() == torch.empty(result.shape).stride()


def with_instruction_set(name):
    code = "import torch, stgt_kernels; x = torch.ones(1, 1, 4, 8); "
    code += "stgt_kernels.spatio_temporal_graph(x, threshold=0.5, backend='cpu'); "
    code += "from stgt_kernels import _C; print(_C.build_info()['cpu_isa'])"
    environment = os.environ | {"STGT_CPU_ISA": name}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)


def test_an_unknown_instruction_set_is_refused():
    done = with_instruction_set("avx1024")
    assert done.returncode != 0
    assert "STGT_CPU_ISA must be one of " in done.stderr and ", got avx1024" in done.stderr
    assert "portable, and this machine runs " in done.stderr
    assert with_instruction_set("portable").stdout.strip() == "portable"


def test_meta_tensors_give_shapes():
    x = torch.empty(2, 3, 70, 24, dtype=torch.bfloat16, device="meta")
    for differentiable, dtype in ((False, torch.float16), (True, torch.float32)):
        graph = spatio_temporal_graph(x, threshold=0.5, differentiable=differentiable)
        assert graph.weight.is_meta and graph.weight.shape == (2, 3, 70, 3, 70) and graph.weight.dtype == dtype
        assert graph.live.is_meta and graph.live.shape == (2, 3, 2, 3, 2)
    assert token_similarity(x, window=2).weight.shape == (2, 3, 70, 5, 70)
    q = torch.empty(2, 4, 210, 88, dtype=torch.bfloat16, device="meta")
    for dropout_p in (0.0, 0.3):
        out, lse = graph_attention(q, q, q, graph, dropout_p=dropout_p, return_lse=True)
        assert out.is_meta and out.shape == q.shape and out.dtype == q.dtype and lse.shape == (2, 4, 210)
    module = GraphAttention(24, 3).to("meta")
    assert module(torch.empty(2, 210, 24, device="meta"), graph.to(torch.float32)).shape == (2, 210, 24)
    with pytest.raises(ValueError, match="backend='cpu' cannot run: it runs on CPU tensors, these are on meta"):
        graph_attention(q, q, q, graph, backend="cpu")


def test_meta_and_real_tensors_are_not_mixed():
    graph = spatio_temporal_graph(video_like_tokens(1, 2, 20, 8), threshold=0.5)
    with pytest.raises(ValueError, match="graph must be on q's device cpu, got meta"):
        graph_attention(*[heads(1, 1, 40, 8)] * 3, graph.to("meta"))
