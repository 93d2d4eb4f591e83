"""Compares the providers of attention on one problem: checks their results, and measures their memory and time."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.agreement import AttentionOracle, DisagreementError, forward_backward
from benchmarks.case import Bench, Case
from benchmarks.inputs import AttentionInputs, Problem
from benchmarks.memory import OutOfMemoryError, out_of_memory_is_an_error, peak_memory
from benchmarks.providers import Attention, Provider
from benchmarks.rows import Row
from benchmarks.timing import Timing, rotated

IN_CACHE = 256 * 2**20
"""Inputs with fewer bytes are rotated on a GPU, so that no call finds its inputs in a cache"""


def attention_case(problem: Problem, providers: Iterable[Provider], *, backward: bool, name: str | None = None) -> Case:
    compute = partial(compare_attention, problem=problem, providers=tuple(providers), backward=backward)
    return Case(name or str(problem), compute)


def compare_attention(
    bench: Bench, *, problem: Problem, providers: tuple[Provider, ...], backward: bool, keep_wrong: bool = False
) -> list[Row]:
    """The rows of the providers, after their results were compared with float64.

    A wrong result raises DisagreementError. With keep_wrong, its row has its time, and `missing` says what is wrong.
    """
    inputs = AttentionInputs.make(problem, bench.device)
    oracle = AttentionOracle(inputs, backward)
    sets = [inputs, *(inputs.copy() for _ in range(further_inputs(inputs.nbytes, bench.device)))]
    functions, memory, missing, wrong = {}, {}, {}, {}
    for provider in providers:
        if reason := why_not(provider, problem, bench, backward):
            missing[provider.name] = reason
            continue
        try:
            with out_of_memory_is_an_error(bench.device):
                calls = [call(provider.prepare(each), each, backward) for each in sets]
                results = calls[0]()  # the first call also compiles
                if not provider.bound:
                    try:
                        oracle.check(provider.name, results)
                    except DisagreementError as error:
                        if not keep_wrong:
                            raise
                        wrong[provider.name] = f"wrong: {error}"
                del results
                memory[provider.name] = peak_memory(calls[0], bench.device)
        except OutOfMemoryError as error:
            missing[provider.name] = str(error)
        except DisagreementError:
            raise
        except Exception as error:
            if not provider.compiled:
                raise
            missing[provider.name] = f"does not compile: {type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            functions[provider.name] = rotated(calls)
    times = bench.measure(functions, bench.seconds) if functions else {}

    work = problem.attention_flops(backward), problem.attention_bytes(backward)
    graph = dict(edge_density=inputs.graph.density().item(), live_tiles=inputs.live_share())
    rows = []
    for provider in providers:
        name, fields = provider.name, dict(bound=provider.bound, **graph)
        if name in missing:
            rows.append(Row(name, problem.dtype, shape_of(problem), missing=missing[name], **fields))
        else:
            fields |= dict(peak_memory=memory[name], missing=wrong.get(name))
            rows.append(timed_row(bench, problem, name, times[name], work, **fields))
    return rows


def timed_row(
    bench: Bench, problem: Problem, provider: str, timing: Timing, work: tuple[float, float], **fields: Any
) -> Row:
    """A row with rates. work: the FLOPs and bytes of the problem, whatever the provider computes."""
    flops, nbytes = work
    limit = bench.limits.seconds(flops, nbytes, problem.dtype)
    return Row.timed(
        provider, problem.dtype, shape_of(problem), timing, flops=flops, nbytes=nbytes, limit=limit, **fields
    )


def call(attention: Attention, inputs: AttentionInputs, backward: bool) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The function that is timed. It returns (out,), or (out, dq, dk, dv) with backward."""
    if backward:
        return lambda: forward_backward(attention, *inputs.tensors)

    @torch.no_grad()
    def forward() -> tuple[torch.Tensor, ...]:
        return (attention(inputs.q, inputs.k, inputs.v),)

    return forward


def why_not(provider: Provider, problem: Problem, bench: Bench, backward: bool = False) -> str | None:
    if provider.compiled and bench.quick:
        return "left out by --quick: it takes long to compile"
    return provider.why_not(problem, bench.device, backward)


def further_inputs(nbytes: int, device: torch.device) -> int:
    """The number of copies of the inputs to rotate, so that a GPU's cache no longer holds a set when its turn comes."""
    return min(IN_CACHE // nbytes, 16) if device.type == "cuda" else 0


def shape_of(problem: Problem) -> dict[str, float]:
    return {name: value for name, value in asdict(problem).items() if name not in ("dtype", "tokens")}
