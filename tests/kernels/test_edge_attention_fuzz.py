"""Sizes, dtypes, layouts, edge values, clamp and dropout together, as nobody would think of combining them."""

import os
from random import Random

import pytest
import torch
from helpers.cases import DTYPES, GPU_BACKENDS, KERNELS, device_of
from helpers.edges import LAYOUTS, assert_close_to_definition, call, ragged_graph, run

EXAMPLES = {"cpu": 60, "cuda": 300, "triton": 60}  # Triton compiles its kernels anew for nearly every one
FIRST = 1000 * int(os.environ.get("STGT_TEST_SEED", "0"))


@pytest.mark.parametrize(
    ("backend", "seed"), [(backend, FIRST + example) for backend in KERNELS for example in range(EXAMPLES[backend])]
)
def test_edge_attention(backend, seed):
    draw = Random(seed)
    dtype = draw.choice([dtype for dtype in DTYPES if backend not in GPU_BACKENDS or dtype != torch.float64])
    sizes = [draw.choice([0, 1, draw.randint(2, 20), draw.randint(60, 150)]) for _ in range(draw.randint(1, 6))]
    edges = draw.choice([0, 1, draw.randint(2, 60), draw.randint(200, 1500)]) if sum(sizes) else 0
    types = draw.choice([0, 1, draw.randint(2, 20), 256])
    graph = ragged_graph(sizes, edges, types=types, seed=seed)
    kinds = ["none", "edges", "types"] if types else ["none", "edges"]
    D = draw.choice([draw.randint(1, 128), 16, 32, 64, 88, 128])
    p = draw.choice([0.0, 0.1, 0.5])
    case = call(
        graph,
        draw.choice([1, 2, 3, 8, draw.randint(1, 20)]),
        D,
        dtype=dtype,
        layout=draw.choice(LAYOUTS),
        edge_scale=draw.choice(kinds),
        edge_bias=draw.choice(kinds),
        dscores=draw.random() < 0.5,
        seed=seed,
        scale=draw.choice([D**-0.5, 1 / D, -(D**-0.5)]),
        dropout_p=p,
        **draw.choice([{}, {"clamp": 0.5}, {"clamp": 3.0}]),
    )
    torch.manual_seed(1)
    drawn = torch.randint(2**63 - 1, (1,), device=device_of(backend)).cpu() if p else None
    torch.manual_seed(1)
    assert_close_to_definition(case, backend, run(case, backend), drawn)
