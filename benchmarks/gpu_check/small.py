"""python -m benchmarks.gpu_check.small BACKEND: runs every kernel at sizes that are small enough for a sanitizer.

The inputs are made on the CPU and copied, so a sanitizer that watches only our kernels knows that they were written.
"""

import sys

import torch
from torch import Tensor

from stgt_kernels import RaggedGraph, SpatioTemporalGraph, edge_attention, graph_attention, spatio_temporal_graph
from stgt_kernels.graph import storage_dtype
from stgt_kernels.testing import video_like_tokens

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# (T, P, D): full tiles, partial tiles, odd rows of weights, and sizes that only the general kernels support. D covers
# each kernel width.
SIZES = ((2, 264, 88), (3, 72, 64), (2, 136, 128), (2, 49, 64), (3, 49, 20))


def attention(backend: str, dtype: torch.dtype, T: int, P: int, D: int, dropout_p: float, device: str = "cuda") -> None:
    tokens = video_like_tokens(1, T, P, 32)
    graph = spatio_temporal_graph(tokens, threshold=0.5, backend="reference")
    q, k, v, dout = (torch.randn(1, T * P, 2, D).to(dtype).to(device).transpose(1, 2) for _ in range(4))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    for differentiable in (False, True):
        weight = graph.weight.to(storage_dtype(dtype, differentiable)).to(device)
        weight[:, :, :, 0] = 0  # tiles to skip
        weight.requires_grad_(differentiable)
        out = graph_attention(*leaves, SpatioTemporalGraph(weight), dropout_p=dropout_p, backend=backend)
        finite(out, *torch.autograd.grad(out, [*leaves, weight] if differentiable else leaves, dout))


def construction(backend: str, dtype: torch.dtype, T: int, P: int, C: int, device: str = "cuda") -> None:
    x = video_like_tokens(1, T, P, C, dtype=dtype).to(device).requires_grad_()
    graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend=backend)
    finite(graph.weight, *torch.autograd.grad(graph.weight, x, graph.weight.detach()))


def edges(backend: str, dtype: torch.dtype, D: int, dropout_p: float, device: str = "cuda") -> None:
    """One row and one column have so many edges that the CUDA kernels cut them into pieces."""
    N, E, H, types = 30, 700, 3, 4
    edge_index = torch.randint(N, (2, E))
    edge_index[1, :300] = edge_index[0, 300:600] = 5
    graph = RaggedGraph.from_edge_index(edge_index, N, edge_type=torch.randint(types, (E,)), types=types).to(device)
    q, k, v, dout = (torch.randn(N, H, D).to(dtype).to(device) for _ in range(4))
    table, bias = (torch.randn(rows, H).to(device) for rows in (types, E))
    leaves = [t.requires_grad_() for t in (q, k, v, table, bias)]
    out, scores = edge_attention(
        q, k, v, graph, edge_scale=table, edge_bias=bias, dropout_p=dropout_p, return_scores=True, backend=backend
    )
    finite(out, scores, *torch.autograd.grad((out, scores), leaves, (dout, scores.detach())))


def finite(*tensors: Tensor) -> None:
    for tensor in tensors:
        assert tensor.cpu().isfinite().all()


def main(backend: str, device: str = "cuda") -> None:
    for dtype in DTYPES:
        for T, P, D in SIZES:
            for dropout_p in (0.0, 0.2):
                attention(backend, dtype, T, P, D, dropout_p, device)
                edges(backend, dtype, D, dropout_p, device)
            construction(backend, dtype, T, P, 3 * D, device)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
