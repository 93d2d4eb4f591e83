"""The kernels on the CPU, one sample at the paper's shape: against dense attention, FlexAttention, and the limit."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inputs import PAPER, THRESHOLD, band_flops, heads, real_tokens
from benchmarks.providers import CompiledFlexAttention, dense_attention, dense_graph, frame_mask
from benchmarks.table import Row
from benchmarks.timing import interleaved
from stgt_kernels import graph_attention, spatio_temporal_graph

T, P, H, D = 8, PAPER["P"], PAPER["H"], PAPER["D"]


def agree(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual.float() - expected.float()).abs().max().item()
    if not error <= tolerance:
        raise SystemExit(f"{name}: the providers disagree by {error:.2g} (allowed {tolerance:.2g}); no report")


def forward_backward(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, dout: Tensor
) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    out = attention(*leaves)
    return out, *torch.autograd.grad(out, leaves, dout)


def graph_construction(rounds: int) -> list[Row]:
    x = real_tokens(1, T)
    mask = frame_mask(T, P, 1)
    graph = spatio_temporal_graph(x, threshold=THRESHOLD)
    dense = dense_graph(x, mask, THRESHOLD)
    agree("graph construction", graph.to_dense() * (dense != 0), dense * (graph.to_dense() != 0), 1e-5)
    times = interleaved(
        {
            "kernels": lambda: spatio_temporal_graph(x, threshold=THRESHOLD),
            "eager dense": lambda: dense_graph(x, mask, THRESHOLD),
        },
        rounds,
    )
    return [Row.ratio("graph construction", "fp32", times, "kernels", "eager dense", at_least=2.5)]


def attention_forward(rounds: int) -> list[Row]:
    graph = spatio_temporal_graph(real_tokens(1, T), threshold=THRESHOLD)
    dense = graph.to_dense()
    q, k, v, _ = heads(1, T * P)
    flex = CompiledFlexAttention(dense, T, P, 1)
    expected = dense_attention(q, k, v, dense)
    agree("attention forward", graph_attention(q, k, v, graph), expected, 1e-5)
    agree("FlexAttention", flex(q, k, v), expected, 1e-5)
    size = 4096
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = interleaved(
        {
            "kernels": lambda: graph_attention(q, k, v, graph),
            "compiled FlexAttention": lambda: flex(q, k, v),
            "eager dense": lambda: dense_attention(q, k, v, dense),
            "SGEMM": lambda: a @ b,
        },
        rounds,
    )
    sgemm_rate = 2.0 * size**3 / times["SGEMM"].median
    rate = band_flops(1, T, 1, P, H, D) / times["kernels"].median
    name, limit = "attention forward", f"rate of SGEMM, {sgemm_rate / 1e9:.0f} GFLOP/s"
    return [
        Row.ratio(name, "fp32", times, "kernels", "eager dense", at_least=9),
        Row.ratio(name, "fp32", times, "kernels", "compiled FlexAttention", at_least=1.4),
        Row(name, "fp32", "kernels", times["kernels"], limit, None, rate / sgemm_rate, at_least=0.55),
    ]


def attention_forward_backward(rounds: int) -> list[Row]:
    graph = spatio_temporal_graph(real_tokens(1, T), threshold=THRESHOLD)
    dense = graph.to_dense()
    tensors = heads(1, T * P)

    def kernels():
        return forward_backward(lambda q, k, v: graph_attention(q, k, v, graph), *tensors)

    def eager():
        return forward_backward(lambda q, k, v: dense_attention(q, k, v, dense), *tensors)

    for actual, expected in zip(kernels(), eager(), strict=True):
        agree("attention forward + backward", actual, expected, 1e-4)
    times = interleaved({"kernels": kernels, "eager dense": eager}, rounds)
    return [Row.ratio("attention forward + backward", "fp32", times, "kernels", "eager dense", at_least=8)]


def bfloat16(rounds: int) -> list[Row]:
    functions = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        graph = spatio_temporal_graph(real_tokens(1, T, dtype=dtype), threshold=THRESHOLD)
        tensors = heads(1, T * P, dtype=dtype)

        def step(graph=graph, tensors=tensors):
            return forward_backward(lambda q, k, v: graph_attention(q, k, v, graph), *tensors)

        functions[name] = step
    times = interleaved(functions, rounds)
    return [Row.ratio("attention forward + backward", "bf16", times, "bf16", "fp32", at_least=1)]


def frames(rounds: int) -> list[Row]:
    functions = {}
    for count in (8, 64):
        graph = spatio_temporal_graph(real_tokens(1, count), threshold=THRESHOLD)
        tensors = heads(1, count * P)

        def step(graph=graph, tensors=tensors):
            return forward_backward(lambda q, k, v: graph_attention(q, k, v, graph), *tensors)

        functions[f"T={count}"] = step
    times = interleaved(functions, rounds)
    growth = times["T=64"].median / times["T=8"].median
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a peak of its own
        extra = pool.apply(memory_of_64_frames)
    name = "attention forward + backward"
    return [
        Row(name, "fp32", "T=64", times["T=64"], "T=8", times["T=8"], growth, at_most=9.5),
        Row(name, "fp32", "T=64", times["T=64"], "memory beside the inputs, GiB", None, extra, at_most=4),
    ]


def memory_of_64_frames() -> float:
    """GiB that building the graph, and attention forward and backward, add to the process's peak (Linux)."""
    x, tensors = real_tokens(1, 64), heads(1, 64 * P)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    graph = spatio_temporal_graph(x, threshold=THRESHOLD)
    forward_backward(lambda q, k, v: graph_attention(q, k, v, graph), *tensors)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 2**20


QUESTIONS = (graph_construction, attention_forward, attention_forward_backward, bfloat16, frames)
