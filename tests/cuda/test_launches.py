"""Runs the host code of the CUDA ops on a replacement of the CUDA runtime: which kernels it launches, and how."""

import shutil

import pytest
import torch
from helpers.cases import LAYOUTS, heads

from benchmarks.gpu_check import small
from tools.compiled import launches, machine_code, resources
from tools.compiled.launches import (
    GPUS,
    attention_arguments,
    backward_arguments,
    edge_arguments,
    edge_backward_arguments,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA, and a runtime of its own"),
    pytest.mark.timeout(1800),  # the first test waits until all kernels are compiled, beside other tests
]
H200 = GPUS["H200"]


@pytest.fixture(scope="module")
def found():
    return resources.resources()


def names(gpu, op, arguments):
    """Returns the names of the kernels that an op launches, without namespaces and arguments."""
    mangled = [launch.mangled for launch in launches.run(gpu, op, *arguments)[1]]
    return [name.partition("<")[0] for name in machine_code.demangled(mangled)]


def test_every_launch_fits_its_gpu(found):
    """The replacement refuses shared memory, tensor maps and grids that do not fit. The compiler counts registers."""
    assert {r.gpu for r in found} == set(GPUS)
    for r in found:
        assert r.blocks >= 1, f"{r.kernel.name} does not fit the {r.gpu}"


def test_every_kernel_is_launched(found):
    """A kernel that no call launches would be compiled for nothing."""
    _, log = machine_code.compile_all()
    kernels = machine_code.kernels([], log)
    launched = {(r.kernel.architecture, r.kernel.name) for r in found}
    idle = {(k.architecture, k.name) for k in kernels} - launched
    of_hopper = ("_sm90<", "align_weights<")
    assert not {key for key in idle if not (key[0] == "sm_80" and any(name in key[1] for name in of_hopper))}


def test_no_kernel_takes_more_of_a_gpu_than_it_did(found):
    """If a kernel has to take more, `python -m tools.compiled.resources` writes the new numbers."""
    before = resources.kept()
    now = {(r.kernel.name, r.gpu): r.blocks for r in found}
    assert before and before.keys() <= now.keys(), "the table names kernels that are no longer there"
    assert not {key: (blocks, now[key]) for key, blocks in before.items() if now[key] < blocks}


def test_the_sanitizer_s_driver_launches_every_kernel(found):
    """On Hopper, small.py launches all kernels, though not with all their template arguments."""
    launched = set()
    for dtype in small.DTYPES:
        for T, P, D in small.SIZES:
            x = torch.empty(1, T, P, 3 * D, dtype=dtype)
            launched |= set(names(H200, "spatio_temporal_graph_fwd", (x, 0.5, 1, True)))
            weight = attention_arguments(dtype, T=T, P=P, D=D, differentiable=True)[3]
            launched |= set(names(H200, "spatio_temporal_graph_bwd", (weight, x, weight, torch.empty(1, T, P))))
            for dropout_p, differentiable in ((0.0, False), (0.2, False), (0.0, True), (0.2, True)):
                options = dict(dropout_p=dropout_p, differentiable=differentiable)
                forward = attention_arguments(dtype, T=T, P=P, D=D, **options)
                launched |= set(names(H200, "graph_attention_fwd", forward))
                launched |= set(names(H200, "graph_attention_bwd", backward_arguments(forward)))
            forward = edge_arguments(dtype, N=30, E=700, H=3, D=D, types=4)
            launched |= set(names(H200, "edge_attention_fwd", forward))
            launched |= set(names(H200, "edge_attention_bwd", edge_backward_arguments(forward)))
    assert launched == {r.kernel.function for r in found if r.gpu == "H200"}


def test_hopper_s_kernels_run_on_hopper_alone(found):
    on_hopper = {r.gpu for r in found if r.kernel.function.endswith("_sm90")}
    assert on_hopper == {"H200"}


def test_the_paper_s_shape_takes_hopper_s_kernels():
    arguments = attention_arguments(torch.bfloat16, B=20, H=16, T=8)
    assert names(H200, "graph_attention_fwd", arguments) == ["graph_attention_fwd_sm90"]
    backward = names(H200, "graph_attention_bwd", backward_arguments(arguments, need_dweight=False))
    assert sorted(backward) == [
        "graph_attention_bwd_delta",
        "graph_attention_bwd_dkdv_sm90",
        "graph_attention_bwd_dq_sm90",
    ]
    x = torch.empty(20, 8, 256, 1408, dtype=torch.bfloat16)
    graph = names(H200, "spatio_temporal_graph_fwd", (x, 0.5, 1, False))
    assert graph == ["spatio_temporal_graph_fwd_sm90", "spatio_temporal_graph_fwd_rescue"]
    wide = attention_arguments(torch.bfloat16, B=20, H=16, T=8, differentiable=True)
    assert names(H200, "graph_attention_fwd", wide) == ["graph_attention_fwd_sm90"]
    backward = names(H200, "graph_attention_bwd", backward_arguments(wide))
    assert sorted(backward) == [
        "graph_attention_bwd_delta",
        "graph_attention_bwd_dkdv_sm90",
        "graph_attention_bwd_dq_sm90",
        "graph_attention_bwd_dweight_sm80",
    ]


@pytest.mark.parametrize("P", [49, 196, 197])
def test_any_number_of_patches_takes_hopper_s_kernels(P):
    """A copy of the weights has rows that the copy engine takes."""
    arguments = attention_arguments(torch.bfloat16, P=P, D=64)
    copy = "graph_attention_align_weights"
    assert names(H200, "graph_attention_fwd", arguments) == [copy, "graph_attention_fwd_sm90"]
    backward = names(H200, "graph_attention_bwd", backward_arguments(arguments, need_dweight=False))
    assert {copy, "graph_attention_bwd_dkdv_sm90", "graph_attention_bwd_dq_sm90"} < set(backward)
    wide = attention_arguments(torch.bfloat16, P=P, D=64, differentiable=True)
    expected = [copy] if P % 4 else []  # rows of 196 float32 values begin at multiples of 16 bytes
    assert names(H200, "graph_attention_fwd", wide) == [*expected, "graph_attention_fwd_sm90"]


@pytest.mark.parametrize("gpu", GPUS)
def test_float32_takes_its_own_kernels(gpu):
    arguments = attention_arguments(torch.float32)
    for op, given in (("graph_attention_fwd", arguments), ("graph_attention_bwd", backward_arguments(arguments))):
        taken = set(names(GPUS[gpu], op, given)) - {"graph_attention_bwd_delta"}
        assert taken and all(name.endswith("_fp32") for name in taken)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gpu", ["A100", "H200"])
def test_layouts(gpu, layout):
    """The copy engine takes rows of 16 bytes at multiples of 16 bytes. Tensors in other layouts are copied."""
    _, _, _, *rest = attention_arguments(torch.bfloat16, B=2, D=24, P=64, T=2)
    q, k, v = (heads(2, 2, 128, 24, dtype=torch.bfloat16, layout=layout) for _ in range(3))
    path = {"A100": "sm80", "H200": "sm90"}[gpu]
    assert names(GPUS[gpu], "graph_attention_fwd", (q, k, v, *rest)) == [f"graph_attention_fwd_{path}"]
    backward = names(GPUS[gpu], "graph_attention_bwd", backward_arguments((q, k, v, *rest)))
    assert {f"graph_attention_bwd_dq_{path}", f"graph_attention_bwd_dkdv_{path}"} <= set(backward)


def test_expanded_tensors():
    _, _, _, *rest = attention_arguments(torch.bfloat16, B=2, D=24, P=64, T=2)
    q = heads(1, 1, 128, 24, dtype=torch.bfloat16).expand(2, 2, 128, 24)
    assert names(H200, "graph_attention_fwd", (q, q, q, *rest)) == ["graph_attention_fwd_sm90"]
    backward = names(H200, "graph_attention_bwd", backward_arguments((q, q, q, *rest)))
    assert {"graph_attention_bwd_dq_sm90", "graph_attention_bwd_dkdv_sm90"} <= set(backward)


@pytest.mark.parametrize(("scale", "path"), [(0.1, "sm90"), (0.0, "sm90"), (-0.1, "sm80")])
def test_signs_of_the_scale(scale, path):
    arguments = changed(attention_arguments(torch.bfloat16), 6, scale)
    assert names(H200, "graph_attention_fwd", arguments) == [f"graph_attention_fwd_{path}"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("missing", ["B", "H", "T", "P"])
def test_empty_tensors_launch_nothing(missing, dtype):
    sizes = dict(B=1, H=2, T=3, P=70) | {missing: 0}
    arguments = attention_arguments(dtype, **sizes, D=40, differentiable=True)
    (out, lse), launched = launches.run(H200, "graph_attention_fwd", *arguments)
    assert out.shape == arguments[0].shape and lse.shape == out.shape[:3] and not launched
    gradients, launched = launches.run(H200, "graph_attention_bwd", *backward_arguments(arguments))
    assert [gradient.shape for gradient in gradients] == [*(3 * [out.shape]), arguments[3].shape] and not launched
    assert not gradients[3].any()


@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("dtype", launches.DTYPES)
def test_outputs_are_as_the_fakes_say(dtype, dropout_p):
    from stgt_kernels.ops.edge_attention import native_impl as _  # noqa: F401  (registers the fakes)
    from stgt_kernels.ops.graph_attention import native_impl as _  # noqa: F401, F811
    from stgt_kernels.ops.spatio_temporal_graph import native_impl as _  # noqa: F401, F811

    forward = attention_arguments(dtype, P=70, D=40, dropout_p=dropout_p)
    wide = attention_arguments(dtype, P=70, D=40, dropout_p=dropout_p, differentiable=True)
    edges, plain = (edge_arguments(dtype, D=40, types=types, dropout_p=dropout_p) for types in (5, 0))
    x = torch.empty(1, 3, 70, 40, dtype=dtype)
    weight = wide[3]
    calls = [
        ("graph_attention_fwd", forward),
        ("graph_attention_bwd", backward_arguments(wide)),
        ("graph_attention_bwd", backward_arguments(forward, need_dweight=False)),
        ("edge_attention_fwd", edges),
        ("edge_attention_bwd", edge_backward_arguments(edges)),
        ("edge_attention_bwd", edge_backward_arguments(plain)),
        ("spatio_temporal_graph_fwd", (x, 0.5, 1, False)),
        ("spatio_temporal_graph_fwd", (x, 0.5, 1, True)),
        ("spatio_temporal_graph_bwd", (weight, x, weight, torch.empty(1, 3, 70))),
    ]
    for op, arguments in calls:
        results = launches.run(H200, op, *arguments)[0]
        on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
        fakes = getattr(torch.ops.stgt_kernels, op)(*on_meta)
        for real, fake in zip(results, fakes if isinstance(fakes, tuple) else (fakes,), strict=True):
            assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride()), op


EDGE_BACKWARD = [f"edge_attention_bwd_{name}_sm80" for name in ("delta", "rows", "columns")]
LONG_BACKWARD = [f"edge_attention_bwd_{name}_sm80" for name in ("delta", "delta_long", "rows", "columns", "long")]


def launches_of_edges(**sizes):
    """The launches of edge_attention forward and backward, with the kernels' names."""
    forward = edge_arguments(torch.bfloat16, **sizes)
    found = []
    for op, arguments in (("edge_attention_fwd", forward), ("edge_attention_bwd", edge_backward_arguments(forward))):
        made = launches.run(H200, op, *arguments)[1]
        short = machine_code.demangled([launch.mangled for launch in made])
        found.append([(name.partition("<")[0], launch) for name, launch in zip(short, made, strict=True)])
    return found


def test_few_edges_take_no_launch_for_long_nodes():
    forward, backward = launches_of_edges(N=100, E=256)
    assert [name for name, _ in forward] == ["edge_attention_fwd_sm80"]
    assert [name for name, _ in backward] == EDGE_BACKWARD
    forward, backward = launches_of_edges(N=100, E=257)
    assert [name for name, _ in forward] == ["edge_attention_fwd_sm80", "edge_attention_fwd_long_sm80"]
    assert [name for name, _ in backward] == LONG_BACKWARD


@pytest.mark.parametrize(("D", "lanes"), [(1, 4), (32, 4), (33, 8), (64, 8), (88, 16), (128, 16)])
def test_teams_of_every_head_and_piece(D, lanes):
    N, E, H = 1001, 700, 8
    (_, first), (_, long) = launches_of_edges(N=N, E=E, H=H, D=D)[0]
    teams, pieces = first.threads // lanes, 2 * 3  # three segments of 256 slots
    assert first.blocks == (-(-N * H // teams) + -(-pieces * H // teams), 1, 1)
    assert long.blocks == (3 * H, 1, 1)


def test_empty_graphs_launch_nothing_that_has_nothing_to_do():
    forward, backward = launches_of_edges(N=0, E=0)
    assert not forward and not backward
    forward, backward = launches_of_edges(N=10, E=0)
    assert [name for name, _ in forward] == ["edge_attention_fwd_sm80"]
    assert [name for name, _ in backward] == EDGE_BACKWARD


def test_a_table_without_edges_gets_a_gradient_of_zeros():
    _, backward = launches_of_edges(N=0, E=0, types=3)
    assert [name for name, _ in backward] == ["edge_attention_bwd_types_sum_sm80"] * 2


def test_runs_of_edges_of_tables():
    """A run has 1024 edges, or more where there would be more than 256 runs."""
    for E, runs in ((1024, 1), (1025, 2), (2**18, 256), (2**18 + 1, 256), (2**20, 256)):
        _, backward = launches_of_edges(N=10, E=E, H=40, types=12)
        blocks = [launch.blocks for name, launch in backward if name == "edge_attention_bwd_types_sm80"]
        assert blocks == [(runs * 12 * 2, 1, 1)] * 2, E  # heads in two blocks of 32


def changed(arguments, index, value):
    return (*arguments[:index], value, *arguments[index + 1 :])


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.empty(2, 2, 512, 88), "q must be|q must have"),
        (0, torch.empty(1, 2, 768, 88, dtype=torch.float64), "q must be float32, bfloat16 or float16, got float64"),
        (1, torch.empty(1, 2, 768, 87), "k must have size 88 in dimension 3, got 87"),
        (2, torch.empty(1, 2, 768, 88).half(), "v must be float32, got float16"),
        (3, torch.empty(1, 3, 256, 3, 256).half(), "weight must be float32, got float16"),
        (3, torch.empty(1, 3, 256, 2, 256), "weight must have size 3 in dimension 3, got 2"),
        (4, torch.ones(1, 3, 3, 3, 4, dtype=torch.bool), "live must have size 4 in dimension 2, got 3"),
        (5, torch.tensor([1.0]), "seed must be int64, got float32"),
        (5, torch.tensor([], dtype=torch.int64), "seed must have size 1"),
        (7, 1.0, "dropout needs a seed and a probability below 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(index, value, message):
    arguments = attention_arguments(torch.float32, dropout_p=0.5)
    with pytest.raises(RuntimeError, match=f"graph_attention_fwd: .*({message})"):
        launches.run(H200, "graph_attention_fwd", *changed(arguments, index, value))


def test_stages_are_known_of_every_kernel_of_hopper(found):
    known = resources.stages()
    staged = [r.kernel for r in found if r.kernel.function.endswith("_sm90")]
    assert staged and all(int(resources.stages_of(kernel, known)) >= 2 for kernel in staged)


def test_the_table_lists_what_was_found(found):
    shown = [r for r in found if r.gpu == "H200"]
    text = resources.table(shown, {})
    assert text.count("\n") == 2 + sum("f16" not in r.kernel.arguments for r in shown)
    assert "graph_attention_fwd_sm90<bf16, 88, 4, false, false>" in text


def test_the_replacement_refuses_what_a_gpu_refuses():
    tight = launches.Gpu((9, 0), 132, 64 * 1024, 228 * 1024, 2048, 32)
    with pytest.raises(RuntimeError, match="refused \\d+ bytes of shared memory"):
        launches.run(tight, "graph_attention_fwd", *attention_arguments(torch.bfloat16))


def test_blocks_that_fit_a_multiprocessor():
    """The expected numbers are those of NVIDIA's occupancy calculator."""
    a100 = GPUS["A100"]
    assert a100.blocks_at_once(128, 32, 0) == 16  # 2048 threads
    assert a100.blocks_at_once(128, 128, 0) == 4  # 65536 registers
    assert a100.blocks_at_once(64, 32, 0) == 32  # blocks
    assert a100.blocks_at_once(128, 32, 80 * 1024) == 2  # 164 KB, one more for each block
    assert a100.blocks_at_once(1024, 65, 0) == 0  # a thread gets 72 registers, which are too many
