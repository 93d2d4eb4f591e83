"""Compares the kernels at the paper's shape with alternatives, with the targets, and with the limit of the GPU."""

import gc
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.agreement import AttentionOracle, DisagreementError, check_graph
from benchmarks.case import Bench
from benchmarks.comparison import compare_attention, further_inputs, shape_of, timed_row
from benchmarks.gpu_check import timed
from benchmarks.gpu_check.report import Check
from benchmarks.inputs import AttentionInputs, Problem, tokens_of
from benchmarks.memory import peak_memory
from benchmarks.providers import (
    COMPILED_DENSE,
    DENSE,
    FLEX,
    FLEX_AUTOTUNED,
    FLEX_BANDED,
    FLEX_FLASH,
    GRAPH,
    KERNELS,
    Provider,
    as_banded,
)
from benchmarks.rows import Row
from benchmarks.timing import rotated

PAPER = Problem(B=20, dtype="bf16")
LONG = replace(PAPER, B=4, T=64)
CONSTRUCTION, FORWARD, BACKWARD, BOTH, LONG_BOTH = (
    "graph construction",
    "attention forward",
    "attention backward",
    "attention forward + backward",
    "attention forward + backward, T=64",
)
QUESTIONS = {CONSTRUCTION: PAPER, FORWARD: PAPER, BACKWARD: PAPER, BOTH: PAPER, LONG_BOTH: LONG}
SECONDS = {CONSTRUCTION: 0.14e-3, FORWARD: 0.35e-3, BACKWARD: 1.2e-3}
"""The targets on an H200"""
QUICK = False
FLEXES = (FLEX, FLEX_BANDED, FLEX_AUTOTUNED, FLEX_FLASH)
RIVALS = {
    CONSTRUCTION: [provider for provider in GRAPH if provider.backend is None],
    FORWARD: [DENSE, COMPILED_DENSE, FLEX],
    BACKWARD: [],
    BOTH: [DENSE, COMPILED_DENSE, *FLEXES],
    LONG_BOTH: [DENSE, COMPILED_DENSE, FLEX_BANDED],
}


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    found = timed.run("speed", out, deadline)
    rows = timed.rows(pieces(), found)
    checks = [Check(name, described(row)) for name, row in rows.items()]
    more = {"rows": [asdict(row) for row in rows.values()], "limits": found.get(timed.LIMITS)}
    return [*checks, *targets(list(rows.values()))], more


def pieces(backends: tuple[str, ...] = ("cuda", "triton")) -> timed.Pieces:
    """The measurements by name: those of our CUDA kernels come first, and those that have to compile come last."""
    chosen = [
        partial(measured, question=question, problem=problem, provider=provider)
        for question, problem in QUESTIONS.items()
        for provider in (*ours(question, backends), *RIVALS[question])
    ]
    chosen.sort(key=lambda piece: (piece.keywords["provider"].backend != "cuda", timed.compiles(piece)))
    return {f"{piece.keywords['question']}: {piece.keywords['provider'].name}": piece for piece in chosen}


def ours(question: str, backends: tuple[str, ...]) -> list[Provider]:
    everyone = GRAPH if question == CONSTRUCTION else KERNELS
    return [provider for backend in backends for provider in everyone if provider.backend == backend]


def measured(bench: Bench, question: str, problem: Problem, provider: Provider) -> Row:
    """The row of one provider. If it cannot run, or its result is wrong, the row says so.

    A wrong result keeps its time, since the first times on a new GPU are worth more than none.
    """
    gc.collect()
    torch._dynamo.reset()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        if question == CONSTRUCTION:
            row = construction(bench, problem, provider)
        elif question == BACKWARD:
            row = backward(bench, problem, provider)
        else:
            both = question != FORWARD
            row = compare_attention(bench, problem=problem, providers=(provider,), backward=both, keep_wrong=True)[0]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        row = Row(provider.name, problem.dtype, shape_of(problem), missing=reason)
    print(f"{question}: {provider.name}: {described(row)}", flush=True)
    return replace(row, question=question)


def construction(bench: Bench, problem: Problem, provider: Provider) -> Row:
    if reason := provider.why_not(problem, bench.device, False):
        return Row(provider.name, problem.dtype, shape_of(problem), missing=reason)
    x = tokens_of(problem, bench.device)
    build = provider.prepare(problem, bench.device)
    graph = as_banded(build(x), problem)
    missing = wrong(partial(check_graph, provider.name, graph, x, problem.threshold, ours=provider.backend is not None))
    density = graph.density().item()
    del graph
    memory = peak_memory(partial(build, x), bench.device)
    sets = [x, *(x.clone() for _ in range(further_inputs(x.nbytes, bench.device)))]
    timing = bench.measure({provider.name: rotated([partial(build, each) for each in sets])}, bench.seconds)
    work = problem.graph_flops(), problem.graph_bytes()
    fields = dict(peak_memory=memory, edge_density=density, missing=missing)
    return timed_row(bench, problem, provider.name, timing[provider.name], work, **fields)


def backward(bench: Bench, problem: Problem, provider: Provider) -> Row:
    """Times only the backward pass, which is repeated after a single forward pass."""
    if reason := provider.why_not(problem, bench.device, True):
        return Row(provider.name, problem.dtype, shape_of(problem), missing=reason)
    inputs = AttentionInputs.make(problem, bench.device)
    leaves = [t.requires_grad_() for t in (inputs.q, inputs.k, inputs.v)]
    out = provider.prepare(inputs)(*leaves)
    results = out.detach(), *torch.autograd.grad(out, leaves, inputs.dout, retain_graph=True)
    missing = wrong(partial(AttentionOracle(inputs, True).check, provider.name, results))
    del results
    call = partial(torch.autograd.grad, out, leaves, inputs.dout, retain_graph=True)
    memory = peak_memory(call, bench.device)
    timing = bench.measure({provider.name: call}, bench.seconds)[provider.name]
    flops = problem.attention_flops(True) - problem.attention_flops(False)
    nbytes = problem.attention_bytes(True) - problem.attention_bytes(False)
    return timed_row(bench, problem, provider.name, timing, (flops, nbytes), peak_memory=memory, missing=missing)


def wrong(check: Callable[[], None]) -> str | None:
    """Runs a check. Returns the message of its DisagreementError, or None if the result is right."""
    try:
        check()
    except DisagreementError as error:
        return f"wrong: {error}"
    return None


def described(row: Row) -> str:
    if row.median is None:
        return f"missing: {row.missing}"
    times = f"{row.median * 1e3:.3f} ms ({row.low * 1e3:.3f}-{row.high * 1e3:.3f})"
    memory = f", {row.peak_memory / 2**30:.2f} GiB" if row.peak_memory is not None else ""
    clock = f", {row.details['SM MHz']:.0f} MHz" if "SM MHz" in row.details else ""
    missing = f"; {row.missing}" if row.missing else ""
    return f"{times}, {row.tflops:.0f} TFLOP/s, {row.limit_share:.0%} of the limit{memory}{clock}{missing}"


def targets(rows: list[Row]) -> list[Check]:
    """Checks the performance targets on an H200."""
    by_key = {(row.question, row.provider): row for row in rows}
    dense, compiled = DENSE.name, COMPILED_DENSE.name

    def own_row(question: str, backend: str = "cuda") -> Row | None:
        row = by_key.get((question, f"stgt_kernels {backend}"))
        return row if row is not None and row.median is not None and row.missing is None else None

    def at_least(what: str, value: float | None, bound: float, unit: str = "x") -> Check:
        """A check of a ratio. value: None if it was not measured."""
        text = "not measured" if value is None else f"{value:.2f}{unit}"
        return Check(what, text, f">= {bound:g}{unit}", None if value is None else value >= bound)

    def ratio(question: str, name: str, attribute: str) -> float | None:
        row, own = by_key.get((question, name)), own_row(question)
        if row is None or row.missing or own is None or getattr(row, attribute) is None:
            return None
        return getattr(row, attribute) / getattr(own, attribute)

    checks = []
    for question, most in SECONDS.items():
        row = own_row(question)
        text = "did not run, or is wrong" if row is None else f"{row.median * 1e3:.3f} ms"
        met = row is not None and row.median <= most
        checks.append(Check(f"{question}, cuda", text, f"<= {most * 1e3:g} ms", met))
    flexes = [value for provider in FLEXES if (value := ratio(BOTH, provider.name, "median"))]
    checks.append(at_least(f"{BOTH}: FlexAttention's best over ours", min(flexes, default=None), 2))
    checks.append(at_least(f"{BOTH}: {dense} over ours", ratio(BOTH, dense, "median"), 30))
    checks.append(at_least(f"{BOTH}: {compiled} over ours", ratio(BOTH, compiled, "median"), 10))
    short, long = own_row(BOTH), own_row(LONG_BOTH)
    rate = long.tflops / short.tflops if short and long else None
    checks.append(at_least("T=64: rate over that at T=8", rate, 0.9))
    died = by_key.get((LONG_BOTH, dense))
    if died is not None:
        checks.append(Check(f"T=64: {dense}", described(died), "out of memory", "emory" in (died.missing or "")))
    checks.append(at_least(f"{BOTH}: peak memory, {dense} over ours", ratio(BOTH, dense, "peak_memory"), 20))
    for question in QUESTIONS:
        cuda, triton = own_row(question), own_row(question, "triton")
        share = cuda.median / triton.median if cuda and triton else None
        checks.append(at_least(f"{question}: Triton's rate over CUDA's", share, 0.7))
    return checks
