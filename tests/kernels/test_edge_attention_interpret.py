"""The Triton kernels of edge attention against the definition, on CPU tensors, in Triton's interpreter.

Run as ``TRITON_INTERPRET=1 pytest -m triton_interpret``: the interpreter replaces the compiler for a whole process. It
computes bfloat16 wrongly, so that float16 stands for both.
"""

import pytest
import torch
from helpers.cases import assert_same_bits, dtype_name
from helpers.edges import LAYOUTS, assert_close_to_definition, call, ragged_graph, run

from stgt_kernels import RaggedGraph

pytestmark = [
    pytest.mark.triton_interpret,
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # 1 / 0 of a row without edges, not taken
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # NaN given on purpose
]
both_dtypes = pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=dtype_name)
SIZES = [3, 0, 5]


@both_dtypes
@pytest.mark.parametrize(("H", "D"), [(1, 1), (3, 6), (2, 16), (9, 17), (4, 88), (2, 128)])
def test_heads(H, D, dtype):
    assert_close_to_definition(call(ragged_graph(SIZES, 20), H, D, dtype=dtype), "triton")


@both_dtypes
@pytest.mark.parametrize("edge_scale", ["none", "edges", "types"])
@pytest.mark.parametrize("edge_bias", ["none", "edges", "types"])
def test_values_of_edges(edge_scale, edge_bias, dtype):
    options = dict(edge_scale=edge_scale, edge_bias=edge_bias, dscores=edge_scale == "edges")
    assert_close_to_definition(call(ragged_graph(SIZES, 25, types=3), 2, 8, dtype=dtype, **options), "triton")


@pytest.mark.parametrize("options", [{"clamp": 0.3}, {"scale": -0.5}, {"scale": 0.0}], ids=str)
def test_clamp_and_scale(options):
    assert_close_to_definition(call(ragged_graph(SIZES, 20), 2, 8, **options), "triton")


@both_dtypes
@pytest.mark.parametrize("H", [3, 9])
def test_dropout(H, dtype):
    case = call(ragged_graph(SIZES, 20), H, 8, dtype=dtype, dropout_p=0.4)
    torch.manual_seed(3)
    seed = torch.randint(2**63 - 1, (1,))
    torch.manual_seed(3)
    assert_close_to_definition(case, "triton", run(case, "triton"), seed)


@both_dtypes
def test_rows_and_columns_with_many_edges(dtype):
    """More edges than a program takes at a time, and a maximum that comes late."""
    ends = torch.stack([torch.arange(70) % 5, torch.zeros(70, dtype=torch.int64)])
    for edge_index in (ends, ends.flip(0)):
        case = call(RaggedGraph.from_edge_index(edge_index, 5), 2, 24, dtype=dtype)
        case.tensors["edge_bias"] += torch.linspace(-20, 20, 70)[:, None]
        assert_close_to_definition(case, "triton")


def test_many_edges_of_few_types():
    """More edges than one program adds up for a type."""
    case = call(ragged_graph([2], 4100, types=2), 1, 1, edge_scale="types", edge_bias="types")
    assert_close_to_definition(case, "triton")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout):
    expected = run(call(ragged_graph(SIZES, 20), 3, 12), "triton")
    assert_same_bits(run(call(ragged_graph(SIZES, 20), 3, 12, layout=layout), "triton"), expected)


def test_rows_without_edges_give_zero():
    edge_index = torch.tensor([[0, 1, 2, 0, 1], [1, 1, 2, 3, 3]])
    case = call(RaggedGraph.from_edge_index(edge_index, 5), 2, 12, dscores=False)
    case.tensors["edge_bias"][[2, 3]] = float("-inf")
    results = run(case, "triton")
    for name, tensor in results.items():
        assert tensor.isfinite().all(), name
    assert not results["out"][[0, 2, 4]].any() and not results["dq"][[0, 2, 4]].any()
    assert torch.equal(results["out"][3], case.tensors["v"][1])


@pytest.mark.parametrize(("sizes", "edges"), [([], 0), ([5], 0)])
def test_nothing_to_attend_to(sizes, edges):
    case = call(ragged_graph(sizes, edges, types=3), 2, 8, edge_scale="types")
    assert not any(tensor.any() for tensor in run(case, "triton").values())


def test_nan_reaches_the_rows_with_an_edge_to_it():
    graph = RaggedGraph.from_edge_index(torch.tensor([[0, 1, 2], [1, 1, 2]]), 3)
    for name in ("q", "k", "v"):
        case = call(graph, 2, 8, dscores=False)
        case.tensors[name][0, :, 3] = float("nan")
        out = run(case, "triton")["out"]
        assert out[2].isfinite().all() and not out[0].any() and out[1].isnan().any() == (name != "q")
