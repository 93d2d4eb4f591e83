"""Runs the kernels of an installed wheel: forward, backward, and the report. Only torch and the wheel are installed."""

import importlib.util
import sys
from pathlib import Path

import torch

import stgt_kernels
from stgt_kernels import dispatch
from stgt_kernels.report import report
from stgt_kernels.testing import assert_graph_close, video_like_tokens


def main() -> None:
    folder = Path(stgt_kernels.__file__).parent
    if not folder.is_relative_to(sys.prefix):
        sys.exit(f"stgt_kernels was imported from {folder}, expected a folder in {sys.prefix}")
    if importlib.util.find_spec("transformers") is not None:
        sys.exit("transformers is installed, expected an environment with torch alone")
    print(report())
    if reason := dispatch.why_not("cpu", "cpu"):
        sys.exit(f"the C++ kernels cannot run: {reason}")
    x = video_like_tokens(1, 3, 70, 32)
    assert_graph_close(stgt_kernels.spatio_temporal_graph(x, threshold=0.5, backend="cpu"), x, 0.5, 1)
    graph = stgt_kernels.spatio_temporal_graph(x.double(), threshold=0.5, backend="cpu")
    torch.testing.assert_close(attention(graph, "cpu"), attention(graph, "reference"))
    print(f"torch {torch.__version__}: the wheel's kernels agree with the reference, forward and backward")


def attention(graph: stgt_kernels.SpatioTemporalGraph, backend: str) -> list[torch.Tensor]:
    """The output of graph attention in float64, and the gradients of q, k and v."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, graph.nodes, 32, generator=generator).double().requires_grad_() for _ in range(3))
    out = stgt_kernels.graph_attention(q, k, v, graph, backend=backend)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v))]


if __name__ == "__main__":
    main()
