"""10. What does a call cost if there is hardly anything to compute: microseconds per call, and small shapes?"""

from functools import partial

from benchmarks.case import Bench, Case
from benchmarks.comparison import attention_case, call, shape_of
from benchmarks.inputs import AttentionInputs, Problem, tokens_of
from benchmarks.providers import BAND, DENSE, GRAPH, KERNELS, SDPA
from benchmarks.rows import Row
from benchmarks.sizes import base
from benchmarks.timing import wall_times

CALLS = 100
"""The number of calls that are timed together, since a single one is too short for the clock"""


def cases(device: str, quick: bool) -> list[Case]:
    dtype = base(device, quick).dtype
    tiny = Problem(T=2, P=4, C=8, H=1, D=8, dtype=dtype)
    small = [Problem(T=T, P=P, C=384, H=6, D=64, dtype=dtype) for T, P in ((1, 49), (4, 49), (8, 64), (1, 256))]
    return [
        Case("one call, B=1 T=2 P=4 H=1 D=8", partial(one_call, problem=tiny)),
        *(attention_case(problem, (DENSE, SDPA, BAND, *KERNELS), backward=True) for problem in small),
    ]


def one_call(bench: Bench, *, problem: Problem) -> list[Row]:
    inputs, x = AttentionInputs.make(problem, bench.device), tokens_of(problem, bench.device)
    functions, rows = {}, []
    for provider in (DENSE, SDPA, *KERNELS, *GRAPH):
        attention = provider not in GRAPH
        kinds = ("attention forward", "attention forward + backward") if attention else ("graph construction",)
        names = [f"{kind}, {provider.name}" for kind in kinds]
        if provider.compiled:
            continue
        if reason := provider.why_not(problem, bench.device, attention):
            rows += [Row(name, problem.dtype, shape_of(problem), missing=reason) for name in names]
        elif attention:
            prepared = provider.prepare(inputs)
            functions |= {name: call(prepared, inputs, name == names[1]) for name in names}
        else:
            functions[names[0]] = partial(provider.prepare(problem, bench.device), x)
    # On a GPU wall times are taken, since CUDA events would leave out the host's share.
    measure = wall_times if bench.device.type == "cuda" else bench.measure
    times = measure({name: partial(repeat, function) for name, function in functions.items()}, bench.seconds)
    return rows + [
        Row.timed(name, problem.dtype, shape_of(problem), timing.per(CALLS)) for name, timing in times.items()
    ]


def repeat(function) -> None:
    for _ in range(CALLS):
        function()
