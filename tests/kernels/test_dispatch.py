"""The choice of the backend, and the errors when none can run."""

import logging
import sys
import types

import pytest
import torch
from helpers.cases import heads, same_bits, video_graph

import stgt_kernels
from stgt_kernels import RaggedGraph, dispatch, edge_attention, graph_attention, spatio_temporal_graph
from stgt_kernels.measured import FASTER_IN_TRITON, size_class
from stgt_kernels.ops.graph_attention import function as attention_function
from stgt_kernels.ops.graph_attention import reference as attention_reference
from stgt_kernels.testing import video_like_tokens


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


def test_a_build_without_cuda_says_what_it_lacked(monkeypatch):
    monkeypatch.setitem(sys.modules, "stgt_kernels._cuda", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    dispatch.extension_error.cache_clear()
    try:
        reason = dispatch.extension_error("_cuda")
    finally:
        dispatch.extension_error.cache_clear()
    assert "it needs nvcc and a CUDA build of PyTorch" in reason and "STGT_BUILD_CUDA=1 pip install" in reason


def test_in_a_clone_the_advice_names_the_clone_that_hides_an_installed_copy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "stgt_kernels._C", None)
    dispatch.extension_error.cache_clear()
    try:
        monkeypatch.setattr(dispatch, "__file__", str(tmp_path / "stgt_kernels" / "dispatch.py"))
        assert dispatch.why_not("cpu", "cpu").endswith("; install with: pip install --no-build-isolation .")
        (tmp_path / "setup.py").touch()
        dispatch.extension_error.cache_clear()
        reason = dispatch.why_not("cpu", "cpu")
        assert (
            f"start Python in another folder, or install with: pip install --no-build-isolation --editable {tmp_path}"
            in reason
        )
    finally:
        dispatch.extension_error.cache_clear()


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


def choice(dtype=torch.bfloat16, letter="D", size=88):
    """Returns the backend that auto chooses when it has not chosen before."""
    dispatch._fastest.clear()
    return dispatch.choose("auto", torch.device("cuda", 0), dtype, "graph_attention", letter, size)


def test_kernels_built_for_other_gpus_are_refused_and_auto_takes_triton(gpu):
    gpu((9, 0), "8.0 10.0a")
    reason = dispatch.why_not("cuda", "cuda:0")
    assert "built for 8.0 10.0a, this GPU is 9.0; rebuild with TORCH_CUDA_ARCH_LIST=9.0" in reason
    with pytest.raises(ValueError, match="graph_attention: backend='cuda' cannot run: .*this GPU is 9.0"):
        dispatch.choose("cuda", torch.device("cuda", 0), torch.bfloat16, "graph_attention", "D", 88)
    assert choice() == "triton"


def test_auto_takes_cuda_unless_triton_was_measured_to_be_faster(gpu, monkeypatch):
    gpu((9, 0), "8.0+PTX 9.0a")
    assert choice() == "cuda"
    monkeypatch.setattr(dispatch, "FASTER_IN_TRITON", frozenset({("9.0", torch.bfloat16, "D>64")}))
    assert choice() == "triton"
    assert choice(torch.float16) == choice(size=64) == choice(letter="P") == "cuda"
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
        chosen = dispatch.choose("auto", torch.device("cuda", 0), torch.bfloat16, "graph_attention", "D", x.shape[-1])
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
    assert edges == [("edge_attention", "edge D", 64), ("edge_attention", "edge D", 65)]
    assert attention == [("graph_attention", "D", 64), ("graph_attention", "D", 65)]


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
