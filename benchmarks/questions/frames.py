"""6. How do time and memory grow with the number of frames, and where does dense attention run out of memory?"""

from dataclasses import replace
from functools import partial

from benchmarks.case import Bench, Case
from benchmarks.comparison import attention_case, call, shape_of, timed_row
from benchmarks.inputs import AttentionInputs, Problem
from benchmarks.memory import peak_memory
from benchmarks.providers import BAND, COMPILED_BAND, COMPILED_DENSE, DENSE, FLEX, FLEX_BANDED, KERNELS, Provider
from benchmarks.rows import Row
from benchmarks.sizes import base

SHORT, LONG = 8, 64


def cases(device: str, quick: bool) -> list[Case]:
    usual = replace(base(device, quick), B=4) if device == "cuda" else base(device, quick)
    lengths = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32, 64, 128)
    curve = [replace(usual, T=T) for T in lengths]
    return [
        *(attention_case(problem, providers(device, problem), backward=True) for problem in curve),
        Case(f"{replace(usual, T=LONG)} and T={SHORT} in turns", partial(linearity, problem=usual)),
    ]


def providers(device: str, problem: Problem) -> tuple[Provider, ...]:
    if device == "cuda":
        return DENSE, COMPILED_DENSE, FLEX, FLEX_BANDED, BAND, COMPILED_BAND, *KERNELS
    # For longer clips dense attention is not left out: it runs out of memory right away.
    return left_out(DENSE, problem.N == 32 * 256), left_out(BAND, problem.N > 32 * 256), *KERNELS


def left_out(provider: Provider, slow: bool) -> Provider:
    reason = "left out: on a CPU it would take minutes"
    return replace(provider, why_not=lambda *_: reason) if slow else provider


def linearity(bench: Bench, *, problem: Problem) -> list[Row]:
    """Compares two lengths on our own backends. The memory includes the graph's weights."""
    functions, memory, sizes, rows = {}, {}, {}, []
    for provider in KERNELS:
        if reason := provider.why_not(problem, bench.device, True):
            rows.append(Row(provider.name, problem.dtype, shape_of(problem), missing=reason))
            continue
        for T in (SHORT, LONG):
            name, size = f"{provider.name}, T={T}", replace(problem, T=T)
            inputs = AttentionInputs.make(size, bench.device)
            functions[name], sizes[name] = call(provider.prepare(inputs), inputs, True), size
            functions[name]()
            memory[name] = peak_memory(functions[name], bench.device) + inputs.graph.weight.nbytes
    for name, timing in bench.measure(functions, bench.seconds).items():
        size = sizes[name]
        work = size.attention_flops(True), size.attention_bytes(True)
        rows.append(timed_row(bench, size, name, timing, work, peak_memory=memory[name]))
    return rows
