"""The choice of the backend, the errors when none can run, and the instruction sets of the CPU."""

import ctypes
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from helpers.cases import heads, same_bits, video_graph

import stgt_kernels
from stgt_kernels import _C, RaggedGraph, dispatch, edge_attention, graph_attention, spatio_temporal_graph
from stgt_kernels.measured import FASTER_IN_TRITON, size_class
from stgt_kernels.ops.graph_attention import function as attention_function
from stgt_kernels.ops.graph_attention import reference as attention_reference
from stgt_kernels.testing import video_like_tokens

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def not_interpreted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def attend():
    """Calls graph_attention on the CPU with these options."""
    q, k, v = (heads(1, 2, 40, 8, seed=seed) for seed in range(3))
    graph = video_graph(1, 2, 20)
    return lambda **options: graph_attention(q, k, v, graph, **options)


@pytest.fixture
def ran(monkeypatch):
    """The backends that graph_attention ran on, in order."""
    calls = []
    reference, implementation = attention_reference.graph_attention, attention_function.implementation
    monkeypatch.setattr(
        attention_reference, "graph_attention", lambda *a: (calls.append("reference"), reference(*a))[1]
    )
    monkeypatch.setattr(
        attention_function, "implementation", lambda backend: (calls.append(backend), implementation(backend))[1]
    )
    return calls


def test_a_named_backend_runs(attend, ran):
    attend(backend="reference")
    attend(backend="cpu")
    assert ran == ["reference", "cpu"]


@pytest.mark.filterwarnings("ignore::stgt_kernels.ReferenceWarning")
def test_auto_takes_the_fastest_that_can(attend, ran, monkeypatch):
    attend()
    dispatch._fastest.clear()
    dispatch.extension_error.cache_clear()
    monkeypatch.setitem(sys.modules, "stgt_kernels._C", None)  # Python cannot import it then
    try:
        attend()
    finally:
        dispatch.extension_error.cache_clear()
    assert ran == ["cpu", "reference"]


def test_use_backend_turns_auto_and_only_auto(attend, ran):
    with dispatch.use_backend("reference"):
        attend()
        attend(backend="cpu")
        with dispatch.use_backend("cpu"):
            attend()
        attend()
        with dispatch.use_backend("auto"):
            attend()
    attend()
    assert ran == ["reference", "cpu", "cpu", "reference", "cpu", "cpu"]


def test_use_backend_ends_with_an_error(attend, ran):
    with pytest.raises(KeyError), dispatch.use_backend("reference"):
        raise KeyError
    attend()
    assert ran == ["cpu"]


def test_use_backend_never_falls_back(attend, ran):
    with (
        dispatch.use_backend("triton"),
        pytest.raises(ValueError, match="graph_attention: backend='triton' cannot run"),
    ):
        attend()
    assert ran == []


def test_a_backend_that_is_not_built_is_refused_with_what_to_install(attend, ran, monkeypatch):
    monkeypatch.setitem(sys.modules, "stgt_kernels._C", None)
    dispatch.extension_error.cache_clear()
    try:
        message = "backend='cpu' cannot run: stgt_kernels._C is not built.*pip install --no-build-isolation"
        with pytest.raises(ValueError, match=message):
            attend(backend="cpu")
        with pytest.raises(ValueError, match="spatio_temporal_graph: " + message):
            spatio_temporal_graph(video_like_tokens(1, 2, 4, 8), threshold=0.5, backend="cpu")
    finally:
        dispatch.extension_error.cache_clear()
    assert ran == []


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_why_not_of_what_always_runs(backend, device):
    assert dispatch.why_not(backend, device, torch.float64) is None


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "reason"),
    [
        ("cpu", "cuda:1", torch.float32, "it runs on CPU tensors, these are on cuda:1"),
        ("cpu", "cpu", torch.int32, "float32, float64, bfloat16 and float16, not torch.int32"),
        ("cuda", "cpu", torch.float32, "it runs on CUDA tensors, these are on cpu"),
        ("cuda", "cuda", torch.float64, "float32, bfloat16 and float16, not torch.float64"),
        ("triton", "cuda", torch.float64, "float32, bfloat16 and float16, not torch.float64"),
        (
            "triton",
            "meta",
            torch.float32,
            "CUDA tensors (or on CPU tensors with TRITON_INTERPRET=1), these are on meta",
        ),
    ],
)
def test_why_not(backend, device, dtype, reason, monkeypatch):
    monkeypatch.setattr(dispatch, "triton_error", lambda: None)
    assert reason in dispatch.why_not(backend, torch.device(device), dtype)


def test_why_not_of_the_cpu_s_own_dtypes():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert dispatch.why_not("cpu", "cpu", dtype) is None


@pytest.mark.skipif(torch.version.cuda is not None, reason="tells how a torch without CUDA is answered")
def test_why_not_of_cuda_on_a_torch_without_it():
    assert dispatch.why_not("cuda", "cuda") == "this PyTorch was built without CUDA"


def test_why_not_of_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "triton_error", lambda: None)
    assert dispatch.why_not("triton", "cuda") is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.why_not("triton", "cpu") is None
    assert dispatch.why_not("triton", "cpu", torch.bfloat16) == "Triton's interpreter computes bfloat16 wrongly"
    monkeypatch.setattr(dispatch, "triton_error", lambda: "triton is not installed")
    assert dispatch.why_not("triton", "cpu") == "triton is not installed"


@pytest.mark.parametrize(
    ("built", "runs", "does_not"),
    [
        ("8.0", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (10, 0)]),
        ("8.6", [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        ("9.0a", [(9, 0)], [(8, 9), (10, 0), (12, 0)]),
        ("8.0+PTX", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)], [(7, 5)]),
        ("9.0a+PTX", [(9, 0), (10, 0), (12, 0)], [(8, 0), (8, 9)]),
        ("12.0", [(12, 0), (12, 1)], [(10, 0), (9, 0), (8, 0)]),
    ],
)
def test_which_gpus_code_runs_on(built, runs, does_not):
    for capability in runs:
        assert dispatch.runs_on(built, capability), capability
    for capability in does_not:
        assert not dispatch.runs_on(built, capability), capability


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU of this compute capability, and kernels that were built for these architectures."""

    def make(capability, built):
        extension = types.ModuleType("stgt_kernels._cuda")
        extension.build_info = lambda: {"architectures": built}
        monkeypatch.setitem(sys.modules, "stgt_kernels._cuda", extension)
        monkeypatch.setattr(stgt_kernels, "_cuda", extension, raising=False)
        monkeypatch.setattr(dispatch, "extension_error", lambda module: None)
        monkeypatch.setattr(dispatch, "triton_error", lambda: None)
        monkeypatch.setattr(dispatch, "compute_capability", lambda device: capability)
        dispatch.architecture_error.cache_clear()

    yield make
    dispatch.architecture_error.cache_clear()


def test_why_not_of_cuda_without_a_gpu(gpu):
    gpu(None, "8.0+PTX 9.0a")
    assert dispatch.why_not("cuda", "cuda") == "no CUDA device is available"


def choice(dtype=torch.bfloat16, size="D>64"):
    """Returns the backend that auto chooses when it has not chosen before."""
    dispatch._fastest.clear()
    return dispatch.choose("auto", torch.device("cuda", 0), dtype, "graph_attention", size)


def test_kernels_built_for_other_gpus_are_refused_and_auto_takes_triton(gpu):
    gpu((9, 0), "8.0 10.0a")
    reason = dispatch.why_not("cuda", "cuda:0")
    assert "built for 8.0 10.0a, this GPU is 9.0; rebuild with TORCH_CUDA_ARCH_LIST=9.0" in reason
    with pytest.raises(ValueError, match="graph_attention: backend='cuda' cannot run: .*this GPU is 9.0"):
        dispatch.choose("cuda", torch.device("cuda", 0), torch.bfloat16, "graph_attention", "D>64")
    assert choice() == "triton"


def test_auto_takes_cuda_unless_triton_was_measured_to_be_faster(gpu, monkeypatch):
    gpu((9, 0), "8.0+PTX 9.0a")
    assert choice() == "cuda"
    monkeypatch.setattr(dispatch, "FASTER_IN_TRITON", frozenset({("9.0", torch.bfloat16, "D>64")}))
    assert choice() == "triton"
    assert choice(torch.float16) == choice(size="D<=64") == choice(size="P>64") == "cuda"
    monkeypatch.setattr(dispatch, "triton_error", lambda: "triton is not installed")
    assert choice() == "cuda"
    monkeypatch.setattr(dispatch, "triton_error", lambda: None)
    gpu((8, 0), "8.0+PTX 9.0a")
    assert choice() == "cuda"


def test_torch_compile_asks_for_the_choice_once(gpu, monkeypatch):
    gpu((9, 0), "9.0a")
    monkeypatch.setattr(dispatch, "FASTER_IN_TRITON", frozenset({("9.0", torch.bfloat16, "D>64")}))

    @torch.compile(fullgraph=True, backend="eager")
    def widened(x):
        size = size_class("D", x.shape[-1])
        chosen = dispatch.choose("auto", torch.device("cuda", 0), torch.bfloat16, "graph_attention", size)
        return x + 1 if chosen == "triton" else x

    torch._dynamo.reset()
    x = torch.zeros(2, 88)
    assert torch.equal(widened(x), x + 1)
    assert torch.equal(widened(x[:, :64]), x[:, :64])


def test_the_measured_table_holds_keys_that_are_asked_for():
    classes = {size_class(letter, size) for letter in ("D", "P", "edge D") for size in (1, 64, 65, 256)}
    assert classes == {"D<=64", "D>64", "P<=64", "P>64", "edge D<=64", "edge D>64"}
    for capability, dtype, size in FASTER_IN_TRITON:
        assert len(capability.split(".")) == 2 and dtype in dispatch.FLOAT_DTYPES and size in classes


def test_the_ops_ask_for_different_classes_of_sizes(monkeypatch):
    """A measurement of one op says nothing about another."""
    asked = []
    graph, dense = RaggedGraph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64), 1), video_graph(1, 1, 1)
    monkeypatch.setattr(dispatch, "choose", lambda *arguments: asked.append(arguments[3:]) or "reference")
    for D in (64, 65):
        q = torch.randn(1, 1, 1, D)
        edge_attention(q[0], q[0], q[0], graph)
        graph_attention(q, q, q, dense)
    edges, attention = asked[::2], asked[1::2]
    assert edges == [("edge_attention", "edge D<=64"), ("edge_attention", "edge D>64")]
    assert attention == [("graph_attention", "D<=64"), ("graph_attention", "D>64")]


def test_auto_never_takes_the_interpreter(attend, ran, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    attend()
    assert ran == ["cpu"]


def test_auto_says_its_choice_once(attend, caplog, monkeypatch):
    monkeypatch.setattr(dispatch, "_announced", set())
    with caplog.at_level(logging.INFO, "stgt_kernels"):
        attend(backend="cpu")
        assert not caplog.messages
        attend()
        attend()
        spatio_temporal_graph(video_like_tokens(1, 2, 4, 8), threshold=0.5)
    assert caplog.messages == ["graph_attention runs on backend cpu", "spatio_temporal_graph runs on backend cpu"]


def test_backends_agree(attend):
    torch.testing.assert_close(attend(backend="cpu"), attend(backend="reference"))
    assert same_bits(attend(), attend(backend="cpu"))


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=500)


TORCH_ALONE = """
import importlib.machinery, sys

class TorchAlone(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {"triton", "transformers", "numpy", "einops", "open_clip", "stgt"}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [TorchAlone if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
import torch
from stgt_kernels import dispatch, graph_attention, spatio_temporal_graph

x = torch.randn(1, 2, 20, 16, requires_grad=True)
graph = spatio_temporal_graph(x, threshold=-0.5, differentiable=True)
q = x.view(1, 40, 2, 8).transpose(1, 2)
for backend in ("auto", "cpu", "reference"):
    graph_attention(q, q, q, graph, dropout_p=0.1, backend=backend).sum().backward(retain_graph=True)
assert x.grad.isfinite().all()
assert dispatch.why_not("triton", "cuda") == "triton is not installed; install it with: pip install triton"
assert not {"triton", "transformers", "numpy"} & set(sys.modules)
"""


def test_torch_alone_is_enough():
    result = python(TORCH_ALONE)
    assert result.returncode == 0, result.stderr


def test_importing_loads_neither_kernels_nor_other_packages():
    code = "import torch, sys; before = set(sys.modules); import stgt_kernels; print(*set(sys.modules) - before)"
    result = python(code)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "stgt_kernels.functional" in loaded and "stgt_kernels._C" not in loaded
    packages = {name.partition(".")[0] for name in loaded} - {"stgt_kernels"}
    assert packages <= {*sys.stdlib_module_names, "torch"}


NEEDS = {"portable": (), "avx2": ("avx2", "fma", "f16c"), "avx512": ("avx512bw", "avx512dq", "avx512vl")}
NEEDS["avx512_bf16"] = (*NEEDS["avx512"], "avx512_bf16")
NEEDS["amx"] = (*NEEDS["avx512_bf16"], "amx_tile", "amx_bf16")


COMPILED = os.uname().machine == "x86_64" and "clang" not in _C.build_info()["compiler"]
# These are the answers of CPUID on Sapphire Rapids, where the matrix unit may and may not be used, on Ice Lake and
# Haswell, on Zen 4 and Zen 3, and of an unknown maker.
PROCESSORS = [
    ("GenuineIntel", "avx2 avx512 avx512_bf16 amx", "amx"),
    ("GenuineIntel", "avx2 avx512 avx512_bf16", "avx512"),
    ("GenuineIntel", "avx2 avx512", "avx512"),
    ("GenuineIntel", "avx2", "avx2"),
    ("AuthenticAMD", "avx2 avx512 avx512_bf16", "avx512_bf16"),
    ("AuthenticAMD", "avx2", "avx2"),
    ("CentaurHauls", "avx2 avx512 avx512_bf16", "avx512"),
    ("", "", "portable"),
]


def isa_of(vendor, features, asked=""):
    has = {name: name in features.split() for name in ("avx2", "avx512", "avx512_bf16", "amx")}
    return _C.cpu_isa(vendor, **has, asked=asked)


@pytest.mark.parametrize(("vendor", "features", "expected"), PROCESSORS)
def test_the_instruction_set_follows_from_the_processor(vendor, features, expected):
    assert isa_of(vendor, features) == (expected if COMPILED else "portable")


@pytest.mark.parametrize(("vendor", "features", "_"), PROCESSORS)
def test_any_instruction_set_that_runs_can_be_asked_for(vendor, features, _):
    runs = ["portable", *(features.split() if COMPILED else [])]
    assert [isa_of(vendor, features, asked=name) for name in runs] == runs
    for name in {"avx2", "avx512", "avx512_bf16", "amx", "avx1024"}.difference(runs):
        with pytest.raises(RuntimeError, match=f"this machine runs .*portable, got {name}"):
            isa_of(vendor, features, asked=name)


def may_run(isa, flags):
    """Whether a processor with these flags has an instruction set, and Linux grants the matrix unit to "amx"."""
    ask_for_tiles = (158, 0x1023, 18)  # the number of arch_prctl, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA
    return flags.issuperset(NEEDS[isa]) and (isa != "amx" or ctypes.CDLL(None).syscall(*ask_for_tiles) == 0)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the CPU's instruction sets")
def test_this_processor_is_recognised():
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    features = " ".join(isa for isa in NEEDS if isa != "portable" and may_run(isa, flags))
    found = python("import stgt_kernels._C as native; print(native.build_info()['cpu_isa'])", STGT_CPU_ISA="")
    assert found.stdout.strip() == isa_of(fields.get("vendor_id", ""), features), found.stderr


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the CPU's instruction sets")
@pytest.mark.parametrize("isa", NEEDS)
def test_instruction_sets(isa):
    """Each compiled variant of the kernels passes the fuzz tests, or is refused where the CPU or the build lacks it."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if isa != "portable" and not (COMPILED and may_run(isa, flags)):
        refused = python("import stgt_kernels._C as native; native.build_info()", STGT_CPU_ISA=isa)
        assert refused.returncode != 0 and "STGT_CPU_ISA must be one of" in refused.stderr
        return
    code = f"""
import pytest, stgt_kernels._C as native
assert native.build_info()["cpu_isa"] == {isa!r}, native.build_info()
raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", {str(TESTS / "kernels" / "test_fuzz.py")!r}]))
"""
    result = python(code, STGT_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
