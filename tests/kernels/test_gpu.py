"""Tests that need a GPU: races, streams, CUDA graphs, hidden waits, offsets beyond 2^31, the paper's sizes."""

from collections.abc import Callable

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import GPU_BACKENDS, assert_same_bits, dtype_name, heads, on, same_bits, video_graph, with_gradients
from helpers.poison import poisoned_memory
from helpers.streams import assert_nothing_waits, captured
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph, graph_attention, spatio_temporal_graph
from stgt_kernels.testing import assert_graph_close, video_like_tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
each_backend = pytest.mark.parametrize("backend", GPU_BACKENDS)
half_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)


def operands(backend, B, H, T, P, D, dtype=torch.bfloat16, window=1):
    """q, k, v, graph and an output gradient, where the backend runs."""
    tensors = [heads(B, H, T * P, D, dtype=dtype, seed=seed) for seed in range(4)]
    q, k, v, dout, graph = on(backend, *tensors, video_graph(B, T, P, window=window, dtype=dtype))
    return q, k, v, graph, dout


def step(backend: str, dropout_p: float = 0.0) -> Callable[..., dict[str, Tensor]]:
    """A function of (q, k, v, graph, dout) that runs both passes and returns the results by name."""

    def attend(q, k, v, graph):
        return graph_attention(q, k, v, graph, dropout_p=dropout_p, return_lse=True, backend=backend)

    return lambda *arguments: with_gradients(attend, *arguments, None)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("D", [64, 88, 128])
def test_frames_of_the_paper_s_size(D, dtype, backend):
    """The results are compared with float64, which is computed on the GPU as well."""
    q, k, v, graph, dout = operands(backend, 2, 3, 4, 256, D, dtype)
    with poisoned_memory():
        actual = step(backend)(q, k, v, graph, dout)
    assert_attention_errors(actual, q, k, v, graph, dout)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=dtype_name)
@pytest.mark.parametrize(("P", "C"), [(256, 1408), (196, 768)])
def test_tokens_of_the_paper_s_width(P, C, dtype, backend):
    x = on(backend, video_like_tokens(2, 8, P, C, dtype=dtype))
    with poisoned_memory():
        graph = spatio_temporal_graph(x, threshold=0.5, backend=backend)
    assert assert_graph_close(graph, x, 0.5, 1) <= 2e-5 * graph.weight.numel()


@each_backend
@half_dtypes
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_expanded_tensors_give_what_their_copies_give(dropout_p, dtype, backend):
    """Expanded dimensions have strides of 0. All else suits Hopper's copy engine."""
    _, _, _, graph, dout = operands(backend, 2, 4, 3, 64, 88, dtype)
    q, k, v = (heads(*size, 88, dtype=dtype, seed=1) for size in ((2, 1, 192), (1, 4, 192), (1, 1, 192)))
    expanded = [t.expand(2, 4, 192, 88) for t in on(backend, q, k, v)]
    results = []
    for tensors in (expanded, [t.contiguous() for t in expanded]):
        torch.manual_seed(0)
        results.append(step(backend, dropout_p)(*tensors, graph, dout))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], msg=name)


@each_backend
@half_dtypes
@pytest.mark.parametrize(("P", "D"), [(256, 88), (196, 64), (72, 128)])
def test_50_repeats_give_the_same_bits(P, D, dtype, backend):
    """Another stream keeps the GPU unevenly busy meanwhile, which would change the outcome of a race."""
    arguments = operands(backend, 3, 4, 5, P, D, dtype)
    run, busy = step(backend, dropout_p=0.1), torch.cuda.Stream()
    noise = torch.randn(1024, 1024, device="cuda")
    torch.manual_seed(0)
    first = run(*arguments)
    for i in range(50):
        with torch.cuda.stream(busy):
            for _ in range(i % 7):
                noise = (noise @ noise).sin()
        torch.manual_seed(0)
        assert_same_bits(run(*arguments), first)


@each_backend
@half_dtypes
def test_50_graphs_have_the_same_bits(dtype, backend):
    x = on(backend, video_like_tokens(3, 5, 200, 1408, dtype=dtype)).requires_grad_()

    def build():
        graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend=backend)
        return graph.weight, graph.live, *torch.autograd.grad(graph.weight, x, graph.weight.detach())

    first = build()
    for _ in range(50):
        for again, before in zip(build(), first, strict=True):
            assert torch.equal(again, before)


@each_backend
def test_it_runs_on_the_current_stream(backend):
    """The inputs are still being written by another stream when the kernels are launched on it."""
    q, k, v, graph, dout = operands(backend, 2, 2, 3, 100, 88)
    x = on(backend, video_like_tokens(2, 3, 100, 64, dtype=torch.bfloat16))
    expected = step(backend)(q, k, v, graph, dout)
    expected_graph = spatio_temporal_graph(x, threshold=0.5, backend=backend)
    late = [torch.zeros_like(t) for t in (q, k, v, dout, x)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for empty, tensor in zip(late, (q, k, v, dout, x), strict=True):
            empty.copy_(tensor)
        actual = step(backend)(*late[:3], graph, late[3])
        actual_graph = spatio_temporal_graph(late[4], threshold=0.5, backend=backend)
    stream.synchronize()
    assert_same_bits(actual, expected)
    assert same_bits(actual_graph.weight, expected_graph.weight)


@each_backend
def test_nothing_waits_for_the_gpu(backend):
    arguments = operands(backend, 1, 2, 3, 100, 88)
    x = on(backend, video_like_tokens(1, 3, 100, 64, dtype=torch.bfloat16))

    def work():
        spatio_temporal_graph(x, threshold=0.5, backend=backend)
        return step(backend, dropout_p=0.1)(*arguments)

    assert_nothing_waits(work)


@each_backend
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_cuda_graphs_capture_it(dropout_p, backend):
    """Replays read new inputs, and with dropout each draws a new mask."""
    q, k, v, _, dout = operands(backend, 2, 2, 3, 100, 88)
    x = on(backend, video_like_tokens(2, 3, 100, 64, dtype=torch.bfloat16))

    def work():
        graph = spatio_temporal_graph(x, threshold=0.5, backend=backend)
        return step(backend, dropout_p)(q, k, v, graph, dout)

    cuda_graph, results = captured(work)
    q.copy_(torch.randn_like(q)), x.copy_(x.flip(1))
    cuda_graph.replay()
    first = {name: tensor.clone() for name, tensor in results.items()}
    cuda_graph.replay()
    if dropout_p:
        assert not torch.equal(results["out"], first["out"]) and results["out"].isfinite().all()
    else:
        assert_same_bits(results, first)
        assert_same_bits(first, work())


@pytest.mark.parametrize("dropout_p", [0.1, 0.5])
def test_backends_draw_one_mask(dropout_p):
    """A row with one edge gives that edge's value, or 0 if the edge was dropped."""
    B, H, T, P, D = 2, 4, 3, 256, 64
    edge = torch.randint(T * P, (B, T * P))
    weight = torch.nn.functional.one_hot(edge, T * P).half()
    graph = SpatioTemporalGraph.from_dense(weight, frames=T).to("cuda")
    q, k, v = (heads(B, H, T * P, D, dtype=torch.float16, seed=seed).cuda() for seed in range(3))
    kept = []
    for backend in (*GPU_BACKENDS, "reference"):
        torch.manual_seed(3)
        kept.append(graph_attention(q, k, v, graph, dropout_p=dropout_p, backend=backend).any(-1))
    assert 0.5 * dropout_p < 1 - kept[0].float().mean() < 2 * dropout_p
    assert all(torch.equal(mask, kept[0]) for mask in kept)


@each_backend
def test_offsets_beyond_32_bits(backend):
    """q, k, v and the outputs have 2.4e9 elements each. The last sample gives the same among all as alone."""
    if torch.cuda.get_device_properties(0).total_memory < 100e9:
        pytest.skip("needs a GPU with 100 GB")
    B, H, T, P, D = 72, 16, 64, 256, 128
    last = operands(backend, 1, H, T, P, D)
    expected = step(backend)(*last)
    q, k, v, graph, dout = last
    q, k, v, dout = (t.transpose(1, 2).repeat(B, 1, 1, 1).transpose(1, 2) for t in (q, k, v, dout))
    assert q.numel() > 2**31
    graph = SpatioTemporalGraph(graph.weight.repeat(B, 1, 1, 1, 1))
    out, lse = graph_attention(q, k, v, graph, return_lse=True, backend=backend)
    assert same_bits(out[-1:], expected["out"]) and same_bits(lse[-1:], expected["lse"])
    del out  # other tests on this GPU need the memory
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    out = graph_attention(*leaves, graph, backend=backend)
    for name, gradient in zip(("dq", "dk", "dv"), torch.autograd.grad(out, leaves, dout), strict=True):
        assert same_bits(gradient[-1:], expected[name]), name


@each_backend
def test_memory_grows_linearly_with_frames(backend):
    """There is no matrix of all pairs, and no dropout mask is kept."""
    peaks = []
    for T in (8, 32):
        arguments = operands(backend, 1, 4, T, 256, 88)
        step(backend, dropout_p=0.1)(*arguments)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(backend, dropout_p=0.1)(*arguments)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 4.5 * peaks[0]


def test_tensors_on_two_devices_are_refused():
    q, k, v, graph, dout = operands("cuda", 1, 2, 2, 20, 8)
    step("cuda")(q, k, v, graph, dout)
    for weight, live in ((graph.weight.cpu(), graph.live), (graph.weight, graph.live.cpu())):
        with pytest.raises(RuntimeError, match="graph_attention_fwd: .* must be on cuda:0|same device"):
            torch.ops.stgt_kernels.graph_attention_fwd(q, k, v, weight, live, None, 1.0, 0.0)


@each_backend
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one(backend):
    arguments = operands(backend, 1, 2, 3, 50, 88)
    q, k, v, graph, dout = arguments
    there = [t.to("cuda:1") for t in (q, k, v)]
    actual = step(backend)(*there, graph.to("cuda:1"), dout.to("cuda:1"))
    assert_same_bits({name: tensor.to("cuda:0") for name, tensor in actual.items()}, step(backend)(*arguments))
