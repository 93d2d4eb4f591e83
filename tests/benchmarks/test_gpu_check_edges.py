"""The part of the GPU check for edge_attention, on a CPU: rows, errors and targets."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from helpers.benchmark_rows import bench, row

from benchmarks import ragged
from benchmarks.gpu_check import edges, timed
from benchmarks.gpu_check.edges import CONV, HUB, LARGE, SDPA, Problem, ours
from benchmarks.ragged import Batch

TINY = Problem(Batch("3 graphs of 4 to 6 nodes", 3, 4, 6, 40), "fp32", D=8, H=2)


def measured(provider, problem=TINY):
    return edges.measured(bench(), edges.QUESTION, problem, provider)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_our_kernels_are_timed_and_compared(dtype):
    found = measured(ours("cpu"), replace(TINY, dtype=dtype))
    assert found.missing is None and found.median == 0.5 and found.limit_share > 0
    assert 0 < found.details["off by"] <= found.details["allowed"] < 0.05 and found.details["same bits"] == 1
    assert found.shape["edges"] == 40 and found.shape["D"] == 8


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("rival", [CONV, SDPA], ids=lambda provider: provider.name)
def test_rivals_are_timed(rival, dtype):
    found = measured(rival, replace(TINY, dtype=dtype))
    assert found.missing is None and found.median == 0.5 and not found.details


def test_a_wrong_result_keeps_its_time_and_its_error():
    def wrong(inputs):
        right = ragged.ours(inputs, "cpu")
        return lambda: tuple(2 * result for result in right())

    found = measured(edges.Provider("wrong", wrong, "cpu"))
    assert found.median == 0.5 and found.details["off by"] == pytest.approx(1, abs=1e-3)
    assert found.details["allowed"] < 1e-4


def test_results_that_change_are_seen():
    def changing(inputs):
        right, calls = ragged.ours(inputs, "cpu"), iter(range(100))
        return lambda: tuple(result * (1 + 1e-6 * next(calls)) for result in right())

    assert measured(edges.Provider("changing", changing, "cpu")).details["same bits"] == 0


def test_nan_is_an_infinite_error():
    def broken(inputs):
        return lambda: tuple(result * float("nan") for result in ragged.ours(inputs, "cpu")())

    assert measured(edges.Provider("broken", broken, "cpu")).details["off by"] == float("inf")


def test_a_backend_that_cannot_run_and_one_that_fails_say_why():
    assert "runs on CUDA tensors" in measured(ours("cuda")).missing
    failing = edges.Provider("failing", lambda inputs: 1 / 0)
    assert measured(failing).missing == "ZeroDivisionError: division by zero"


def test_the_hub_has_every_edge():
    inputs = ragged.make_hub(10, 100, 2, 8, torch.device("cpu"))
    source, target = inputs.graph.to_edge_index()
    assert ((source == 0) | (target == 0)).all() and (target == 0).sum() >= 50 <= (source == 0).sum()


def test_our_backends_are_measured_first_and_the_hub_is_never_padded():
    names = list(edges.pieces())
    backends = [name for name in names if "stgt_kernels" in name]
    assert names[: len(backends)] == backends and len(backends) == 2 * len(edges.problems())
    assert not [name for name in names if HUB.name in name and SDPA.name in name]


def test_pieces_without_results_are_rows_with_the_reason():
    pieces = edges.pieces()
    first, second, *_ = pieces
    result = json.loads(json.dumps(asdict(row("a", question=edges.QUESTION))))
    rows = timed.rows(pieces, {first: result, second: None})
    assert rows[first].provider == "a" and "its process died" in rows[second].missing
    assert edges.targets(rows)


def took(problem, provider, milliseconds, **details):
    fields = dict(question=edges.QUESTION, median=milliseconds / 1e3, details=details)
    return {f"{problem}: {provider.name}": replace(row(provider.name, **fields), dtype=problem.dtype)}


def test_targets_are_met_or_missed():
    large, hub = Problem(LARGE), Problem(HUB)
    cuda, triton = ours("cuda"), ours("triton")
    good = {"off by": 1e-3, "allowed": 1e-2, "same bits": 1.0}
    bad = {"off by": 1e-1, "allowed": 1e-2, "same bits": 0.0}
    rows = {
        **took(large, cuda, 3.0, **good),
        **took(large, triton, 4.0, **bad),
        **took(large, CONV, 30.0),
        **took(large, SDPA, 4.0),
        **took(hub, cuda, 2.0, **good),
    }
    met = {check.what: check.met for check in edges.targets(rows)}
    assert met[f"{large}: {cuda.name}: off by"] and met[f"{large}: {cuda.name}: same bits"]
    assert met[f"{large}: {triton.name}: off by"] is False and met[f"{large}: {triton.name}: same bits"] is False
    assert met[f"{large}: {CONV.name} over ours"] and not met[f"{large}: {SDPA.name} over ours"]
    assert met["hub, bf16: rate of edges over that without a hub"]  # half the rate
    assert met["hub, fp32: rate of edges over that without a hub"] is None
    slow = {**rows, **took(hub, cuda, 4.0, **good)}
    assert {c.what: c.met for c in edges.targets(slow)}["hub, bf16: rate of edges over that without a hub"] is False
