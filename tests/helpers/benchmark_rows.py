"""Made-up rows of a run, and a bench that returns a constant time."""

import torch

from benchmarks.case import Bench
from benchmarks.limits import Limits
from benchmarks.rows import Results, Row
from benchmarks.timing import Timing

ABOUT = {
    "hardware": "a CPU",
    "threads": 2,
    "torch": "2.13.0",
    "commit": "abc1234",
    "date": "2026-01-01",
    "limits": {"flops": {"fp32": 1e11}, "gemm": {"fp32": 5e10}, "bandwidth": 1e10},
}


def row(provider="eager dense", question="frames", case="T=8", median=1.0, scatter=0.01, **fields):
    fields = {"shape": {"B": 1, "T": 8, "threshold": 0.5}, "peak_memory": 2**30, **fields}
    low, high = (None, None) if median is None else (median * (1 - scatter), median * (1 + scatter))
    return Row(provider, "fp32", question=question, case=case, median=median, low=low, high=high, rounds=5, **fields)


def results(*rows):
    return Results(ABOUT, list(rows))


def bench(quick=False):
    """A bench that calls each function once, and returns the same made-up time for all."""
    limits = Limits({"fp32": 1e11, "bf16": 2e11}, {"fp32": 5e10}, 1e10)
    return Bench(torch.device("cpu"), quick, one_call_each, limits)


def one_call_each(functions, seconds):
    for function in functions.values():
        function()
    return {name: Timing(0.5, 0.4, 0.6, 1) for name in functions}
