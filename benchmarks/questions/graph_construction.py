"""1. How fast is building the graph: normalising, multiplying, thresholding and masking?"""

from functools import partial

import torch

from benchmarks.agreement import check_graph
from benchmarks.case import Bench, Case
from benchmarks.comparison import further_inputs, shape_of, timed_row, why_not
from benchmarks.inputs import Problem, tokens_of
from benchmarks.memory import peak_memory
from benchmarks.providers import GRAPH, as_banded
from benchmarks.rows import Row
from benchmarks.sizes import base, both_dtypes
from benchmarks.timing import rotated


def cases(device: str, quick: bool) -> list[Case]:
    return [Case(str(problem), partial(compare, problem=problem)) for problem in both_dtypes(base(device, quick))]


@torch.no_grad()
def compare(bench: Bench, *, problem: Problem) -> list[Row]:
    x = tokens_of(problem, bench.device)
    sets = [x, *(x.clone() for _ in range(further_inputs(x.nbytes, bench.device)))]
    functions, memory, rows, graph = {}, {}, [], None
    for provider in GRAPH:
        if reason := why_not(provider, problem, bench):
            rows.append(Row(provider.name, problem.dtype, shape_of(problem), missing=reason))
            continue
        build = provider.prepare(problem, bench.device)
        graph = as_banded(build(x), problem)
        check_graph(provider.name, graph, x, problem.threshold, ours=provider.backend is not None)
        functions[provider.name] = rotated([partial(build, each) for each in sets])
        memory[provider.name] = peak_memory(partial(build, x), bench.device)
    work, density = (problem.graph_flops(), problem.graph_bytes()), graph.density().item()
    for name, timing in bench.measure(functions, bench.seconds).items():
        rows.append(timed_row(bench, problem, name, timing, work, peak_memory=memory[name], edge_density=density))
    return rows
