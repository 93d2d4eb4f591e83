"""The Triton kernels compiled for GPUs: registers, shared memory, tensor cores, width of loads. It needs no GPU.

Launches at the paper's sizes are recorded in place of being run, and the recorded kernels are compiled. ``pytest -s``
shows the registers and the shared memory of each kernel.
"""

import re
import subprocess

import pytest
import torch
from helpers.cases import dtype_name

from stgt_kernels.graph import storage_dtype

triton = pytest.importorskip("triton", reason="Triton is a dependency of PyTorch on Linux with a GPU only")
if triton.knobs.runtime.interpret:
    pytest.skip("Triton's interpreter has taken the compiler's place in this process", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from stgt_kernels.ops.edge_attention import triton_impl as edges  # noqa: E402
from stgt_kernels.ops.graph_attention import triton_impl as attention  # noqa: E402
from stgt_kernels.ops.graph_attention.triton_common import split_head_dim  # noqa: E402
from stgt_kernels.ops.spatio_temporal_graph import triton_impl as graph  # noqa: E402

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
    torch.uint8: "*u8",
}
# The loops of these kernels also load norms, lse and delta, or tiles so small that a thread's share is 8 bytes.
LOAD_LESS = {
    "spatio_temporal_graph_bwd_kernel",
    "graph_attention_bwd_dkdv_kernel",
    "graph_attention_bwd_dq_kernel",
    "graph_attention_bwd_dweight_kernel",
}
HALF = (torch.bfloat16, torch.float16)
B, H, T, P, C, O = 1, 16, 8, 256, 1408, 3


@pytest.fixture
def launches(monkeypatch):
    """The launches of whatever the test runs: (kernel, arguments by name, compiler options)."""
    recorded = []

    def record(kernel, *args, grid, warmup, **options):
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        arguments |= {name: options.pop(name) for name in list(options) if name in kernel.arg_names}
        assert arguments.keys() == set(kernel.arg_names)
        recorded.append((kernel, arguments, options))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", record)
    return recorded


def compiled(kernel, arguments, options, arch):
    """The kernel's PTX, and the bytes of shared memory that it takes."""
    names = kernel.arg_names
    constants = {name: value for name, value in arguments.items() if value is None or name in constexprs(kernel)}
    signature, attributes = {}, {}
    for name, value in arguments.items():
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(names.index(name),)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature={n: signature[n] for n in names}, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return binary.asm["ptx"], binary.metadata.shared


def constexprs(kernel):
    return {kernel.arg_names[i] for i in kernel.constexprs}


def assembled(ptx, arch, folder):
    """The report of ptxas: the number of registers, the spilled bytes, and its text, which holds warnings."""
    (folder / "kernel.ptx").write_text(ptx)
    target = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
    command = [get_ptxas(arch).path, "-v", f"--gpu-name={target}", "kernel.ptx", "-o", "kernel.cubin"]
    log = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Used (\d+) registers", log)[1]), sum(map(int, re.findall(r"(\d+) bytes spill", log))), log


def check(launches, dtype, arch, folder, label):
    assert launches
    for kernel, arguments, options in launches:
        name = kernel.fn.__name__
        ptx, shared = compiled(kernel, arguments, options, arch)
        registers, spilled, log = assembled(ptx, arch, folder)
        print(f"{name:42} {label:24} sm_{arch} {registers:4} registers {shared / 1024:6.1f} KB {spilled} B spilled")
        assert spilled == 0, f"{name} spills"
        assert "0 bytes stack frame" in log and not re.search(r"\b(ld|st)\.local", ptx), f"{name} uses local memory"
        assert shared <= SHARED_MEMORY[arch], f"{name} takes {shared} bytes of shared memory"
        assert "Performance Loss" not in log, f"{name}: {log}"  # one cause is wgmma that wait for one another
        if dtype in HALF:
            if "PRECISION" in arguments or "dx" in arguments:  # these kernels multiply matrices
                assert ("wgmma.mma_async" if arch == 90 else "mma.sync") in ptx, f"{name} leaves the tensor cores idle"
            assert not re.search(r"ld\.global(\.\w+)*\.[bu]16\b", ptx), f"{name} loads single elements"
            copies = set(re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx))
            assert copies <= ({"0x10", "0x8", "0x4"} if name in LOAD_LESS else {"0x10"}), f"{name} copies by {copies}"
            assert name not in LOAD_LESS or "0x10" in copies, f"{name} copies by {copies}"


def attention_launches(dtype, D, dropout_p, differentiable, T=T):
    q, k, v, dout = (torch.empty(B, T * P, H, D, dtype=dtype).transpose(1, 2) for _ in range(4))
    weight = torch.empty(B, T, P, O, P, dtype=storage_dtype(dtype, differentiable))
    live = torch.empty(B, T, P // 64, O, P // 64, dtype=torch.bool)
    seed = torch.empty(1, dtype=torch.int64) if dropout_p else None
    _, lse = attention.forward(q, k, v, weight, live, seed, 0.1, dropout_p)
    attention.backward_op(
        dout, q, k, v, weight, live, seed, q.clone(), lse, lse.clone(), 0.1, dropout_p, differentiable
    )


@pytest.mark.parametrize("differentiable", [False, True], ids=["constant", "differentiable"])
@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize(
    ("dtype", "D", "dropout_p"),
    [
        (torch.bfloat16, 88, 0.0),
        (torch.bfloat16, 88, 0.1),
        (torch.float16, 88, 0.0),
        (torch.bfloat16, 64, 0.0),
        (torch.bfloat16, 64, 0.1),
        (torch.bfloat16, 128, 0.0),
        (torch.float32, 88, 0.0),
        (torch.float32, 64, 0.0),
        (torch.float32, 128, 0.0),
    ],
)
def test_graph_attention(launches, dtype, D, dropout_p, arch, differentiable, monkeypatch, tmp_path):
    monkeypatch.setattr(attention, "capability", lambda x: (arch // 10, arch % 10))
    attention_launches(dtype, D, dropout_p, differentiable)
    names = {kernel.fn.__name__ for kernel, _, _ in launches}
    expected = {
        "live_tiles_kernel",
        "graph_attention_fwd_kernel",
        "graph_attention_bwd_delta_kernel",
        "graph_attention_bwd_dkdv_kernel",
        "graph_attention_bwd_dq_kernel",
    }
    if differentiable:
        expected.add("graph_attention_bwd_dweight_kernel")
    if differentiable and dtype == torch.float32:  # the other kernels are those of a constant graph
        launches = launches[-1:]
    assert names == expected
    check(launches, dtype, arch, tmp_path, f"{dtype_name(dtype)} D={D} dropout={dropout_p}")


def test_float32_scores_are_rounded_as_for_lse(launches, monkeypatch):
    """A multiply-add would leave out the rounding of a score, and large scores would no longer agree with lse."""
    monkeypatch.setattr(attention, "capability", lambda x: (9, 0))
    attention_launches(torch.float32, 64, 0.0, False)
    (dq,) = [launch for launch in launches if launch[0].fn.__name__ == "graph_attention_bwd_dq_kernel"]
    ptx, _ = compiled(*dq, 90)
    made = {out: (op, first) for op, out, first in re.findall(r"([\w.]+)\s+(%r\d+), (%?\w+)", ptx)}
    exponents = re.findall(r"min\.NaN\.f32\s+%r\d+, (%r\d+)", ptx)
    assert exponents
    for exponent in exponents:
        times_log2e, difference = made[exponent]
        minus_lse, score = made[difference]
        operations = times_log2e, minus_lse, made[score][0]
        assert [operation.partition(".")[0] for operation in operations] == ["mul", "sub", "selp"]


@pytest.mark.parametrize("frames", [1, T])
@pytest.mark.parametrize("D", [64, 88, 128])
def test_dk_and_dv_of_float32_weights_with_dropout_on_hopper(launches, D, frames, monkeypatch, tmp_path):
    """This kernel needs the most registers: Hopper's wide tiles, twice the bytes of weights, and a mask."""
    monkeypatch.setattr(attention, "capability", lambda x: (9, 0))
    attention_launches(torch.bfloat16, D, 0.1, True, frames)
    dkdv = [launch for launch in launches if launch[0].fn.__name__ == "graph_attention_bwd_dkdv_kernel"]
    check(dkdv, torch.bfloat16, 90, tmp_path, f"bfloat16 D={D} T={frames} dropout")


@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=dtype_name)
def test_spatio_temporal_graph(launches, dtype, arch, tmp_path):
    x = torch.empty(B, T, 1 + P, C, dtype=dtype)[:, :, 1:]  # the patches follow a class token
    graph.forward(x, 0.5, 1, False)
    weight, _, inv_norm = graph.forward(x, 0.5, 1, True)
    graph.backward(torch.empty_like(weight), x, weight, inv_norm)
    assert len(launches) == (5 if dtype == torch.float16 else 7)
    check(launches, dtype, arch, tmp_path, f"{dtype_name(dtype)} C={C}")


@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize(
    ("dtype", "D", "dropout_p"),
    [
        (torch.bfloat16, 32, 0.0),
        (torch.bfloat16, 128, 0.1),
        (torch.float16, 88, 0.0),
        (torch.float32, 32, 0.1),
        (torch.float32, 128, 0.0),
    ],
)
def test_edge_attention(launches, dtype, D, dropout_p, arch, tmp_path):
    nodes, count, types = 1000, 5000, 16
    q, k, v, dout = (torch.empty(nodes, 8, D, dtype=dtype) for _ in range(4))
    values = torch.empty(types, 8), torch.empty(count, 8)
    pointers = [torch.empty(size, dtype=torch.int32) for size in (nodes + 1, count, count)]
    kinds, seed = (torch.empty(count, dtype=torch.uint8), None), torch.empty(1, dtype=torch.int64)
    seed = seed if dropout_p else None
    _, scores, softmax = edges.forward(q, k, v, *values, *pointers, *kinds, seed, 5.0, 0.1, dropout_p)
    edges.backward_op(
        dout, scores.clone(), q, k, v, *values, *pointers, *pointers, *kinds, seed, scores, softmax,
        5.0, 0.1, dropout_p, True, True,
    )  # fmt: skip
    assert [kernel.fn.__name__.removeprefix("edge_attention_") for kernel, _, _ in launches] == [
        "fwd_kernel",
        "bwd_rows_kernel",
        "bwd_columns_kernel",
        "bwd_types_kernel",
    ]
    for kernel, arguments, options in launches:
        name = kernel.fn.__name__
        ptx, shared = compiled(kernel, arguments, options, arch)
        registers, spilled, log = assembled(ptx, arch, tmp_path)
        print(f"{name:42} {dtype_name(dtype)} D={D} sm_{arch} {registers:4} registers {shared / 1024:6.1f} KB")
        assert spilled == 0 and "0 bytes stack frame" in log, f"{name} spills"
        assert shared <= SHARED_MEMORY[arch], f"{name} takes {shared} bytes of shared memory"
        if dtype in HALF:
            assert not re.search(r"ld\.global(\.\w+)*\.[bu]16\b", ptx), f"{name} loads single elements"


def test_the_gradient_of_types_has_a_grid_for_any_number_of_edges(monkeypatch):
    """Only the first dimension of a grid may be larger than 65535."""
    grids = []
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda *_, grid, **options: grids.append(grid))
    count, types, heads = 300_000_000, 5, 40
    per_edge, kinds = torch.empty(1, 1).expand(count, heads), torch.empty(1, dtype=torch.uint8).expand(count)
    edges.sum_types(per_edge, torch.empty(types, heads), kinds)
    assert grids == [(-(-count // edges.LENGTH), types, 3)]


@pytest.mark.parametrize("dtype", HALF, ids=dtype_name)
def test_packed_projections_are_read_as_fast(launches, dtype, tmp_path):
    """The strides of a packed QKV are multiples of 8 elements but not of 16. Loads are as wide as otherwise."""
    packed = torch.empty(B, T * P, 3, H, 88, dtype=dtype).permute(2, 0, 3, 1, 4)
    weight = torch.empty(B, T, P, O, P, dtype=torch.float16)
    live = torch.empty(B, T, P // 64, O, P // 64, dtype=torch.bool)
    attention.forward(*packed.unbind(0), weight, live, None, 0.1, 0.0)
    assert launches[-1][1]["VEC"] == 8
    check(launches[-1:], dtype, 90, tmp_path, "packed")


def test_head_dims_are_cut_to_the_smallest_that_fits():
    pieces = [16, 32, 64, 128]
    for D in range(1, 129):
        first, second = split_head_dim(D)
        assert first in pieces and second in (0, *pieces)
        assert first + second == min(a + b for a in pieces for b in (0, *pieces) if a + b >= D)
    assert split_head_dim(88) == (64, 32)
