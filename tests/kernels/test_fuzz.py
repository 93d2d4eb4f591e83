"""Random combinations of shapes, dtypes, layouts, windows, thresholds and dropout."""

import os
from random import Random

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    KERNELS,
    LAYOUTS,
    heads,
    mask_after,
    on,
    run_attention,
)
from helpers.poison import poisoned_memory

from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph, token_similarity
from stgt_kernels.graph import live_tiles, storage_dtype
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

ALIGNED_LAYOUTS = [layout for layout in LAYOUTS if layout != "padded"]
EXAMPLES = {"cpu": 60, "cuda": 500, "triton": 100}  # Triton compiles its kernels for nearly every example
FIRST = 1000 * int(os.environ.get("STGT_TEST_SEED", "0"))
each_example = pytest.mark.parametrize(
    ("backend", "seed"), [(backend, FIRST + example) for backend in KERNELS for example in range(EXAMPLES[backend])]
)


def any_dtype(draw: Random, backend: str) -> torch.dtype:
    return draw.choice([dtype for dtype in DTYPES if backend not in GPU_BACKENDS or dtype != torch.float64])


def any_clip(draw: Random, backend: str) -> tuple[int, int, int, int]:
    """B, T, P and the window: many short frames, or two frames of more than one tile of 64 (on a GPU, of 256, too)."""
    B = draw.randint(1, 2)
    if draw.random() < 0.5:
        T, P = draw.randint(1, 5), draw.randint(1, 20)
    else:
        larger = [193, 196, 255, 256, 257] if backend in GPU_BACKENDS else []
        T, P = draw.randint(1, 2), draw.choice([31, 49, 63, 64, 65, 127, 129, *larger])
    return B, T, P, draw.randint(0, T - 1)


def any_graph(draw: Random, backend: str, dtype: torch.dtype, unit: int) -> SpatioTemporalGraph:
    """Any graph, with no edges to all edges, and weights of both signs. Its map may call empty tiles live.

    unit: the number of patches is a multiple of it.
    """
    B, T, P, window = any_clip(draw, backend)
    P = -(-P // unit) * unit
    generator = torch.Generator().manual_seed(draw.getrandbits(31))
    weight = 2 * torch.rand(B, T, P, 2 * window + 1, P, generator=generator, dtype=torch.float64) - 1
    weight.masked_fill_(torch.rand(weight.shape, generator=generator) >= draw.choice([0.0, 0.01, 0.3, 1.0]), 0)
    for t in range(T):
        for o in range(2 * window + 1):
            if not 0 <= t + o - window < T:
                weight[:, t, :, o] = 0
    weight = weight.to(storage_dtype(dtype, differentiable=draw.random() < 0.5))
    live = live_tiles(weight)
    return SpatioTemporalGraph._with_live(weight, torch.ones_like(live) if draw.random() < 0.5 else live)


@each_example
def test_graph_attention(backend, seed):
    draw = Random(seed)
    dtype = any_dtype(draw, backend)
    aligned = backend in GPU_BACKENDS and draw.random() < 0.6  # the fastest kernels need aligned sizes
    unit, layouts = (8, ALIGNED_LAYOUTS) if aligned else (1, LAYOUTS)
    graph = any_graph(draw, backend, dtype, unit)
    B, N = graph.batch_size, graph.nodes
    H, D = draw.randint(1, 3), draw.choice([unit * draw.randint(1, 128 // unit), 64, 88, 128])
    q, k, v, dout = (heads(B, H, N, D, dtype=dtype, layout=draw.choice(layouts), seed=i) for i in range(4))
    scale = draw.choice([D**-0.5, 1 / D, -(D**-0.5)])
    p = draw.choice([0.0, 0.1, 0.5])
    dlse = torch.ones(B, H, N, dtype=torch.promote_types(dtype, torch.float32)) if draw.random() < 0.5 else None
    keep, keep_prob = mask_after(1, B, H, graph.frames, graph.patches, p, backend)
    torch.manual_seed(1)
    actual = run_attention(q, k, v, graph, dout, dlse, backend=backend, scale=scale, dropout_p=p)
    options = dict(keep=keep, keep_prob=keep_prob) if p else {}
    assert_attention_errors(actual, q, k, v, graph, dout, dlse, scale=scale, **options)


@each_example
def test_spatio_temporal_graph(backend, seed):
    draw = Random(seed)
    dtype = any_dtype(draw, backend)
    B, T, P, window = any_clip(draw, backend)
    C = draw.choice([draw.randint(1, 70), 255, 256, 257, 600])
    threshold = draw.choice([None, draw.uniform(-1, 1), draw.uniform(0, 1), 0.0, 1.0])
    x = video_like_tokens(B, T, P, C, seed=draw.randint(0, 1000))
    x[:, :, draw.randint(1, 6) :: 3] *= draw.choice([-1.0, 0.0, 0.01, 100.0])
    x = x.to(dtype)
    if draw.random() < 0.5:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    leaf = on(backend, x).requires_grad_()
    with poisoned_memory():
        options = dict(window=window, differentiable=True, backend=backend)
        if threshold is None:
            graph = token_similarity(leaf, **options)
        else:
            graph = spatio_temporal_graph(leaf, threshold=threshold, **options)
        (dx,) = torch.autograd.grad(graph.weight, leaf, torch.ones_like(graph.weight))
    graph, dx, x = graph.detach().to("cpu"), dx.cpu(), x.detach()
    in_doubt = assert_graph_close(graph, x, threshold, window)
    assert torch.equal(graph.live, live_tiles(graph.weight)) and torch.equal(graph.to_dense(), graph.to_dense().mT)
    assert dx.shape == x.shape and dx.isfinite().all()
    if in_doubt == 0:
        edges = graph.weight != 0

        def gradient(x):
            """dx, and the size of the terms whose difference it is, from which the allowed rounding is computed."""
            x = x.detach().requires_grad_()
            similarity = token_similarity(x, window=window, differentiable=True, backend="reference").weight
            (dx,) = torch.autograd.grad(similarity, x, edges.to(similarity.dtype))
            return torch.cat([dx.flatten(), terms.to(x.dtype)])

        terms = 2 * (edges.sum((3, 4)) / x.double().norm(dim=-1).clamp(min=1e-6)).amax().view(1)
        assert_close(torch.cat([dx.flatten(), terms.to(dtype)]), gradient(x), gradient(x.double()), "dx")
