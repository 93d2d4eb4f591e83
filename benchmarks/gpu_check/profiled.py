"""python -m benchmarks.gpu_check.profiled BACKEND: runs every op once at the paper's shape with the profiler on."""

import sys

import torch

from benchmarks.agreement import forward_backward
from benchmarks.inputs import AttentionInputs, Problem, tokens_of
from stgt_kernels import graph_attention, spatio_temporal_graph


def main(backend: str) -> None:
    problem = Problem(B=20, dtype="bf16")
    x, inputs = tokens_of(problem, "cuda"), AttentionInputs.make(problem, "cuda")

    def ops() -> None:
        spatio_temporal_graph(x, threshold=problem.threshold, backend=backend)
        forward_backward(lambda q, k, v: graph_attention(q, k, v, inputs.graph, backend=backend), *inputs.tensors)

    ops()  # compiles and loads all kernels before the profiler starts
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    ops()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
