"""The CUDA kernels compiled for GPUs that are not there: registers, local memory, tensor cores, copies."""

import re
import shutil
import subprocess

import pytest

from tools.compiled import machine_code

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
    pytest.mark.timeout(1800),  # the first test waits until all kernels are compiled, beside other tests
]


@pytest.fixture(scope="module")
def objects():
    """The object files, and the compiler's output."""
    return machine_code.compile_all()


@pytest.fixture(scope="module")
def kernels(objects):
    """All kernels, without those of Hopper in the code for other GPUs, where they are empty."""
    found = machine_code.kernels(*objects)
    return [k for k in found if k.architecture == "sm_90a" or not k.function.endswith("_sm90")]


def failures(kernels, wrong):
    return [f"{k.name} {k.architecture}: {reason}" for k in kernels if (reason := wrong(k))]


def test_every_path_is_there(kernels):
    found = {(k.function, k.architecture) for k in kernels}
    for path, architectures in (("sm90", ["sm_90a"]), ("sm80", ["sm_80", "sm_90a"]), ("fp32", ["sm_80", "sm_90a"])):
        for name in ("graph_attention_fwd", "graph_attention_bwd_dq", "graph_attention_bwd_dkdv"):
            assert {(f"{name}_{path}", architecture) for architecture in architectures} <= found
        assert {(f"spatio_temporal_graph_fwd_{path}", architecture) for architecture in architectures} <= found
    passes = ("fwd", "bwd_delta", "bwd_rows", "bwd_columns", "bwd_types")
    for name in (*passes, "fwd_long", "bwd_delta_long", "bwd_long", "bwd_types_sum"):
        assert {(f"edge_attention_{name}_sm80", architecture) for architecture in ("sm_80", "sm_90a")} <= found


def test_nothing_spills(kernels):
    def wrong(k):
        local = k.instructions["LDL"] + k.instructions["STL"]
        return (k.stack or k.spilled or local) and f"{k.stack} B stack, {k.spilled} B spilled, {local} local accesses"

    assert not failures(kernels, wrong)


def test_the_compiler_warns_of_nothing(objects):
    """It would warn of products that have to wait for each other, and of register limits that it ignores."""
    said = [
        line for line in objects[1].splitlines() if re.search("warning|performance|ignored|C75", line, re.IGNORECASE)
    ]
    assert said == []


def expected_instructions(kernel):
    if kernel.function.endswith("_sm90"):
        return {"HGMMA", "UTMALDG"}  # matrix products of warpgroups, bulk copies of tensors
    if kernel.function.endswith("_fp32"):
        return {"FFMA"}
    if kernel.function.startswith("edge_attention"):
        return {"LDG"}  # neighbours are gathered from everywhere, and used once
    if kernel.function in (
        "graph_attention_align_weights",
        "graph_attention_bwd_delta",
        "spatio_temporal_graph_bwd_largest",
        "spatio_temporal_graph_fwd_rescue",
    ):
        return set()
    return {"HMMA", "LDGSTS"}  # matrix products of warps, asynchronous copies


def test_tensor_cores_and_copies(kernels):
    def wrong(k):
        missing = expected_instructions(k) - k.instructions.keys()
        return missing and f"no {', '.join(missing)}"

    assert not failures(kernels, wrong)


def test_float32_is_exact(kernels):
    """It does not use tensor cores, which would round to tf32."""
    fp32 = [k for k in kernels if k.function.endswith("_fp32") or "float" in k.arguments]
    assert not failures(fp32, lambda k: (k.instructions["HMMA"] or k.instructions["HGMMA"]) and "uses tensor cores")


def test_teams_gather_in_whole_chunks(kernels):
    """A thread has a load of 16 bytes for each node at the other end of a step's four edges, and for its own node."""
    loads = {"fwd": 9, "bwd_delta": 5, "bwd_rows": 4, "bwd_columns": 8}
    gathering = [k for k in kernels if k.function.removeprefix("edge_attention_").removesuffix("_sm80") in loads]
    assert len(gathering) == 2 * 3 * len(loads)  # architectures and dtypes

    def wrong(k):
        least = loads[k.function.removeprefix("edge_attention_").removesuffix("_sm80")]
        found = k.instructions["LDG.128"]
        return found < least and f"{found} loads of 16 bytes, expected {least}"

    assert not failures(gathering, wrong)


def test_the_objects_need_no_symbol_of_torch_s_unstable_c_plus_plus(objects):
    if shutil.which("nm") is None:
        pytest.skip("binutils' nm is not installed")
    for path in objects[0]:
        symbols = subprocess.run(["nm", "-uC", path], capture_output=True, text=True, check=True).stdout
        assert not re.search(r"\b(at|c10|torch)::", symbols), path.name


def test_no_loop_surrounds_the_copies_of_the_tensor_copy_engine(kernels):
    """The compiler puts a loop with an ELECT around each copy unless it knows that only one thread gets there.

    The kernels elect a thread at most three times: to load, and to store one or two results.
    """
    hopper = [k for k in kernels if k.function.endswith("_sm90")]
    assert hopper and not failures(hopper, lambda k: k.instructions["ELECT"] > 3 and f"{k.instructions['ELECT']} ELECT")


def test_names_are_short():
    name = "void stgt::sm90::fwd<stgt::ptx::bf16, 88, 4, (bool)0>(stgt::AttentionParams, stgt::sm90::AttentionMaps)"
    assert machine_code.short(name) == "fwd<bf16, 88, 4, 0>"
    assert machine_code.short("stgt::(anonymous namespace)::f<float>(float const*)") == "f<float>"


def test_the_compiler_s_report_is_read():
    log = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1fv' for 'sm_90a'
ptxas info    : Function properties for _Z1fv
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 1040 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1gv' for 'sm_80'
ptxas info    : Function properties for _Z1gv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""
    f, g = machine_code.reported(log)
    assert (f.mangled, f.architecture, f.registers, f.stack, f.spilled, f.shared) == (
        "_Z1fv",
        "sm_90a",
        255,
        16,
        12,
        1040,
    )
    assert (g.mangled, g.architecture, g.registers, g.stack, g.spilled, g.shared) == ("_Z1gv", "sm_80", 8, 0, 0, 0)
