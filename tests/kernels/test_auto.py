"""Backend "auto" tells why it finds no kernel, and the environment variable STGT_BACKEND takes its place."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
from helpers.cases import heads, video_graph

from stgt_kernels import GraphAttention, ReferenceWarning, dispatch, graph_attention, spatio_temporal_graph
from stgt_kernels.testing import video_like_tokens


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing has been said yet, and the environment has not been read."""
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("STGT_BACKEND", raising=False)
    dispatch._read_environment.cache_clear()
    yield
    dispatch._read_environment.cache_clear()


@pytest.fixture
def no_kernels(monkeypatch):
    """Makes the C++ extension look as if it had not been built."""
    monkeypatch.setitem(sys.modules, "stgt_kernels._C", None)
    dispatch.extension_error.cache_clear()
    yield
    dispatch.extension_error.cache_clear()


@pytest.fixture
def set_backend(monkeypatch):
    def set_to(name):
        monkeypatch.setenv("STGT_BACKEND", name)
        dispatch._read_environment.cache_clear()

    return set_to


def attend(backend="auto"):
    return graph_attention(
        *(heads(1, 2, 40, 8, seed=seed) for seed in range(3)), video_graph(1, 2, 20), backend=backend
    )


def chosen():
    return dispatch.choose("auto", torch.device("cpu"), torch.float32, "graph_attention", "D", 64)


def warned(call) -> list[str]:
    """The messages of the reference warnings that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if w.category is ReferenceWarning]


def test_auto_warns_once_of_the_reference_with_reason_and_cure(no_kernels):
    (message,) = warned(attend)
    assert "torch.float32 tensors on cpu" in message and "square of the number of tokens" in message
    assert "cpu: stgt_kernels._C is not built" in message and "pip install --no-build-isolation" in message
    assert "backend='reference'" in message
    assert warned(attend) == []
    assert warned(lambda: spatio_temporal_graph(video_like_tokens(1, 2, 4, 8), threshold=0.5)) == []
    double = video_like_tokens(1, 2, 4, 8, dtype=torch.float64)
    assert len(warned(lambda: spatio_temporal_graph(double, threshold=0.5))) == 1


@pytest.mark.parametrize("through_module", [False, True])
def test_the_warning_points_at_the_line_that_called_the_package(no_kernels, through_module):
    module, x, graph = GraphAttention(16, 2), torch.randn(1, 40, 16), video_graph(1, 2, 20)
    with pytest.warns(ReferenceWarning) as caught:
        module(x, graph) if through_module else attend()
    assert caught[0].filename == __file__


def test_a_reference_that_was_asked_for_is_no_cause_for_a_warning(no_kernels, set_backend):
    assert warned(lambda: attend("reference")) == []
    with dispatch.use_backend("reference"):
        assert warned(attend) == []
    set_backend("reference")
    assert warned(attend) == []


def test_kernels_are_no_cause_for_a_warning():
    assert warned(attend) == []


def test_meta_tensors_are_no_cause_for_a_warning():
    q, graph = heads(1, 2, 40, 8).to("meta"), video_graph(1, 2, 20).to("meta")
    assert warned(lambda: graph_attention(q, q, q, graph)) == []


def test_auto_warns_under_torch_compile(no_kernels):
    torch._dynamo.reset()
    compiled = torch.compile(GraphAttention(16, 2), fullgraph=True, backend="aot_eager")
    x, graph = torch.randn(1, 40, 16), video_graph(1, 2, 20)
    assert len(warned(lambda: compiled(x, graph))) == 1
    assert warned(lambda: compiled(x, graph)) == []


def test_a_filter_can_make_an_error_of_every_fall_to_the_reference(no_kernels):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReferenceWarning)
        for _ in range(2):
            with pytest.raises(ReferenceWarning, match="_C is not built"):
                attend()


def test_float64_on_a_gpu_is_warned_of(monkeypatch):
    monkeypatch.setattr(dispatch, "triton_error", lambda: None)
    (message,) = warned(
        lambda: dispatch.choose("auto", torch.device("cuda"), torch.float64, "graph_attention", "D", 64)
    )
    for name in ("cuda", "triton"):
        assert f"{name}: it computes in float32, bfloat16 and float16, not torch.float64" in message
    assert "cpu:" not in message


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_stgt_backend_takes_the_place_of_auto(name, set_backend, caplog):
    set_backend(name)
    with caplog.at_level(logging.WARNING, "stgt_kernels"):
        assert chosen() == chosen() == name
    assert len(caplog.messages) == 1 and f"STGT_BACKEND={name}" in caplog.messages[0]


def test_stgt_backend_gives_way_to_a_backend_named_in_code(set_backend):
    set_backend("reference")
    assert dispatch.choose("cpu", torch.device("cpu"), torch.float32, "graph_attention", "D", 64) == "cpu"
    with dispatch.use_backend("cpu"):
        assert chosen() == "cpu"
    assert chosen() == "reference"


@pytest.mark.parametrize("value", ["", "auto"])
def test_stgt_backend_without_a_name_changes_nothing(value, set_backend, caplog):
    set_backend(value)
    assert chosen() == "cpu" and not caplog.messages


def test_stgt_backend_never_falls_back(set_backend):
    set_backend("cuda")
    with pytest.raises(ValueError, match="graph_attention: STGT_BACKEND='cuda' cannot run: it runs on CUDA tensors"):
        attend()


def test_an_unknown_stgt_backend_is_refused_with_the_names(set_backend):
    set_backend("gpu")
    with pytest.raises(ValueError, match="STGT_BACKEND must be one of cuda, triton, cpu, reference or auto, got 'gpu'"):
        attend()


def test_stgt_backend_under_torch_compile(set_backend):
    set_backend("reference")
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def moved(x):
        return x + 1 if chosen() == "reference" else x

    assert torch.equal(moved(torch.zeros(2)), torch.ones(2))


def test_the_report_shows_stgt_backend():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "STGT_BACKEND": "reference"}
    command = [sys.executable, "-m", "stgt_kernels"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=True)
    assert "STGT_BACKEND=reference" in result.stdout.splitlines()[-1]
