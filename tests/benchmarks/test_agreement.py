"""Providers that disagree get no times; the existing providers agree with each other and with the definition."""

from dataclasses import replace

import pytest
import torch
from helpers.benchmark_rows import bench

from benchmarks import flex, providers
from benchmarks.agreement import AttentionOracle, DisagreementError, check_graph, check_model, forward_backward
from benchmarks.comparison import compare_attention
from benchmarks.inputs import AttentionInputs, Problem, tokens_of
from benchmarks.providers import BAND, COMPILED_DENSE, DENSE, KERNELS, SDPA, Provider, as_banded
from stgt_kernels.testing import exact_attention

TINY = Problem(B=2, T=3, P=16, C=64, H=3, D=8)
CPU = torch.device("cpu")
OFF = Provider("slightly off", lambda inputs: lambda q, k, v: 1.001 * BAND.prepare(inputs)(q, k, v))


@pytest.mark.parametrize("backward", [False, True])
def test_a_provider_with_a_wrong_result_stops_the_report(backward):
    with pytest.raises(DisagreementError, match="slightly off: out: off by"):
        compare_attention(bench(), problem=TINY, providers=(DENSE, OFF, *KERNELS), backward=backward)


def test_gradients_are_compared_too():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k):
            return q @ k.transpose(-1, -2)

        @staticmethod
        def backward(ctx, dscore):
            return torch.zeros(dscore.shape[0], TINY.H, TINY.N, TINY.D), None

    def prepare(inputs):
        weight = inputs.graph.to_dense()[:, None]

        def attention(q, k, v):
            score = Wrong.apply(q, k) * TINY.D**-0.5 * weight + 0 * (q @ k.transpose(-1, -2))
            return torch.softmax(score.masked_fill(weight == 0, float("-inf")), -1) @ v + 0 * k

        return attention

    with pytest.raises(DisagreementError, match="dq: off by"):
        compare_attention(bench(), problem=TINY, providers=(Provider("no dq", prepare),), backward=True)


def test_a_bound_is_timed_without_being_compared():
    rows = compare_attention(bench(), problem=TINY, providers=(SDPA, BAND), backward=True)
    assert [(row.provider, row.bound, row.median is not None) for row in rows] == [
        (SDPA.name, True, True),
        (BAND.name, False, True),
    ]


def test_a_provider_that_cannot_run_is_listed_with_the_reason():
    rows = compare_attention(bench(quick=True), problem=TINY, providers=(COMPILED_DENSE, *KERNELS), backward=False)
    missing = {row.provider: row.missing for row in rows}
    assert missing["stgt_kernels cpu"] is None
    assert "--quick" in missing["compiled dense"] and "CUDA tensors" in missing["stgt_kernels triton"]


def test_an_alternative_that_does_not_compile_is_listed_as_missing_and_an_error_of_ours_is_raised():
    def prepare(inputs):
        raise RuntimeError("no such\nkernel")

    peer = Provider("peer", prepare, compiled=True)
    row, _ = compare_attention(bench(), problem=TINY, providers=(peer, BAND), backward=False)
    assert row.missing == "does not compile: RuntimeError: no such"
    with pytest.raises(RuntimeError, match="no such"):
        compare_attention(bench(), problem=TINY, providers=(replace(peer, compiled=False),), backward=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("T, P, window", [(1, 16, 1), (4, 49, 1), (5, 16, 2)])
def test_eager_providers_agree_with_the_definition(dtype, T, P, window):
    inputs = AttentionInputs.make(replace(TINY, T=T, P=P, window=window, dtype=dtype))
    oracle = AttentionOracle(inputs, backward=True)
    exact, _ = exact_attention(inputs.q, inputs.k, inputs.v, inputs.graph)
    assert torch.allclose(oracle.exact[0], exact[:, [0, 2]], rtol=0, atol=1e-12)
    for provider in (DENSE, BAND, KERNELS[0]):
        oracle.check(provider.name, forward_backward(provider.prepare(inputs), *inputs.tensors))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("T, P, window", [(1, 16, 1), (3, 256, 1), (5, 49, 1), (9, 49, 2)])
def test_flex_attention_gets_the_same_graph(monkeypatch, banded, T, P, window):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    inputs = AttentionInputs.make(replace(TINY, T=T, P=P, window=window))
    out = flex.prepare(inputs, banded=banded)(inputs.q, inputs.k, inputs.v)
    AttentionOracle(inputs, backward=False).check("FlexAttention", (out,))


@pytest.mark.parametrize("T, P, window", [(8, 256, 1), (9, 49, 2), (4, 576, 1)])
def test_the_block_mask_holds_the_blocks_of_the_band_and_no_others(T, P, window):
    dense = providers.frame_mask(T, P, window)
    blocks = -(-T * P // flex.BLOCK)
    padded = torch.nn.functional.pad(dense, (0, blocks * flex.BLOCK - T * P) * 2)
    live = padded.view(blocks, flex.BLOCK, blocks, flex.BLOCK).any(3).any(1)
    assert torch.equal(flex.band_mask(T, P, window).to_dense()[0, 0].bool(), live)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("provider", [p for p in providers.GRAPH if not p.compiled and p.backend in (None, "cpu")])
def test_graphs_of_all_providers_agree(provider, dtype):
    problem = replace(TINY, T=4, P=49, C=384, dtype=dtype)
    x = tokens_of(problem)
    graph = as_banded(provider.prepare(problem, CPU)(x), problem)
    check_graph(provider.name, graph, x, problem.threshold, ours=provider.backend is not None)
    graph.weight[0, 1, 0, 1, 0] = 0
    with pytest.raises(DisagreementError, match="edges differ"):
        check_graph(provider.name, graph, x, problem.threshold, ours=provider.backend is not None)


def test_outputs_of_models_may_differ_by_a_share_of_their_norm():
    x = torch.randn(4, 8)
    check_model("model", x * (1 + 5e-4), x, "fp32")
    for wrong in (x * 1.002, x * float("nan")):
        with pytest.raises(DisagreementError, match="model: off by"):
            check_model("model", wrong, x, "fp32")
