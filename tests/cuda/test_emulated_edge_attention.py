"""Runs the source of edge attention's CUDA kernels on the emulator.

A node with more than ``split`` edges is cut into pieces. The op cuts at 256; here it is a few edges, so that small
graphs have such nodes.
"""

import ctypes
import shutil

import pytest
import torch
from helpers.cases import assert_same_bits, dtype_name, same_bits
from helpers.edges import NAMES, Call, assert_close_to_definition, call, ragged_graph
from helpers.emulated import MARGIN, guarded, library, struct
from torch import Tensor

from stgt_kernels import RaggedGraph
from stgt_kernels.ops.edge_attention import reference
from stgt_kernels.ops.edge_attention.dropout import keep_mask
from stgt_kernels.ops.graph_attention import philox

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator is built with g++")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # numbered as in edge_attention_emulated.cpp
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
SIZES = [3, 0, 5, 1]
COMMON = "edge_attention/common.cuh"
NodeHeads, SortedEdges, EdgeValues = (struct(COMMON, name) for name in ("NodeHeads", "SortedEdges", "EdgeValues"))
EdgeParams = struct(COMMON, "EdgeParams", NodeHeads=NodeHeads, SortedEdges=SortedEdges, EdgeValues=EdgeValues)
TypeParams = struct("edge_attention/bwd_types_sm80.cuh", "TypeParams")


class Memory:
    """Tensors of NaN for the kernels to write, each within larger memory that has to stay NaN."""

    def __init__(self) -> None:
        self.around: dict[str, Tensor] = {}

    def new(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        tensor, self.around[name] = guarded(torch.empty(shape, dtype=dtype))
        return tensor

    def check(self) -> None:
        for name, memory in self.around.items():
            assert memory[:MARGIN].isnan().all() and memory[-MARGIN:].isnan().all(), f"written around {name}"


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def node_heads(x: Tensor) -> ctypes.Structure:
    size = x.element_size()
    return NodeHeads(x.data_ptr(), x.stride(1) * size, x.stride(0) * size)


def parameters(case: Call, split: int, seed: Tensor | None) -> tuple[ctypes.Structure, dict[str, Tensor | None]]:
    """The parameters as op.cu sets them, without the outputs; and the edge types of edge_scale and edge_bias."""
    graph, tensors, options = case.graph, case.tensors, case.options
    N, H, D = tensors["q"].shape
    size = tensors["q"].element_size()
    dropped = philox.drop_threshold(options.get("dropout_p", 0.0))
    inputs = {name: node_heads(tensors[name]) for name in "qkv"} | {"dout": node_heads(case.dout)}
    ends = [value for x in inputs.values() for value in (x.data, x.n, x.h)]
    lanes = max(4, 1 << (-(-D * size // 16) - 1).bit_length())
    pieces = 2 * -(-graph.edges // split) if graph.edges > split else 0
    types = {
        name: reference.types_of(tensors[name], graph) if name in tensors else None
        for name in ("edge_scale", "edge_bias")
    }
    params = EdgeParams(
        N=N,
        E=graph.edges,
        H=H,
        D=D,
        lanes=lanes,
        whole=all(end % 16 == 0 for end in (*ends, D * size)),
        split=split,
        piece_blocks=-(-pieces * H // (library("edge_attention_emulated").threads() // lanes)),
        scale=options.get("scale", D**-0.5),
        clamp=options.get("clamp", float("inf")),
        drop_threshold=dropped,
        inverse_keep=65536 / (65536 - dropped),
        seed=pointer(seed),
        rows=SortedEdges(*map(pointer, (graph.row_ptr, graph.source, graph.row_edge))),
        columns=SortedEdges(*map(pointer, (graph.col_ptr, graph.target, graph.col_edge))),
        dscores=pointer(case.dscores),
        **inputs,
        **{name: EdgeValues(pointer(tensors.get(name)), pointer(types[name])) for name in types},
    )
    return params, types


def run(case: Call, *, split: int = 8, edges_of_a_run: int = 16, seed: Tensor | None = None) -> dict[str, Tensor]:
    """out, scores and all gradients."""
    lib, memory, dtype = library("edge_attention_emulated"), Memory(), DTYPES.index(case.dtype)
    assert lib.params_size() == ctypes.sizeof(EdgeParams) and lib.type_params_size() == ctypes.sizeof(TypeParams)
    params, types = parameters(case, split, seed)
    N, E, H, D = params.N, params.E, params.H, params.D
    pieces = 2 * -(-E // split) if split < E else 0

    def point(**tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            setattr(params, name, tensor.data_ptr())

    out, scores = memory.new("out", N, H, D, dtype=case.dtype), memory.new("scores", E, H)
    softmax, sums = memory.new("softmax", N, H, 2), memory.new("sums of pieces", pieces, H, D)
    numbers = memory.new("numbers of pieces", pieces, H, 2)
    point(out=out, scores=scores, softmax=softmax, piece_sums=sums, piece_numbers=numbers)
    lib.edge_attention_fwd(ctypes.byref(params), dtype)

    gradients = {f"d{name}": memory.new(f"d{name}", N, H, D, dtype=case.dtype) for name in "qkv"}
    per_edge = {f"d{name}": memory.new(f"d{name}", E, H) for name in types if name in case.tensors}
    sums, numbers = memory.new("sums of gradients", 3, pieces, H, D), memory.new("parts of delta", pieces, H)
    inner = {"delta": memory.new("delta", N, H)} | {name: memory.new(name, E, H) for name in ("dproduct", "kept")}
    point(**gradients, **inner, piece_sums=sums, piece_numbers=numbers)
    point(**{name.replace("edge_", ""): tensor for name, tensor in per_edge.items()})
    lib.edge_attention_bwd(ctypes.byref(params), dtype)

    for name, tensor in per_edge.items():
        table = types[name.removeprefix("d")]
        gradients[name] = tensor if table is None else sums_of_types(tensor, table, case, edges_of_a_run, memory)
    memory.check()
    return {"out": out, "scores": scores, **gradients}


def sums_of_types(per_edge: Tensor, table: Tensor, case: Call, edges_of_a_run: int, memory: Memory) -> Tensor:
    E, H = per_edge.shape
    runs, types = -(-E // edges_of_a_run), case.graph.types
    partial, sums = memory.new("partial sums of types", runs, types, H), memory.new("sums of types", types, H)
    width = min(1 << (H - 1).bit_length(), 32)
    pointers = map(pointer, (per_edge, table, partial, sums))
    params = TypeParams(E, H, types, width, edges_of_a_run, runs, *pointers)
    library("edge_attention_emulated").edge_attention_bwd_types(ctypes.byref(params))
    return sums


def check(case: Call, seed: Tensor | None = None, **options) -> dict[str, Tensor]:
    actual = run(case, seed=seed, **options)
    assert_close_to_definition(case, "cuda", actual, seed)
    return actual


@all_dtypes
@pytest.mark.parametrize(
    ("H", "D"), [(1, 1), (3, 6), (2, 16), (9, 17), (8, 32), (2, 44), (3, 64), (1, 88), (2, 127), (2, 128)]
)
def test_heads(H, D, dtype):
    """Teams of every size, blocks with several nodes, and heads that are read in whole chunks or not."""
    check(call(ragged_graph(SIZES, 30), H, D, dtype=dtype))


@all_dtypes
@pytest.mark.parametrize("edge_scale", ["none", "edges", "types"])
@pytest.mark.parametrize("edge_bias", ["none", "edges", "types"])
def test_values_of_edges(edge_scale, edge_bias, dtype):
    options = dict(edge_scale=edge_scale, edge_bias=edge_bias, dscores=edge_scale == "edges")
    check(call(ragged_graph(SIZES, 35, types=3), 2, 8, dtype=dtype, **options))


@pytest.mark.parametrize("options", [{"clamp": 0.3}, {"scale": -0.5}, {"scale": 0.0}], ids=str)
def test_clamp_and_scale(options):
    check(call(ragged_graph(SIZES, 30), 2, 8, **options))


def star(edges: list[int], reverse: bool) -> RaggedGraph:
    """Node i attends edges[i] times to random nodes, or (reverse) is attended to as often."""
    generator = torch.Generator().manual_seed(5)
    target = torch.repeat_interleave(torch.arange(len(edges)), torch.tensor(edges))
    source = torch.randint(len(edges), (len(target),), generator=generator)
    order = torch.randperm(len(target), generator=generator)
    ends = torch.stack([target, source] if reverse else [source, target])
    return RaggedGraph.from_edge_index(ends[:, order], len(edges))


@all_dtypes
@pytest.mark.parametrize("reverse", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "edges",
    [
        [70, 1, 2],
        [8, 9, 0, 8],  # at the limit, and beyond it
        [9, 9, 9, 9],  # each segment has the end of one long node and the begin of the next
        [16, 24, 3, 5, 17],  # pieces that fill segments
        [3, 40, 5],  # a long node that begins and ends within segments
        [0, 0, 33],
    ],
    ids=str,
)
def test_nodes_that_are_cut_into_pieces(edges, reverse, dtype):
    check(call(star(edges, reverse), 3, 20, dtype=dtype))


@pytest.mark.parametrize("D", [24, 50, 100])
def test_more_pieces_than_a_block_has_threads(D):
    check(call(star([2, 600, 3], False), 1, D, dtype=torch.float16), split=2)


def test_maxima_that_rise_and_fall():
    case = call(star([100, 3], False), 2, 8)
    case.tensors["edge_bias"] += 40 * torch.sin(torch.linspace(0, 12, case.graph.edges))[:, None]
    check(case)


@all_dtypes
@pytest.mark.parametrize("H", [3, 9])
def test_dropout(H, dtype):
    """The mask is that of dropout.py, in rows and in columns, in pieces and in whole nodes."""
    case, seed = call(star([20, 4, 0, 7], False), H, 12, dtype=dtype, dropout_p=0.4), torch.tensor([2**62 + 7])
    check(case, seed)
    kept, _ = keep_mask(seed, case.graph.edges, H, 0.4)
    assert 0.3 < kept.double().mean() < 0.9


@all_dtypes
@pytest.mark.parametrize("layout", ["packed", "padded", "heads_first"])
@pytest.mark.parametrize("D", [8, 12, 5])
def test_layouts_change_no_bit(D, layout, dtype):
    graph = star([20, 4, 0, 7], True)
    expected = run(call(graph, 3, D, dtype=dtype))
    assert_same_bits(run(call(graph, 3, D, dtype=dtype, layout=layout)), expected)


@all_dtypes
def test_the_same_bits_every_time(dtype):
    case, seed = call(star([30, 4, 0, 9], True), 3, 12, dtype=dtype, dropout_p=0.2), torch.tensor([3])
    assert_same_bits(run(case, seed=seed), run(case, seed=seed))


def test_rows_without_edges_give_zero():
    """Rows 0 and 5 have no edge. In rows 2 and 4 all biases are -inf, and row 4 is cut into pieces."""
    target = torch.tensor([1, 1, 2, 3, 3] + [4] * 20)
    graph = RaggedGraph.from_edge_index(torch.stack([torch.arange(25) % 6, target]), 6)
    case = call(graph, 2, 12, dscores=False)
    case.tensors["edge_bias"][2] = case.tensors["edge_bias"][5:] = float("-inf")
    results = check(case)
    for name in ("out", "dq"):
        assert not results[name][[0, 2, 4, 5]].any(), name


def test_a_piece_without_weight_changes_nothing():
    case = call(star([24, 3], False), 2, 12)
    row = case.graph.row_edge[:8].long()
    case.tensors["edge_bias"][row] = float("-inf")
    check(case)


@all_dtypes
def test_a_graph_without_edges(dtype):
    results = run(call(ragged_graph([4], 0), 2, 8, dtype=dtype))
    for name in ("out", "dq", "dk", "dv"):
        assert not results[name].any(), name


def test_nan_reaches_only_rows_with_an_edge_to_it():
    graph = RaggedGraph.from_edge_index(torch.tensor([[0, 1, 2, 3, 1], [0, 0, 1, 2, 2]]), 4)
    case = call(graph, 2, 8, dscores=False)
    expected = run(case)["out"]
    for name in "kv":
        case.tensors[name][3] = float("nan")
    actual = run(case)["out"]
    assert actual[2].isnan().all()
    assert same_bits(actual[[0, 1, 3]], expected[[0, 1, 3]])


def test_a_table_for_many_heads_and_runs():
    """The heads take more than one block, and the last run is shorter than the others."""
    case = call(ragged_graph([5], 70, types=5), 37, 4, edge_scale="types", edge_bias="types")
    check(case, edges_of_a_run=32, split=100)


def test_the_names_of_the_results_are_those_of_the_definition():
    assert set(run(call(ragged_graph([3], 9), 1, 4))) == {"out", "scores", *(f"d{name}" for name in NAMES)}
